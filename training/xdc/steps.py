"""What an XDC run carries from step to step, one step, and the held-out loss.

Shapes: B clips of this rank.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from extractors.errors import AbortError
from extractors.xdc_encoder_file import fill_video_encoder
from extractors.xdc_networks import VideoEncoder
from training import distributed
from training.schedule import lr_factor
from training.xdc.batch_norm import span_ranks
from training.xdc.clips import ClipRef, uniform_clips
from training.xdc.config import XdcConfig, XdcOptimiserConfig
from training.xdc.embedding import to_device
from training.xdc.model import XdcModel, head_sums
from training.xdc.pseudo_labels import PseudoLabels
from training.xdc.reading import ClipBatch, ClipLoader
from training.xdc.supervision import HEADS, MODALITIES, Modality
from training.xdc.video_set import Flags, Numbers, VideoSet


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


def usable(videos: VideoSet, labels: Mapping[str, PseudoLabels], config: XdcConfig) -> Flags:
    """(N,) the videos, held out or not, that train a head: they have its encoder's modality and a
    label of its set."""
    found: Flags = np.zeros(len(videos), np.bool_)
    for head in HEADS[config.method]:
        found |= videos.has(head.encoder) & (labels[head.labels].labels_N >= 0)
    return found


@dataclass(frozen=True)
class Share:
    """A batch of all ranks, and what of it is this rank's."""

    whole: Sequence[ClipRef]

    @property
    def own(self) -> Sequence[ClipRef]:
        """This rank's clips."""
        return self.whole[distributed.own_share(len(self.whole))]


@dataclass(frozen=True)
class XdcReport:
    """What a step says of itself; the same on all ranks."""

    numbers: dict[str, float]
    """loss (the sum over heads), and `loss_HEAD`, `accuracy_HEAD` of each."""
    lr: float


def training_step(
    training: XdcTraining,
    share: Share,
    batch: ClipBatch,
    videos: VideoSet,
    lr: float,
    device: torch.device,
) -> XdcReport:
    """One step on this rank's share of a batch; all ranks call it together.

    Loss (arXiv 1911.12667): the sum over heads of the mean cross-entropy over the clips that train
    the head, of all ranks. Raises AbortError, before any update, where it is not finite.
    """
    for group in training.optimiser.param_groups:
        group["lr"] = lr
    sums = _sums(training, share, batch, videos, device)
    counts = head_counts(training, share.whole, videos)
    terms = [loss / counts[name] for name, (loss, _) in sums.items() if counts[name]]
    numbers = _numbers(sums, counts, device)
    if not math.isfinite(numbers["loss"]):
        raise AbortError(
            f"step {training.step + 1}: the loss is {numbers['loss']} ({numbers}); lower "
            "xdc.optimiser.lr"
        )
    training.optimiser.zero_grad(set_to_none=True)
    if terms:  # else all that these clips could train rests
        torch.stack(terms).sum().backward()  # type: ignore[no-untyped-call]
        distributed.sum_gradients(training.model)
        training.optimiser.step()
    return XdcReport(numbers, lr)


def held_out_numbers(
    training: XdcTraining, videos: VideoSet, loader: ClipLoader, device: torch.device
) -> dict[str, float]:
    """`held_out_loss` and its terms over the middle clip of every held-out video, in evaluation
    mode; empty where there is none. All ranks call it together."""
    chosen_N = videos.held_out_N & usable(videos, training.labels, training.model.config)
    clips = [uniform_clips(int(video), 1)[0] for video in np.flatnonzero(chosen_N)]
    size = training.model.config.sampling.batch_clips
    shares = [Share(clips[first : first + size]) for first in range(0, len(clips), size)]
    names = [head.name for head in HEADS[training.model.config.method]]
    totals = {name: [torch.zeros((), device=device) for _ in range(2)] for name in names}
    training.model.eval()
    with torch.no_grad():
        batches = loader.read([share.own for share in shares])
        for share, batch in zip(shares, batches, strict=True):
            for name, pair in _sums(training, share, batch, videos, device, rest=False).items():
                for total, value in zip(totals[name], pair, strict=True):
                    total += value
    training.model.train()
    counts = head_counts(training, clips, videos)
    if not any(counts.values()):
        return {}
    found = _numbers({n: (loss, right) for n, (loss, right) in totals.items()}, counts, device)
    return {f"held_out_{name}": value for name, value in found.items()}


def _sums(
    training: XdcTraining,
    share: Share,
    batch: ClipBatch,
    videos: VideoSet,
    device: torch.device,
    rest: bool = True,
) -> dict[str, tuple[Tensor, Tensor]]:
    """`head_sums` of this rank's clips. While training (`rest`) an encoder rests that has fewer
    than two clips in the batch of all ranks: one value has no variance."""
    own = np.array([clip.video for clip in share.own], np.int64)
    whole = np.array([clip.video for clip in share.whole], np.int64)
    has: dict[Modality, Tensor] = {
        modality: torch.from_numpy(videos.has(modality)[own]).to(device) for modality in MODALITIES
    }
    labels = {
        name: torch.from_numpy(made.labels_N[own]).to(device)
        for name, made in training.labels.items()
    }
    least = 2 if rest else 0
    resting = frozenset(m for m in MODALITIES if videos.has(m)[whole].sum() < least)
    kind, enabled = device.type, training.autocast is not None
    with torch.autocast(kind, training.autocast, enabled=enabled):
        return head_sums(training.model, to_device(batch, device), has, labels, resting)


def head_counts(
    training: XdcTraining, clips: Sequence[ClipRef], videos: VideoSet
) -> dict[str, int]:
    """How many of the clips train each head."""
    index = np.array([clip.video for clip in clips], np.int64)
    return {
        head.name: int(
            (videos.has(head.encoder)[index] & (training.labels[head.labels].labels_N[index] >= 0))
            .sum()
        )
        for head in HEADS[training.model.config.method]
    }  # fmt: skip


def _numbers(
    sums: Mapping[str, tuple[Tensor, Tensor]], counts: Mapping[str, int], device: torch.device
) -> dict[str, float]:
    """Means over the clips of all ranks; a head without a clip has no number."""
    names = [name for name in sums if counts[name]]
    pairs = [torch.stack([loss.detach().float(), right.float()]) for loss, right in sums.values()]
    kept = [pair for name, pair in zip(sums, pairs, strict=True) if counts[name]]
    total = distributed.sum_over_ranks(torch.stack(kept)) if kept else torch.zeros(0, 2)
    values = total.tolist()
    found = {"loss": sum(loss / counts[n] for n, (loss, _) in zip(names, values, strict=True))}
    for name, (loss, right) in zip(names, values, strict=True):
        found |= {f"loss_{name}": loss / counts[name], f"accuracy_{name}": right / counts[name]}
    return found
