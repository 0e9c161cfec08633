"""An XDC encoder and a new linear layer on labels: fc-only and full fine-tuning, split by split.

The protocol of the paper's evaluation of video (arXiv 1911.12667): random clips of the training
videos, then the mean of the class probabilities of uniformly spaced clips of each test video.
Shapes: N videos of the dataset, B clips of a batch, D columns of the encoder, L labels.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from extractors.errors import AbortError, UsageError
from extractors.weights import weights_digest
from extractors.xdc_model import normalise_frames, normalise_mel
from training.labelled_videos import EncoderFile, make_encoder, open_encoder, open_labelled_videos
from training.probe_config import FinetuneConfig
from training.protocols.split_tables import SplitTable
from training.provenance import check_current
from training.split_scores import (
    ScoreRow,
    SplitScore,
    draw_training,
    majority_share,
    score_clips,
    score_row,
)
from training.xdc.clips import ClipRef, draw_clips, uniform_clips
from training.xdc.embedding import to_device
from training.xdc.reading import ClipBatch, ClipLoader
from training.xdc.supervision import Modality
from training.xdc.video_set import Flags, VideoSet

HEAD_STD = 0.01
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneReport:
    """What was measured on a dataset."""

    labelled: int
    """Videos of the table."""
    absent: int
    """Those of them that the dataset does not hold; left out."""
    without: int
    """Those that it holds and that lack what the encoder takes; left out."""
    encoder_sha256: str
    """Of the encoder's file."""
    row: ScoreRow


@dataclass
class _Learner:
    """What one split trains."""

    encoder: nn.Module
    head: nn.Linear
    optimiser: torch.optim.Optimizer
    file: EncoderFile
    trained: bool
    """Whether the encoder learns too."""

    def logits(self, batch: ClipBatch) -> Tensor:
        """(B, L)"""
        if self.file.modality == "video":
            inputs = normalise_frames(batch.frames_BTHWC)
        else:
            inputs = normalise_mel(batch.mel_BMR, self.file.reading.audio)
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            vectors_BD = self.encoder(inputs)
        found_BL: Tensor = self.head(vectors_BD)
        return found_BL

    def train(self, mode: bool) -> None:
        """A frozen encoder keeps its running statistics."""
        self.encoder.train(mode and self.trained)
        self.head.train(mode)


def evaluate_finetune(
    model: str,
    dataset: str,
    table: SplitTable,
    modality: Modality,
    config: FinetuneConfig | None = None,
    audio_track: str = "mel",
    device: torch.device | None = None,
) -> FinetuneReport:
    """Video-level accuracy of a run's encoder after training on each split's labels.

    `model` is an XDC run or an encoder's file. Every split begins with the encoder as it is there.
    The same seed gives the same numbers on the CPU. Raises UsageError for a dataset, an encoder or
    a split that does not fit, AbortError where the loss is not finite.
    """
    config, device = config or FinetuneConfig(), device or torch.device("cpu")
    check_current(dataset)
    file = open_encoder(model, modality, audio_track, config)
    videos = open_labelled_videos(dataset, table, file)
    usable_N = videos.has(modality)
    scores = []
    with ClipLoader(videos, file.reading, device) as loader:
        for split in table.parts:
            train_N, test_N = _parts(videos, table, split, usable_N, config)
            learner = _train(file, videos, loader, train_N, config, device, split)
            scores.append(_test(learner, videos, loader, train_N, test_N, config, device, split))
    measure = {"fc": "fc only", "all": "full fine-tuning"}[config.trained]
    measure += ", from scratch" if config.from_scratch else ""
    return FinetuneReport(
        labelled=len(table.keys),
        absent=len(table.keys) - len(videos),
        without=int((~usable_N).sum()),
        encoder_sha256=weights_digest("xdc", str(file.path)),
        row=score_row(modality, measure, scores),
    )


