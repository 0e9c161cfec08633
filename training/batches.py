"""From clips' arrays to padded tensors.

Shapes: B clips, N clips of all ranks, V visual columns, P visual tracks, M mel bins, T frames,
S text rows, E text columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

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
        return self._map(lambda values: values.to(device, non_blocking=True))

    def counting_missing(self) -> "ClipBatch":
        """The same arrays with every modality said to be there (loss.mask_missing)."""
        present = {name: torch.ones_like(mask_B) for name, mask_B in self.present.items()}
        return replace(self, parts_BP=torch.ones_like(self.parts_BP), present=present)

    def rows(self, index_N: Tensor) -> "ClipBatch":
        """The clips of these rows, padded as they are."""
        return self._map(lambda values: values[index_N])

    def _map(self, change: Callable[[Tensor], Tensor]) -> "ClipBatch":
        fields = {n: change(value) for n, value in vars(self).items() if isinstance(value, Tensor)}
        present = {name: change(mask_B) for name, mask_B in self.present.items()}
        return replace(self, **fields, present=present)


@dataclass(frozen=True)
class TrainBatch:
    """A batch of training clips and where they come from."""

    inputs: ClipBatch
    keys: tuple[str, ...]
    """Key of each clip's video; a video's clips are adjacent."""
    clips: tuple[Clip, ...]
    places: tuple[int, ...]
    """Place of each clip's video in the batch of all ranks."""
    videos: tuple[str, ...]
    """Keys of this rank's videos, those that gave no clip too."""

    def spans(self) -> Tensor:
        """(B, 3) float64: place, start and end of each clip."""
        rows = [(p, c.start, c.end) for p, c in zip(self.places, self.clips, strict=True)]
        return torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)

    def turns(self) -> Tensor:
        """(B,) int64: place of the clip's video plus the number of the clip in it.

        Dealing clips into micro-batches by it mixes the videos, and deals alike on any number of
        ranks.
        """
        return torch.tensor(self.places, dtype=torch.int64) + self.numbers()

    def numbers(self) -> Tensor:
        """(B,) int64: number of the clip among those of its video, from 0."""
        counted = [number for _, run in groupby(self.places) for number, _ in enumerate(run)]
        return torch.tensor(counted, dtype=torch.int64)


def overlapping(spans_N3: Tensor) -> Tensor:
    """(N, N) bool: pairs of different clips of one video that overlap in time, from `spans`."""
    video_N, start_N, end_N = spans_N3.unbind(1)
    meets_NN = (start_N[:, None] < end_N) & (start_N < end_N[:, None])
    meets_NN &= video_N[:, None] == video_N
    return meets_NN.fill_diagonal_(False)


def neighbouring(spans_N3: Tensor, count: int) -> Tensor:
    """(N, N) bool: [i, j] where j is one of the `count` clips of i's video nearest to i in time,
    by the distance of their middles; i itself is the first of them. From `spans`."""
    video_N, start_N, end_N = spans_N3.unbind(1)
    middle_N = (start_N + end_N) / 2
    away_NN = (middle_N[:, None] - middle_N).abs().fill_diagonal_(-1.0)
    away_NN[video_N[:, None] != video_N] = torch.inf
    rank_NN = away_NN.argsort(dim=1, stable=True).argsort(dim=1)
    return (rank_NN < count) & away_NN.isfinite()


def collate(inputs: Sequence[ClipInputs], dims: TrackDims, config: TrainConfig) -> ClipBatch:
    """Pads clips to the longest of them; without `mask_padding` to the official fixed sizes.

    No clips give a batch of no rows.
    """
    masked = config.model.mask_padding
    lengths = [clip.spectrogram.shape[1] for clip in inputs]
    rows = [len(clip.text) for clip in inputs]
    frames = max([1, *lengths]) if masked else config.sampling.audio_frames
    text_rows = max([1, *rows]) if masked else config.sampling.max_text_rows
    shape = (len(inputs), dims.audio, frames)
    spectrogram_BMT: Float32 = np.full(shape, config.sampling.padding_decibel, np.float32)
    text_BSE: Float32 = np.zeros((len(inputs), text_rows, dims.text), np.float32)
    for i, clip in enumerate(inputs):
        spectrogram_BMT[i, :, : lengths[i]] = clip.spectrogram
        text_BSE[i, : rows[i]] = clip.text
    visual_BV: Float32 = np.zeros((len(inputs), sum(dims.visual)), np.float32)
    parts_BP = np.zeros((len(inputs), len(dims.visual)), dtype=bool)
    for i, clip in enumerate(inputs):
        visual_BV[i], parts_BP[i] = clip.visual, clip.visual_parts
    return ClipBatch(
        visual_BV=torch.from_numpy(visual_BV),
        parts_BP=torch.from_numpy(parts_BP),
        spectrogram_BMT=torch.from_numpy(spectrogram_BMT),
        frames_B=torch.tensor(lengths, dtype=torch.int64),
        text_BSE=torch.from_numpy(text_BSE),
        rows_B=torch.tensor(rows, dtype=torch.int64),
        present={
            name: torch.tensor([clip.present[name] for clip in inputs], dtype=torch.bool)
            for name in MODALITIES
        },
    )
