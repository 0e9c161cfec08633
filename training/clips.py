"""Clips: which intervals of a video are used, and what of its tracks and text lies in them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.errors import AbortError
from extractors.tracks import Segment
from pipeline.samples import VideoSample
from training.config import SamplingConfig

MODALITIES = ("video", "audio", "text")

Float32 = NDArray[np.float32]


@dataclass(frozen=True, order=True)
class Clip:
    """A half-open interval of one video, in seconds."""

    start: float
    end: float

    def __post_init__(self) -> None:
        if not self.end > self.start:
            raise ValueError(f"a clip ends after it starts, got [{self.start}, {self.end})")


@dataclass(frozen=True)
class TrackDims:
    """Widths of what a dataset holds; 0 for a modality it does not have."""

    visual: tuple[int, ...]
    """Columns of each visual track, in the order of `sampling.visual_tracks`."""
    audio: int
    """Mel bins."""
    text: int
    """Columns of the text vectors."""


@dataclass(frozen=True)
class ClipInputs:
    """What the model takes of one clip, not padded."""

    visual: Float32 = field(repr=False)
    """(sum of visual dims,): max over time, unit length per track; an absent track is zero."""
    visual_parts: NDArray[np.bool_]
    """(visual tracks,): which of them the clip has."""
    spectrogram: Float32 = field(repr=False)
    """(n_mels, frames), decibels; 0 frames where there is no sound."""
    text: Float32 = field(repr=False)
    """(rows, dim), words or sentences; 0 rows where nothing is said."""

    @property
    def present(self) -> dict[str, bool]:
        """Which modalities the clip has."""
        audio, text = self.spectrogram.shape[1] > 0, len(self.text) > 0
        return dict(zip(MODALITIES, (bool(self.visual_parts.any()), audio, text), strict=True))


def read_tracks(config: SamplingConfig) -> tuple[str, ...]:
    """The tracks of the modalities that are read, 'text' for the text vectors."""
    visual = config.visual_tracks if "video" in config.modalities else ()
    audio = (config.audio_track,) if "audio" in config.modalities else ()
    return (*visual, *audio, *(("text",) if "text" in config.modalities else ()))


def video_clips(sample: VideoSample, window: float, overlap: float = 0.0) -> tuple[Clip, ...]:
    """The clips a video is evaluated and, unless told otherwise, indexed by.

    A video with speech gives one clip a segment, in time order, equal intervals once; one without
    gives `windows`.
    """
    spoken = [Clip(start, end) for start, end, _ in _speech(sample)]
    return tuple(dict.fromkeys(spoken)) if spoken else windows(sample.duration, window, overlap)


def windows(duration: float, length: float, overlap: float = 0.0) -> tuple[Clip, ...]:
    """Intervals of `length` seconds, each beginning `overlap` before the end of the last one.

    A rest that would add less than half a step joins the last one, so that it ends with the video;
    `overlap` must be less than `length`.
    """
    step = length - overlap
    count = max(1, math.floor((duration - overlap) / step + 0.5))
    starts = [step * i for i in range(count)]
    ends = [*(start + length for start in starts[:-1]), duration]
    return tuple(Clip(start, end) for start, end in zip(starts, ends, strict=True) if end > start)


def draw_clips(
    sample: VideoSample, config: SamplingConfig, rng: np.random.Generator
) -> tuple[Clip, ...]:
    """`clips_per_video` random clips for training (methods: MCN released code, clip sampling).

    Segments are drawn uniformly with replacement and grown to `min_time`. A video without speech
    (or every one under `random_windows`) gives windows of `min_time` at random whole seconds.
    With `deduplicate` each clip comes once, in the order of its first draw.
    """
    speech = _speech(sample)
    if speech and not config.random_windows:
        spans = [(start, end) for start, end, _ in speech]
        indices = rng.integers(len(spans), size=config.clips_per_video)
        drawn = [grow_clip(spans, int(index), config.min_time) for index in indices]
    elif sample.duration > 0:
        room = max(0, math.floor(sample.duration - config.min_time))
        starts = rng.integers(room + 1, size=config.clips_per_video)
        ends = np.minimum(starts + config.min_time, sample.duration)
        drawn = [Clip(float(s), float(e)) for s, e in zip(starts, ends, strict=True)]
    else:
        drawn = []
    return tuple(dict.fromkeys(drawn)) if config.deduplicate else tuple(drawn)


def grow_clip(spans: list[tuple[float, float]], index: int, min_time: float) -> Clip:
    """Grows span `index` until it lasts `min_time` or there is nothing left to add.

    Each step adds the neighbour, previous or next, that gives the shorter total, the previous
    on ties; at a border the only one left. `spans` are (start, end), sorted by start.
    """
    first = last = index
    while spans[last][1] - spans[first][0] < min_time and (first > 0 or last < len(spans) - 1):
        with_previous = spans[last][1] - spans[first - 1][0] if first > 0 else math.inf
        with_next = spans[last + 1][1] - spans[first][0] if last < len(spans) - 1 else math.inf
        if with_previous <= with_next:
            first -= 1
        else:
            last += 1
    return Clip(spans[first][0], max(end for _, end in spans[first : last + 1]))


def clip_inputs(
    sample: VideoSample, clip: Clip, config: SamplingConfig, dims: TrackDims
) -> ClipInputs:
    """What of a video lies in a clip.

    Text rows, words or sentences, are those of the segments whose middle lies in the clip, at most
    `max_text_rows`;
    the spectrogram keeps its first `audio_frames`. Raises AbortError where a track's width is
    not the dataset's.
    """
    pooled = [
        _pool_track(sample, name, clip, dim)
        for name, dim in zip(config.visual_tracks, dims.visual, strict=True)
    ]
    return ClipInputs(
        visual=np.concatenate([part for part, _ in pooled]),
        visual_parts=np.array([there for _, there in pooled], dtype=bool),
        spectrogram=_rows(sample, config.audio_track, clip, dims.audio)[: config.audio_frames].T,
        text=_text_rows(sample, clip, dims.text)[: config.max_text_rows],
    )


def _speech(sample: VideoSample) -> list[tuple[float, float, int]]:
    """(start, end, index) of the segments that last, cut to the video, sorted by time."""
    cut = [
        (max(0.0, segment.start), min(segment.end, sample.duration), index)
        for index, segment in enumerate(sample.segments)
    ]
    return sorted(piece for piece in cut if piece[1] > piece[0])


def _rows(sample: VideoSample, name: str, clip: Clip, dim: int) -> Float32:
    """(T', dim) rows of a track in a clip; (0, dim) where the video has no such track."""
    track = sample.tracks.get(name)
    if track is None or dim == 0:
        return np.zeros((0, dim), dtype=np.float32)
    _check_width(sample.key, name, track.rows.shape[1], dim)
    return _float32(track.between(clip.start, clip.end))


def _float32(rows: NDArray[np.generic]) -> Float32:
    """A copy, by torch, which converts many half floats at a time."""
    whole: Float32 = torch.from_numpy(np.require(rows, requirements=["C", "W"])).float().numpy()
    return whole


def _pool_track(sample: VideoSample, name: str, clip: Clip, dim: int) -> tuple[Float32, bool]:
    """Max over time, then unit length (MCN, visual features)."""
    rows = _rows(sample, name, clip, dim)
    if len(rows) == 0:
        return np.zeros(dim, dtype=np.float32), False
    pooled = rows.max(axis=0)
    return pooled / np.maximum(np.linalg.norm(pooled), np.float32(1e-12)), True


def _text_rows(sample: VideoSample, clip: Clip, dim: int) -> Float32:
    if sample.text is None or dim == 0:
        return np.zeros((0, dim), dtype=np.float32)
    _check_width(sample.key, "text", sample.text.shape[1], dim)
    inside = [i for i, segment in enumerate(sample.segments) if _middle_in(segment, clip)]
    inside.sort(key=lambda i: (sample.segments[i].start, i))
    offsets = text_offsets(sample)
    rows = [sample.text[offsets[i] : offsets[i + 1]] for i in inside]
    return _float32(np.concatenate([sample.text[:0], *rows]))


def text_offsets(sample: VideoSample) -> Sequence[int]:
    """Segment i has the rows `offsets[i]:offsets[i + 1]` of `sample.text`: its words' vectors in
    order, or the one of its sentence.

    Raises AbortError where the rows are not as many as the segments need.
    """
    assert sample.text is not None
    stored = sample.text_offsets
    offsets = range(len(sample.text) + 1) if stored is None else stored.tolist()
    ends = (offsets[0], offsets[-1], len(offsets)) if len(offsets) else ()
    if sample.text.ndim != 2 or ends != (0, len(sample.text), len(sample.segments) + 1):
        raise AbortError(
            f"video {sample.key}: text of shape {sample.text.shape} for {len(sample.segments)} "
            "segments; extract the dataset again"
        )
    return offsets


def _middle_in(segment: Segment, clip: Clip) -> bool:
    """Whether a segment belongs to a clip. Half open, so that adjacent clips share none."""
    return clip.start <= (segment.start + segment.end) / 2 < clip.end


def _check_width(key: str, name: str, width: int, expected: int) -> None:
    if width != expected:
        raise AbortError(
            f"video {key}: track {name} has {width} columns, expected {expected} as in the model "
            "and the rest of the dataset; extract the dataset with one configuration"
        )
