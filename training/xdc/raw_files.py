"""Clips of frames from the videos' own files, as an extraction of the whole file decodes them."""

import math
from collections import OrderedDict
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from extractors.decode_config import DecodeConfig
from extractors.probe import Probe, probe
from extractors.raw_reader import read_rows
from extractors.views import FrameView
from pipeline.fetching import fetched
from training.xdc.recent import recent

PROBES = 4096
"""Headers kept of local files."""


class RawFiles:
    """Reads clips out of files by URI. Opens nothing before the first, so that it can be sent to a
    process. The last remote file is kept on this machine until another is asked for."""

    def __init__(self, view: FrameView, decode: DecodeConfig) -> None:
        self._view = view
        self._decode = decode
        self._probes: OrderedDict[str, Probe] = OrderedDict()
        self._opened: tuple[str, ExitStack, str] | None = None

    def read(self, uri: str, start: float, count: int) -> NDArray[np.uint8]:
        """(count, height, width, 3) from the frame shown half a frame after `start` on: the frame
        that a proxy of the view's rate has there. Raises VideoError."""
        path = self._local(uri)
        # a time that lies on a frame's start, but for the last bits, is that frame's
        first = math.floor(start * self._view.rate + 0.5 + 1e-6)
        return read_rows(path, self._probed(uri, path), self._view, first, count, self._decode)

    def _local(self, uri: str) -> str:
        if self._opened is not None and self._opened[0] == uri:
            return self._opened[2]
        self.close()
        stack = ExitStack()
        path = stack.enter_context(fetched(uri))
        self._opened = uri, stack, path
        return path

    def _probed(self, uri: str, path: str) -> Probe:
        return recent(self._probes, uri, lambda: probe(path, self._decode), PROBES)[0]

    def close(self) -> None:
        """Removes the copy of a remote file."""
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None
