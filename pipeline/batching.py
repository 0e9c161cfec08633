"""Videos on their way through the extractors, and the batches that are filled across them."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.decode import Decoded
from extractors.errors import Reason, VideoError
from extractors.extractor import Extractor
from extractors.probe import Probe
from extractors.tracks import Segment
from extractors.windows import Window
from pipeline.published import StoredVideo
from pipeline.sources import SourceVideo
from pipeline.spooled_rows import SpooledRows

NO_TRANSCRIPT = {"kind": "none"}
# What a network may raise on one video's input; anything else is a bug and ends the run.
EXTRACTOR_ERRORS = (RuntimeError, ValueError, ArithmeticError, LookupError)


@dataclass
class InProgress:
    """A video between its first frame and its last row."""

    video: SourceVideo
    stored: StoredVideo | None = None
    """What its shard has of it already, where that is of the same file."""
    carried: set[str] = field(default_factory=set)
    """Names of what is carried over from there."""
    opened: bool = False
    """Whether its file was asked for in this run."""
    probed: Probe | None = None
    decoded: Decoded | None = None
    content_id: str | None = None
    captions_id: str = ""
    """What its captions are by content (extractors.captions); empty where there are none."""
    rows: dict[str, SpooledRows] = field(default_factory=lambda: defaultdict(SpooledRows))
    """Of each track, as its extractor gave them."""
    num_waiting: int = 0
    """Windows of it that wait in a batch."""
    pieces_heard: int = 0
    """Windows of sound that speech recognition has had."""
    segments: list[Segment] = field(default_factory=list)
    transcript: dict[str, Any] = field(default_factory=lambda: dict(NO_TRANSCRIPT))
    """Where the segments come from: the facts of the captions, or what was heard."""
    proxy: bytes | None = None
    """Its small mp4; empty where it has no picture, None where none is made."""
    failure: VideoError | None = None
    closed: bool = False
    """No further window will come."""

    @property
    def complete(self) -> bool:
        """Whether all its rows are there."""
        return self.closed and self.num_waiting == 0

    def free(self) -> None:
        """Forgets its rows."""
        for rows in self.rows.values():
            rows.close()
        self.rows.clear()

    def hear(self, language: str, probability: float) -> None:
        """Notes what speech recognition found in one more piece of sound."""
        self.pieces_heard += 1
        if self.transcript["kind"] != "asr":
            self.transcript = {"kind": "asr", "heard": []}
        self.transcript["heard"].append({"language": language, "probability": probability})


class Batcher:
    """Windows of many videos, in order, to batches of one extractor."""

    def __init__(self, name: str, extractor: Extractor) -> None:
        self.name = name
        self.extractor = extractor
        self._waiting: list[tuple[InProgress, Window]] = []

    def add(self, owner: InProgress, window: Window) -> None:
        """Queues a window; a full batch runs at once."""
        owner.num_waiting += 1
        self._waiting.append((owner, window))
        if len(self._waiting) >= self.extractor.batch_size:
            self.flush()

    def discard(self) -> None:
        """Forgets what waits."""
        self._waiting.clear()

    def flush(self) -> None:
        """Runs what waits; a batch that fails again window by window, to find the culprit."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        try:
            found = self.extractor.extract([window for _, window in waiting])
        except EXTRACTOR_ERRORS:
            for owner, window in waiting:
                self._extract_alone(owner, window)
            return
        for (owner, _), rows in zip(waiting, found, strict=True):
            self._deliver(owner, rows)

    def _extract_alone(self, owner: InProgress, window: Window) -> None:
        try:
            with blaming(owner.video, self.name):
                (rows,) = self.extractor.extract([window])
        except VideoError as err:
            owner.failure = err
            owner.num_waiting -= 1
        else:
            self._deliver(owner, rows)

    def _deliver(self, owner: InProgress, rows: NDArray[np.float32]) -> None:
        owner.num_waiting -= 1
        try:
            with blaming(owner.video, self.name):
                owner.rows[self.name].append(rows)
        except VideoError as err:
            owner.failure = err


@contextlib.contextmanager
def blaming(video: SourceVideo, stage: str) -> Iterator[None]:
    """What a model raises on one video's input is that video's failure."""
    try:
        yield
    except EXTRACTOR_ERRORS as err:
        message = f"{video.uri}: {stage}: {type(err).__name__}: {err}"
        raise VideoError(Reason.EXTRACTOR_ERROR, stage, message) from err
