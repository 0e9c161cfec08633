"""Random access to a proxy (extractors.proxy): the one use of decord, on files of our encoding.

decord counts and seeks by packets. On files from elsewhere that goes wrong in many ways (edit
lists, variable rates, open groups of pictures); a proxy has none of them.
"""

import contextlib
import io
import re
from collections.abc import Iterator, Sequence

import decord
import numpy as np
from numpy.typing import NDArray

from extractors.errors import Reason, VideoError

decord.logging.set_level(decord.logging.QUIET)  # what it says of a bad file is in the error
_WHERE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")
"""When and in which line of decord's source, at the head of its messages."""


class ProxyReader:
    """The frames of one proxy. Cheap to open: its index is at its head."""

    def __init__(self, content: bytes) -> None:
        """Raises VideoError where `content` is no proxy."""
        if content[4:8] != b"ftyp":  # decord would print all of it
            raise unreadable(f"{len(content)} bytes that are no mp4")
        with _blaming_the_proxy():
            self._reader = decord.VideoReader(io.BytesIO(content), num_threads=1)
        self.num_frames = len(self._reader)
        self.rate = float(self._reader.get_avg_fps())
        """Frames per second; frame i is shown over [i / rate, (i + 1) / rate)."""

    def read(self, times: Sequence[float]) -> NDArray[np.uint8]:
        """(N, height, width, 3) uint8 RGB: the frame shown at each time, in any order.

        A time before the first frame gives the first, one after the last gives the last.
        Raises ValueError for times that are not finite, VideoError where the proxy is damaged.
        """
        wanted = np.asarray(times, np.float64)
        if not np.isfinite(wanted).all():
            raise ValueError(f"times of frames are finite, got {list(times)}")
        shown = shown_frames(wanted, self.rate, self.num_frames)
        numbers, places = np.unique(shown, return_inverse=True)
        if not len(numbers):
            return np.empty((0, *self._reader[0].shape), np.uint8)
        with _blaming_the_proxy():
            frames: NDArray[np.uint8] = self._reader.get_batch(numbers.tolist()).asnumpy()
        return frames[places]


@contextlib.contextmanager
def _blaming_the_proxy() -> Iterator[None]:
    try:
        yield
    except (decord.DECORDError, RuntimeError) as err:
        reason = _WHERE.sub("", " ".join(str(err).split()))[:200]
        raise unreadable(reason) from err


def shown_frames(times: NDArray[np.float64], rate: float, count: int) -> NDArray[np.int64]:
    """The number of the frame shown at each time, of `count`. A time that lies on a frame's start,
    but for the last bits, is that frame's."""
    return np.floor(times * rate + 1e-6).clip(0, count - 1).astype(np.int64)


def unreadable(reason: str) -> VideoError:
    """What says that something is no whole proxy."""
    return VideoError(Reason.DECODE_ERROR, "proxy", f"cannot be read as a proxy: {reason}")
