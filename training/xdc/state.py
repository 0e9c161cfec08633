"""What an XDC run carries from step to step, and how it begins.

Shapes: N videos of the set.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from extractors.xdc_encoder_file import fill_video_encoder
from extractors.xdc_networks import VideoEncoder
from training import distributed
from training.schedule import lr_factor
from training.xdc.batch_norm import span_ranks
from training.xdc.config import XdcConfig, XdcOptimiserConfig
from training.xdc.model import XdcModel
from training.xdc.pseudo_labels import PseudoLabels
from training.xdc.video_set import Numbers


@dataclass
class XdcTraining:
    """Everything that changes while training; `state` and `restore` are a checkpoint."""

    model: XdcModel
    optimiser: torch.optim.Optimizer
    autocast: torch.dtype | None = None
    """None: float32."""
    labels: dict[str, PseudoLabels] = field(default_factory=dict)
    """Of this iteration; empty before it has been clustered for."""
    before: dict[str, Numbers] = field(default_factory=dict)
    """Labels of the iteration before, to compare with."""
    iteration: int = 0
    epoch: int = 0
    """In the iteration."""
    batch: int = 0
    """The next batch of `epoch`."""
    step: int = 0
    """Steps done in the whole run."""
    best_loss: float = math.inf
    """The lowest held-out loss of the iteration."""
    bad_epochs: int = 0
    """Epochs in a row that brought no lower one."""
    settled: bool = False
    """Whether the pseudo-labels have stopped changing: the run is over."""
    epoch_sums: dict[str, float] = field(default_factory=dict)
    """Numbers of the steps of `epoch` so far, summed."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last epoch and the last clustering."""

    def begin_iteration(self, labels: Mapping[str, PseudoLabels]) -> None:
        """New labels, new heads, a new optimiser: see XdcOptimiserConfig."""
        self.labels = dict(labels)
        clusters = {name: made.clusters for name, made in labels.items()}
        self.model.renew_heads(clusters, self.iteration)
        self.optimiser = make_optimiser(self.model, self.model.config.optimiser)
        self.epoch, self.batch, self.bad_epochs, self.best_loss = 0, 0, 0, math.inf
        self.epoch_sums = {}

    def end_iteration(self) -> None:
        """The labels become those before."""
        self.before = {name: made.labels_N for name, made in self.labels.items()}
        self.labels = {}
        self.iteration, self.epoch = self.iteration + 1, 0

    @property
    def finished(self) -> bool:
        """Whether there is no iteration left."""
        return self.settled or self.iteration >= self.model.config.iterations

    def state(self) -> dict[str, Any]:
        """All of it as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict() if self.labels else {},
            "labels": {
                name: {"labels_N": torch.from_numpy(made.labels_N), "clusters": made.clusters}
                for name, made in self.labels.items()
            },
            "before": {name: torch.from_numpy(labels) for name, labels in self.before.items()},
            "position": {name: getattr(self, name) for name in POSITION},
            "epoch_sums": dict(self.epoch_sums),
            "metrics": dict(self.metrics),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to where `state` was taken."""
        for name in POSITION:
            setattr(self, name, state["position"][name])
        self.labels = {
            name: PseudoLabels(made["labels_N"].cpu().numpy(), made["clusters"])
            for name, made in state["labels"].items()
        }
        self.before = {name: labels.cpu().numpy() for name, labels in state["before"].items()}
        self.epoch_sums, self.metrics = state["epoch_sums"], state["metrics"]
        heads = {name: made.clusters for name, made in self.labels.items()}
        if heads:
            self.model.renew_heads(heads, self.iteration)
            self.optimiser = make_optimiser(self.model, self.model.config.optimiser)
            self.optimiser.load_state_dict(state["optimiser"])
        weights = {
            name: value
            for name, value in state["model"].items()
            if heads or not name.startswith("heads.")
        }
        self.model.load_state_dict(weights)


POSITION = (
    "iteration",
    "epoch",
    "batch",
    "step",
    "best_loss",
    "bad_epochs",
    "settled",
)


def start_xdc(config: XdcConfig, device: torch.device) -> XdcTraining:
    """The beginning of a run: fresh encoders from the seed, or the video encoder of a file.

    All ranks call it together and come to the same weights.
    """
    torch.manual_seed(config.seed)
    model = XdcModel(config)
    if config.video_weights is not None:
        encoder = model.encoders["video"]
        assert isinstance(encoder, VideoEncoder)
        fill_video_encoder(encoder, Path(config.video_weights))
    model = model.to(device).train()
    if distributed.world()[1] > 1:
        span_ranks(model)
        distributed.copy_from_first(model.state_dict().values())
    half = config.precision == "bfloat16" and device.type == "cuda"
    optimiser = make_optimiser(model, config.optimiser)
    return XdcTraining(model, optimiser, autocast=torch.bfloat16 if half else None)


def make_optimiser(model: XdcModel, config: XdcOptimiserConfig) -> torch.optim.Optimizer:
    """Over encoders and heads."""
    if config.name == "adamw":
        return torch.optim.AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        model.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay
    )


def learning_rate(config: XdcOptimiserConfig, step: int, total: int) -> float:
    """Of step `step` (from 0) of an iteration of at most `total` steps."""
    if config.schedule == "cosine":
        return config.lr * lr_factor(step, config.warmup_steps, total)
    warmup = min(config.warmup_steps, total // 10)
    return config.lr * min(1.0, (step + 1) / warmup if warmup else 1.0)
