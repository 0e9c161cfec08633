"""From clips' arrays to padded tensors.

Shapes: B clips, V visual columns, P visual tracks, M mel bins, T frames, S text rows, E text
columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from training.clips import MODALITIES, Clip, ClipInputs, Float32, TrackDims
from training.config import TrainConfig


@dataclass(frozen=True)
class ClipBatch:
    """The inputs of the model, padded."""

    visual_BV: Tensor
    """float32, see ClipInputs.visual."""
    parts_BP: Tensor
    """bool: which visual tracks a clip has."""
    spectrogram_BMT: Tensor
    """float32 decibels, padded with `sampling.padding_decibel`."""
    frames_B: Tensor
    """int64: valid frames."""
    text_BSE: Tensor
    """float32, padded with zeros."""
    rows_B: Tensor
    """int64: valid text rows."""
    present: dict[str, Tensor]
    """(B,) bool a modality."""

    def to(self, device: torch.device) -> "ClipBatch":
        """The same batch on a device."""
        fields = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(
            self, **fields, present={name: mask.to(device) for name, mask in self.present.items()}
        )


@dataclass(frozen=True)
class TrainBatch:
    """A batch of training clips and where they come from."""

    inputs: ClipBatch
    keys: tuple[str, ...]
    """Key of each clip's video."""
    clips: tuple[Clip, ...]

    def repeated(self) -> Tensor:
        """(B, B) bool: pairs of different clips of one video that overlap in time."""
        _, video_B = np.unique(np.array(self.keys), return_inverse=True)
        start_B = np.array([clip.start for clip in self.clips])
        end_B = np.array([clip.end for clip in self.clips])
        meets_BB = (start_B[:, None] < end_B) & (start_B < end_B[:, None])
        same_BB = video_B[:, None] == video_B
        return torch.from_numpy(meets_BB & same_BB & ~np.eye(len(self.keys), dtype=bool))

    def first_of_each_video(self, count: int) -> Tensor:
        """(B,) bool: the first `count` clips of every video."""
        seen: dict[str, int] = {}
        for key in self.keys:
            seen[key] = seen.get(key, 0)
        chosen = []
        for key in self.keys:
            seen[key] += 1
            chosen.append(seen[key] <= count)
        return torch.tensor(chosen)


def collate(inputs: Sequence[ClipInputs], dims: TrackDims, config: TrainConfig) -> ClipBatch:
    """Pads clips to the longest of them; without `mask_padding` to the official fixed sizes."""
    masked = config.model.mask_padding
    lengths = [clip.spectrogram.shape[1] for clip in inputs]
    rows = [len(clip.text) for clip in inputs]
    frames = max(1, *lengths) if masked else config.sampling.audio_frames
    text_rows = max(1, *rows) if masked else config.sampling.max_text_rows
    shape = (len(inputs), dims.audio, frames)
    spectrogram_BMT: Float32 = np.full(shape, config.sampling.padding_decibel, np.float32)
    text_BSE: Float32 = np.zeros((len(inputs), text_rows, dims.text), np.float32)
    for i, clip in enumerate(inputs):
        spectrogram_BMT[i, :, : lengths[i]] = clip.spectrogram
        text_BSE[i, : rows[i]] = clip.text
    return ClipBatch(
        visual_BV=torch.from_numpy(np.stack([clip.visual for clip in inputs])),
        parts_BP=torch.from_numpy(np.stack([clip.visual_parts for clip in inputs])),
        spectrogram_BMT=torch.from_numpy(spectrogram_BMT),
        frames_B=torch.tensor(lengths),
        text_BSE=torch.from_numpy(text_BSE),
        rows_B=torch.tensor(rows),
        present={
            name: torch.tensor([clip.present[name] for clip in inputs]) for name in MODALITIES
        },
    )
