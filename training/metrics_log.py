"""metrics.jsonl and TensorBoard of a run."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from pipeline import storage


class MetricsLog:
    """Rows of numbers by step. A run that resumes goes on as if it had never stopped.

    metrics.jsonl is published whole with every checkpoint, so it never runs ahead of it.
    TensorBoard is written as training goes, on a local disk only.
    """

    def __init__(self, run: str, first_step: int) -> None:
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

    def write(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Adds one row."""
        self._lines.append(json.dumps({"step": step, "epoch": epoch, **values}))
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"train/{name}", value, step)

    def publish(self) -> None:
        """Publishes metrics.jsonl."""
        text = "".join(line + "\n" for line in self._lines)
        storage.publish_bytes(self._url, text.encode())

    def close(self) -> None:
        """Flushes and closes TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()
