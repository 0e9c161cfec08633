"""What extractors make: tracks over time and segments of transcript.

Times are seconds from the start of the video; intervals are half open.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Track:
    """Rows at a fixed rate over the time of one video."""

    rows: NDArray[np.generic]
    """(T, D); row i is centred on `start + i * hop`."""
    start: float
    """Time of the centre of row 0, in seconds."""
    hop: float
    """Seconds from one row to the next, > 0."""

    def __post_init__(self) -> None:
        if self.rows.ndim != 2:
            raise ValueError(f"a track is (T, D), got {self.rows.shape = }")
        if not self.hop > 0:
            raise ValueError(f"a track's hop is positive, got {self.hop = }")

    def __repr__(self) -> str:
        shape, dtype = self.rows.shape, self.rows.dtype
        return f"Track({shape}, {dtype}, start={self.start}, hop={self.hop})"

    def between(self, start: float, end: float) -> NDArray[np.generic]:
        """The rows whose centre lies in [start, end): a view, (T', D), possibly empty.

        Row i owns the time of one hop around its centre. An interval that falls between two
        centres (shorter than a hop) gives the row that owns its middle, so that a short clip
        of a slow track is not lost.
        """
        first = int(np.ceil((start - self.start) / self.hop - 1e-6))
        last = int(np.ceil((end - self.start) / self.hop - 1e-6))
        if last <= first:
            first = int(np.floor(((start + end) / 2 - self.start) / self.hop + 0.5))
            last = first + 1
        return self.rows[max(0, first) : max(0, last)]


@dataclass(frozen=True)
class Word:
    """One spoken word over [start, end)."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Segment:
    """A piece of transcript over [start, end)."""

    start: float
    end: float
    text: str
    source: str
    """Where it came from: 'captions' (made by whomever) or 'asr' (recognised here)."""
    words: tuple[Word, ...] = ()
    """Its words in time order, where speech recognition was asked for their times."""
