"""Published clips with one caption each: YouCook2 and MSR-VTT as MCN's and EAO's pickles.

A pickle is a list of dicts with `id`, `2d` and `3d` (pooled or over time; or `2d_pooled`,
`3d_pooled`), `audio` (mels, frames) and `caption` (`eval_caption` where there are several).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.errors import UsageError
from pipeline.restricted_pickle import read_pickle
from training.clips import ClipInputs, Float32, TrackDims
from training.embedding import unit_rows

YOUTUBE_ID = 11


@dataclass(frozen=True)
class CaptionedClip:
    """One clip of a published dataset: what was extracted of it, and its caption."""

    id: str
    caption: str
    visual: tuple[Float32 | None, ...] = field(repr=False)
    """(F,) 2D and 3D, max-pooled over time, not scaled; None where absent."""
    spectrogram: Float32 | None = field(repr=False)
    """(mels, frames) decibels; None where the clip has no sound."""

    @property
    def video(self) -> str:
        """The YouTube id that an id of YouCook2 begins with."""
        return self.id[:YOUTUBE_ID]


def read_captioned_clips(url: str, trust_pickle: bool) -> list[CaptionedClip]:
    """The clips of a pickle, in its order.

    Raises UsageError without `trust_pickle`, for a pickle of anything but arrays and tensors,
    and for an item without id, caption, or of another shape than described above.
    """
    content = read_pickle(url, trust_pickle)
    if not isinstance(content, list) or not content:
        raise UsageError(f"{url}: a list of dicts is wanted, got {type(content).__name__}")
    return [_read_item(f"{url}: item {i}", item) for i, item in enumerate(content)]


def caption_clip_inputs(
    clip: CaptionedClip, text_RE: NDArray[np.floating], dims: TrackDims, frames: int
) -> ClipInputs:
    """What the model takes of a clip and its caption's rows, at most `frames` of its sound.

    Each visual part is scaled to unit length, as in training. Raises UsageError where a width is
    not the model's.
    """
    if len(dims.visual) not in (0, len(clip.visual)):
        raise UsageError(
            f"the model takes {len(dims.visual)} visual tracks, this file has 2: 2d and 3d"
        )
    parts = [
        _fit(clip.id, name, part, width)
        for name, part, width in zip(("2d", "3d"), clip.visual, dims.visual, strict=False)
    ]
    spectrogram = np.zeros((dims.audio, 0), np.float32)
    if clip.spectrogram is not None and dims.audio:
        spectrogram = _check_width(clip.id, "audio", clip.spectrogram, dims.audio)[:, :frames]
    return ClipInputs(
        visual=np.concatenate([*parts, np.zeros(0, np.float32)]),
        visual_parts=np.array([bool(part.any()) for part in parts], dtype=bool),
        spectrogram=spectrogram,
        text=np.asarray(text_RE, np.float32),
    )


def _read_item(where: str, item: Any) -> CaptionedClip:
    if not isinstance(item, dict):
        raise UsageError(f"{where}: a dict is wanted, got {type(item).__name__}")
    clip_id, caption = item.get("id"), item.get("eval_caption", item.get("caption"))
    if not isinstance(clip_id, str) or not isinstance(caption, str):
        raise UsageError(
            f"{where}: needs a text `id` and a text `caption` or `eval_caption`; "
            f"it has {', '.join(map(str, item))}"
        )
    return CaptionedClip(
        clip_id,
        caption,
        tuple(_pooled(where, item, name) for name in ("2d", "3d")),
        _spectrogram(where, item),
    )


def _pooled(where: str, item: Mapping[str, Any], name: str) -> Float32 | None:
    """A visual feature, by its maximum over time where it has not been pooled."""
    value = _array(item.get(f"{name}_pooled", item.get(name)))
    if value is None or value.size == 0:
        return None
    if value.ndim not in (1, 2):
        raise UsageError(f"{where}: `{name}` is (columns,) or (time, columns), got {value.shape}")
    return value if value.ndim == 1 else value.max(axis=0)


def _spectrogram(where: str, item: Mapping[str, Any]) -> Float32 | None:
    value = _array(item.get("audio"))
    if value is None or value.size == 0 or not item.get("has_audio", True):
        return None
    if value.ndim != 2:
        raise UsageError(f"{where}: `audio` is (mels, frames), got {value.shape}")
    return value


def _array(value: Any) -> Float32 | None:
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    array: Float32 = np.asarray(value, dtype=np.float32)
    return array


def _fit(clip: str, name: str, part: Float32 | None, width: int) -> Float32:
    """A part of unit length; zero where it is absent or the run has no use for it."""
    if part is None or width == 0:
        return np.zeros(width, np.float32)
    unit_F: Float32 = unit_rows(_check_width(clip, name, part, width)[None])[0]
    return unit_F


def _check_width(clip: str, name: str, array: Float32, width: int) -> Float32:
    if len(array) != width:
        raise UsageError(
            f"clip {clip}: {name} has width {len(array)}, the run takes {width}; evaluate a run "
            "that was trained on features of the same networks"
        )
    return array