def rate_factor(config: FinetuneConfig, step: int, steps_an_epoch: int) -> float:
    """What the learning rates are multiplied by in step `step` (from 0)."""
    warmup = config.warmup_epochs * steps_an_epoch
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    drops = sum(step // steps_an_epoch >= epoch for epoch in config.drop_epochs)
    return float(rise * config.drop_factor**drops)


def _parts(
    videos: VideoSet, table: SplitTable, split: str, usable_N: Flags, config: FinetuneConfig
) -> tuple[Flags, Flags]:
    """(N,) which videos are trained on and which are tested."""
    marks = dict(zip(table.keys, table.parts[split].tolist(), strict=True))
    mark_N = np.array([marks[key] for key in videos.keys])
    train_N, test_N = (usable_N & (mark_N == part) for part in ("train", "test"))
    for what, part_N in (("to train on", train_N), ("to test", test_N)):
        if not part_N.any():
            raise UsageError(f"{videos.dataset}: split {split}: no video {what} is there")
    labels_N = videos.label_N.astype(np.str_)
    return draw_training(labels_N, train_N, config.labels, config.seed), test_N


def _learner(
    file: EncoderFile, classes: int, config: FinetuneConfig, device: torch.device
) -> _Learner:
    torch.manual_seed(config.seed)
    encoder = make_encoder(file, fresh=config.from_scratch)
    head = nn.Linear(int(encoder.dim), classes)  # type: ignore[arg-type]
    nn.init.normal_(head.weight, std=HEAD_STD)
    nn.init.zeros_(head.bias)
    encoder, head = encoder.to(device), head.to(device)
    groups = [{"params": head.parameters(), "top": config.head_lr}]
    if config.trained == "all":
        groups.append({"params": encoder.parameters(), "top": config.lr})
    optimiser = torch.optim.SGD(
        groups, config.lr, config.momentum, weight_decay=config.weight_decay
    )
    return _Learner(encoder, head, optimiser, file, config.trained == "all")


def _train(
    file: EncoderFile,
    videos: VideoSet,
    loader: ClipLoader,
    train_N: Flags,
    config: FinetuneConfig,
    device: torch.device,
    split: str,
) -> _Learner:
    labels = np.unique(videos.label_N[train_N])
    learner = _learner(file, len(labels), config, device)
    number_N = np.searchsorted(labels, videos.label_N)
    for epoch in range(config.epochs):
        plan = _epoch_plan(train_N, file, config, epoch)
        learner.train(True)
        losses = []
        for i, (clips, batch) in enumerate(zip(plan, loader.read(plan), strict=True)):
            factor = rate_factor(config, epoch * len(plan) + i, len(plan))
            for group in learner.optimiser.param_groups:
                group["lr"] = group["top"] * factor
            wanted_B = torch.from_numpy(number_N[[clip.video for clip in clips]]).to(device)
            logits_BL = learner.logits(to_device(batch, device))
            loss = nn.functional.cross_entropy(logits_BL, wanted_B)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise AbortError(
                    f"split {split}, epoch {epoch + 1}: the loss is {losses[-1]}; lower --lr and "
                    "--head-lr"
                )
            learner.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            learner.optimiser.step()
        mean = float(np.mean(losses))
        logger.info("split %s, epoch %d of %d: loss %.3f", split, epoch + 1, config.epochs, mean)
    return learner


def _epoch_plan(
    train_N: Flags, file: EncoderFile, config: FinetuneConfig, epoch: int
) -> list[list[ClipRef]]:
    """Full batches only, one smaller one where there are fewer clips."""
    count = int(train_N.sum()) * config.clips_per_video
    size = min(config.batch_clips, count)
    rng = np.random.default_rng((config.seed, epoch, 0))
    clips = draw_clips(train_N, {}, count // size * size, file.reading, rng)
    return [clips[first : first + size] for first in range(0, len(clips), size)]


def _test(
    learner: _Learner,
    videos: VideoSet,
    loader: ClipLoader,
    train_N: Flags,
    test_N: Flags,
    config: FinetuneConfig,
    device: torch.device,
    split: str,
) -> SplitScore:
    names_N = videos.label_N.astype(np.str_)
    tested = np.flatnonzero(test_N)
    learner.train(False)
    with torch.no_grad():
        scores_NL = np.concatenate(list(_probabilities(learner, loader, tested, config, device)))
    label_V, labels = names_N[tested], np.unique(videos.label_N[train_N]).astype(np.str_)
    video_N = np.repeat(np.arange(len(tested)), config.test_clips)
    accuracy, clip_accuracy = score_clips(scores_NL, labels, label_V, video_N)
    return SplitScore(
        split=split,
        accuracy=accuracy,
        clip_accuracy=clip_accuracy,
        chance=1 / len(labels),
        majority=majority_share(names_N[train_N], label_V),
        classes=len(labels),
        train_videos=int(train_N.sum()),
        train_clips=int(train_N.sum()) * config.clips_per_video,
        test_videos=len(tested),
        test_clips=len(video_N),
    )


def _probabilities(
    learner: _Learner,
    loader: ClipLoader,
    tested: NDArray[np.int64],
    config: FinetuneConfig,
    device: torch.device,
) -> Iterator[NDArray[np.float64]]:
    """(B, L) of the uniform clips, video by video."""
    clips = [clip for video in tested.tolist() for clip in uniform_clips(video, config.test_clips)]
    size = config.batch_clips
    plan = [clips[first : first + size] for first in range(0, len(clips), size)]
    for batch in loader.read(plan):
        yield learner.logits(to_device(batch, device)).double().softmax(dim=1).cpu().numpy()
