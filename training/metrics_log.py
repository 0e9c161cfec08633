"""metrics.jsonl and TensorBoard of a run, and Weights & Biases where it is asked for."""

import hashlib
import importlib
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from extractors.errors import UsageError
from pipeline import storage
from training.config import TrainConfig
from training.xdc.config import XdcConfig


def check_wandb(project: str | None) -> None:
    """Raises UsageError where Weights & Biases is asked for and not installed."""
    if project is not None and find_spec("wandb") is None:
        raise UsageError(
            f"train.wandb_project = {project!r}: the package wandb is not installed; "
            "pip install wandb, or set it to null"
        )


class MetricsLog:
    """Rows of numbers by step. A run that resumes goes on as if it had never stopped.

    metrics.jsonl is published whole with every checkpoint, so it never runs ahead of it.
    TensorBoard is written as training goes, on a local disk only; Weights & Biases where
    `config.wandb_project` names a project, the run's id there following from its path.
    """

    def __init__(self, run: str, first_step: int, config: TrainConfig | XdcConfig) -> None:
        """Opens the log of a run whose next step is `first_step`; later rows are dropped."""
        self._url = storage.join(run, "metrics.jsonl")
        lines = storage.read_bytes(self._url).splitlines() if storage.exists(self._url) else []
        self._lines = [
            line.decode() for line in lines if int(json.loads(line)["step"]) < first_step
        ]
        folder: Path | None = storage.local_path(storage.join(run, "tensorboard"))
        self._writer = (
            SummaryWriter(str(folder), purge_step=first_step or None)
            if folder is not None
            else None
        )
        self._wandb = _start_wandb(run, config) if config.wandb_project is not None else None

    def write(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Adds one row."""
        self._lines.append(json.dumps({"step": step, "epoch": epoch, **values}))
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"train/{name}", value, step)
        if self._wandb is not None:
            named = {f"train/{name}": value for name, value in values.items()}
            self._wandb.log(named, step=step)

    def publish(self) -> None:
        """Publishes metrics.jsonl."""
        text = "".join(line + "\n" for line in self._lines)
        storage.publish_bytes(self._url, text.encode())

    def close(self) -> None:
        """Flushes and closes TensorBoard's file, and ends the run at Weights & Biases."""
        if self._writer is not None:
            self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()


def _start_wandb(run: str, config: TrainConfig | XdcConfig) -> Any:
    """The same run there when this one resumes; it ignores steps that it has already."""
    place = storage.local_path(run)
    url = str(place) if place is not None else run
    return importlib.import_module("wandb").init(
        project=config.wandb_project,
        name=url.rstrip("/").rsplit("/", 1)[-1],
        id=hashlib.sha256(url.encode()).hexdigest()[:16],
        resume="allow",
        config=config.model_dump(mode="json"),
    )
