"""What an extractor is: facts that can be read before anything loads, and four verbs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.views import View
from extractors.windows import Window, Windowing

Blocks = Iterable[NDArray[np.float32]]
"""Consecutive rows of one video, a few MiB at a time: hours of rows never are in memory at once.
What `Extractor.finish` is given is read-only and may be gone through more than once."""


@dataclass(frozen=True)
class TrackSpec:
    """What the track will be."""

    dim: int
    """Columns."""
    dtype: str
    """NumPy name of what is stored."""
    start: float
    """Time of the centre of row 0, seconds."""
    hop: float
    """Seconds from row to row."""
    version: int
    """Raised when the code changes what the numbers are: part of the fingerprint."""


@dataclass(frozen=True)
class Resources:
    """What one worker needs for this extractor; the scheduler adds them up."""

    cpus: float = 1.0
    gpus: float = 0.0
    """Share of a GPU, where workers have one."""
    memory_mb: int = 500


class Extractor(Protocol):
    """One track from one view. Constructed light, on the driver; the model loads in `setup`."""

    @property
    def spec(self) -> TrackSpec:
        """What the track will be."""

    @property
    def view(self) -> View:
        """What the decoder is to give."""

    @property
    def windowing(self) -> Windowing:
        """How the view is cut."""

    @property
    def batch_size(self) -> int:
        """Windows of one `extract`, across videos."""

    @property
    def resources(self) -> Resources:
        """What a worker needs."""

    @property
    def weights_sha256(self) -> str | None:
        """Digest of the weights, None for an extractor without; part of the fingerprint."""

    def setup(self, device: torch.device) -> None:
        """Loads the model: once a worker, before the first `extract`. Raises AbortError."""

    def extract(self, windows: Sequence[Window]) -> list[NDArray[np.float32]]:
        """The rows (n, D') of each window, independent of its neighbours in the batch."""

    def finish(self, blocks: Blocks) -> Blocks:
        """From all rows (T, D') of a video to its track (T, D): what needs the whole of it."""

    def close(self) -> None:
        """Frees the model. Called once at a worker's end, also after a `setup` that failed."""
