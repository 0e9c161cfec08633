"""One step of XDC, and the held-out loss.

Shapes: B clips of this rank, N videos of the set.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from extractors.errors import AbortError
from training import distributed
from training.xdc.clips import ClipRef, uniform_clips
from training.xdc.config import XdcConfig
from training.xdc.embedding import to_device
from training.xdc.model import head_sums
from training.xdc.pseudo_labels import PseudoLabels
from training.xdc.reading import ClipBatch, ClipLoader
from training.xdc.state import XdcTraining
from training.xdc.supervision import HEADS, MODALITIES, Modality
from training.xdc.video_set import Flags, Numbers, VideoSet


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
    """loss (the sum over heads), and `loss_HEAD`, `accuracy_HEAD` of each; `unread_share` of the
    pictures, where they come from the videos' own files."""
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
    present = _present(training, share, batch, videos, device)
    counts = present.heads
    resting = frozenset(m for m in MODALITIES if present.clips[m] < 2)  # one value has no variance
    sums = _sums(training, batch, present, device, resting)
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
    if videos.uris:
        numbers["unread_share"] = present.unread_share
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
    counts = dict.fromkeys(names, 0)
    training.model.eval()
    with torch.no_grad():
        batches = loader.read([share.own for share in shares])
        for share, batch in zip(shares, batches, strict=True):
            present = _present(training, share, batch, videos, device)
            counts = {name: counts[name] + present.heads[name] for name in names}
            for name, pair in _sums(training, batch, present, device).items():
                for total, value in zip(totals[name], pair, strict=True):
                    total += value
    training.model.train()
    if not any(counts.values()):
        return {}
    found = _numbers({n: (loss, right) for n, (loss, right) in totals.items()}, counts, device)
    return {f"held_out_{name}": value for name, value in found.items()}


@dataclass(frozen=True)
class _Present:
    """What of a batch is there: pictures that could not be read are not."""

    own: Numbers
    """(B,) the videos of this rank's clips."""
    has: dict[Modality, Flags]
    """(B,) which of this rank's clips have the modality."""
    clips: dict[Modality, int]
    """Clips of all ranks that have it."""
    heads: dict[str, int]
    """Clips of all ranks that train each head."""
    unread_share: float
    """Of the pictures of all ranks."""


def _present(
    training: XdcTraining,
    share: Share,
    batch: ClipBatch,
    videos: VideoSet,
    device: torch.device,
) -> _Present:
    """What is planned is known to all ranks, what could not be read they tell each other."""
    own = np.array([clip.video for clip in share.own], np.int64)
    whole = np.array([clip.video for clip in share.whole], np.int64)
    has: dict[Modality, Flags] = {m: videos.has(m)[own] for m in MODALITIES}
    clips = {m: int(videos.has(m)[whole].sum()) for m in MODALITIES}
    heads, pictures = head_counts(training, share.whole, videos), clips["video"]
    if videos.uris:
        has["video"][batch.unread_places] = False
        lost = head_counts(training, [share.own[place] for place in batch.unread_places], videos)
        names = [
            head.name for head in HEADS[training.model.config.method] if head.encoder == "video"
        ]
        numbers = [len(batch.unread), *(lost[name] for name in names)]
        told = torch.tensor(numbers, dtype=torch.int64, device=device)
        unread, *of_heads = distributed.sum_over_ranks(told).tolist()
        clips["video"] -= unread
        heads |= {name: heads[name] - n for name, n in zip(names, of_heads, strict=True)}
    return _Present(own, has, clips, heads, 1 - clips["video"] / max(1, pictures))


def _sums(
    training: XdcTraining,
    batch: ClipBatch,
    present: _Present,
    device: torch.device,
    resting: frozenset[Modality] = frozenset(),
) -> dict[str, tuple[Tensor, Tensor]]:
    """`head_sums` of this rank's clips."""
    has: dict[Modality, Tensor] = {
        modality: torch.from_numpy(flags).to(device) for modality, flags in present.has.items()
    }
    labels = {
        name: torch.from_numpy(made.labels_N[present.own]).to(device)
        for name, made in training.labels.items()
    }
    kind, enabled = device.type, training.autocast is not None
    with torch.autocast(kind, training.autocast, enabled=enabled):
        return head_sums(training.model, to_device(batch, device), has, labels, resting)


def head_counts(
    training: XdcTraining, clips: Sequence[ClipRef], videos: VideoSet
) -> dict[str, int]:
    """How many of the clips are to train each head."""
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
