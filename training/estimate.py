"""What training takes on paper: steps, clips, operations; hours at a run's own speed."""

import json
import statistics
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from extractors.build import build_extractor
from extractors.errors import UsageError
from pipeline import storage
from pipeline.config import ExtractConfig
from training.batches import ClipBatch
from training.clips import MODALITIES, TrackDims
from training.config import SamplingConfig, TrainConfig
from training.model import build_model

Widths = tuple[int, int, int]
"""Columns of picture (all tracks together), sound and text."""
SENTENCE_COLUMNS = 384
WORD_COLUMNS = 300


@dataclass(frozen=True)
class TrainingCost:
    """What `run train` takes."""

    epochs: int
    steps: int
    clips: float
    """Drawn in all, at most."""
    gflop_a_clip: float
    """Forward and backward."""
    hours: float | None
    """At a run's own clips a second; None without one."""

    @property
    def gflop(self) -> float:
        """10^9 operations."""
        return self.clips * self.gflop_a_clip


def training_cost(
    config: TrainConfig,
    widths: Widths,
    videos: int,
    clips_per_second: float | None = None,
) -> TrainingCost:
    """Of `config.epochs` passes; a backward pass is counted as two forward passes."""
    batch = max(1, min(config.sampling.batch_videos, videos))
    steps = config.epochs * (videos // batch)
    clips = steps * batch * config.sampling.clips_per_video
    hours = clips / clips_per_second / 3600 if clips_per_second else None
    gflop = 3 * forward_gflop(config, widths, decoders=True)
    return TrainingCost(config.epochs, steps, clips, gflop, hours)


def forward_gflop(config: TrainConfig, widths: Widths, *, decoders: bool) -> float:
    """10^9 operations of one clip of full length through the network, counted on torch's meta
    device."""
    # what is masked changes nothing in the count, and cannot be seen on the meta device
    unmasked = config.model.model_copy(update={"mask_padding": False})
    plain = config.loss.model_copy(update={"reconstruction_weight": 0.0})
    visual, audio, text = widths
    sampling = config.sampling
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model = build_model(
            config.model_copy(update={"model": unmasked, "loss": plain}),
            TrackDims((visual,) if visual else (), audio, text),
        ).eval()
        batch = ClipBatch(
            torch.zeros(1, visual),
            torch.ones(1, 1, dtype=torch.bool),
            torch.zeros(1, audio, sampling.audio_frames),
            torch.full((1,), sampling.audio_frames),
            torch.zeros(1, sampling.max_text_rows, text),
            torch.full((1,), sampling.max_text_rows),
            {name: torch.ones(1, dtype=torch.bool) for name in MODALITIES},
        )
        model(batch)
    total = float(counter.get_total_flops())
    if decoders and config.loss.reconstruction_weight > 0:
        targets = (visual, config.model.audio_widths[-1], config.model.embedding_dim)
        wanted = [target for target, width in zip(targets, widths, strict=True) if width]
        hidden = config.model.decoder_dim
        total += sum(2 * hidden * (config.model.embedding_dim + target) for target in wanted)
    return total / 1e9


def track_widths(extract: ExtractConfig, sampling: SamplingConfig) -> Widths:
    """Of a dataset that is extracted with these settings; 0 for what it does not have."""
    dims = {name: build_extractor(each).spec.dim for name, each in extract.wanted.items()}
    visual = sum(dims.get(name, 0) for name in sampling.visual_tracks)
    return visual, dims.get(sampling.audio_track, 0), _text_width(extract)


def _text_width(config: ExtractConfig) -> int:
    """Of the text models that most use; another width changes little of the operations."""
    if config.speech is None or config.text is None:
        return 0
    return WORD_COLUMNS if config.has_word_vectors else SENTENCE_COLUMNS


def clips_per_second(run: str) -> float:
    """The median of a run's log, whose first steps are slower. Raises UsageError without one."""
    url = storage.join(run, "metrics.jsonl")
    if not storage.exists(url):
        raise UsageError(f"--model {run}: has no metrics.jsonl; name a run of `pipeline run train`")
    rows = [json.loads(line) for line in storage.read_bytes(url).splitlines()]
    found = [row["clips_per_second"] for row in rows if "clips_per_second" in row]
    if not found:
        raise UsageError(f"--model {run}: its metrics.jsonl has no clips_per_second")
    return float(statistics.median(found))
