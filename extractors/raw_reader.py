"""Clips straight from a video's own file, by one bounded ffmpeg child that seeks.

    file ─ seek ─ from a key frame on ─ fps ─ split ─┬─ rows [first, stop) ─ scale ─▶ frames
                                                     └─ the very first row ─────────▶ its number

Row i of a view is row i of a whole decode (extractors.decode): the child keeps the file's own
times, so that `fps` rounds them as it does there. Where a seek leads is the container's affair (an
MPEG stream's may end between key frames, or after the clip), so the number of the first row that
could be decoded says whether it was early enough.
"""

import contextlib
import io
import math
import os
import re
import selectors
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from extractors.decode import READ_BYTES, Patience, patience_for
from extractors.decode_command import copied, on_grid, scaled, untaken
from extractors.decode_config import DecodeConfig
from extractors.decode_verdict import packet_ends, read_errors
from extractors.errors import Reason, VideoError
from extractors.ffmpeg import child, ffmpeg_binary, input_options
from extractors.probe import Probe
from extractors.views import FrameView

BACK = (0.0, 4.0, 32.0, math.inf)
"""Seconds before the clip to which each further try seeks; the last begins with the file."""
SEEKABLE = frozenset(["mov", "matroska", "avi", "mpegts", "flv", "asf", "ogg"])
"""Containers whose packets keep their times after a seek; others are read from their start (an MPEG
program stream has times for some packets only)."""
FROM_KEY_FRAME = "if(ld(0),1,key*st(0,1))"
"""What comes before it refers to frames that were not read."""


@dataclass(frozen=True)
class _Request:
    """A clip that is wanted."""

    path: str
    probed: Probe
    view: FrameView
    config: DecodeConfig
    patience: Patience

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a frame."""
        assert self.probed.picture is not None
        size = self.view.frame_size(self.probed.picture.height, self.probed.picture.width)
        return *size, 3


@dataclass(frozen=True)
class _Found:
    """What a child gave."""

    frames: NDArray[np.uint8]
    start: int | None
    """Row of the first frame that was decoded; None for none."""
    errors: list[str]


def read_rows(
    path: str, probed: Probe, view: FrameView, first: int, count: int, config: DecodeConfig
) -> NDArray[np.uint8]:
    """(count, height, width, 3) uint8 RGB: rows [first, first + count) of a view of a local file.

    They are those of `decode` of the whole file on the CPU. A row after the last is the last one,
    as in a proxy. `decode.key_frames_only` is left aside; all children of a clip share one
    deadline, that of the video. Raises VideoError for a file without picture, one that is damaged
    here (held at its last frame under `on_damage: keep`), and the deadline.
    """
    if probed.picture is None:
        raise VideoError(Reason.NO_STREAMS, "clip", f"{path}: holds no picture")
    request = _Request(path, probed, view, config, patience_for(path, probed, config))
    stop = first + count
    for seek in _seeks(probed, first / view.rate):
        found = _run(request, seek, first, stop)
        if found.start is not None and found.start <= first:
            return _whole(request, found, seek, first, stop)
        if found.start is None and found.errors and config.on_damage == "fail":
            break  # seeking further back would not mend it
    raise _damaged(request, first, found, "no frame could be decoded")


def _seeks(probed: Probe, time: float) -> Iterator[float]:
    """Seconds to seek to, 0 once."""
    seekable = probed.container.split(",")[0] in SEEKABLE
    for back in BACK if seekable else BACK[-1:]:
        yield max(0.0, time - back)
        if back >= time:
            return


def _whole(
    request: _Request, found: _Found, seek: float, first: int, stop: int
) -> NDArray[np.uint8]:
    """All rows of the clip: the last one is held after the picture's end."""
    assert found.start is not None
    frames, missing = found.frames, stop - first - len(found.frames)
    if missing and found.errors and request.config.on_damage == "fail":
        raise _damaged(request, first, found, f"{missing} of {stop - first} frames are missing")
    if not len(frames):  # the clip lies after the picture
        frames = _run(request, seek, found.start, first, last=True).frames
        missing -= 1
    return np.pad(frames, ((0, missing), (0, 0), (0, 0), (0, 0)), mode="edge")


def _damaged(request: _Request, first: int, found: _Found, what: str) -> VideoError:
    said = next(iter(found.errors), "ffmpeg said nothing")
    time = first / request.view.rate
    return VideoError(
        Reason.DECODE_ERROR, "clip", f"{request.path}: at {time:.2f} s: {what}: {said}"
    )


def _run(request: _Request, seek: float, first: int, stop: int, *, last: bool = False) -> _Found:
    """One child from start to end: rows [first, stop), or the `last` of them alone."""
    item = math.prod(request.shape)
    ends = [os.pipe() for _ in range(2)]
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        for read_end, _ in ends:
            stack.callback(os.close, read_end)
        shared = [write_end for _, write_end in ends]
        try:
            command = _command(request, seek, first, stop, shared)
            memory = request.config.max_memory_mb
            started = child(command, log, max_memory_mb=memory, pass_fds=shared)
            process = stack.enter_context(started)
        finally:
            for write_end in shared:
                os.close(write_end)
        wanted, kept = (math.inf, item) if last else ((stop - first) * item, None)
        content, start = _gather([end for end, _ in ends], wanted, kept, request)
        if len(content) < wanted:  # else what is left of the file is of no interest
            request.patience.wait(process)
        whole = bytes(content[: len(content) // item * item])
        frames = np.frombuffer(whole, np.uint8).reshape(-1, *request.shape)
        return _Found(frames, start, _errors(read_errors(log), request.probed, seek))


def _errors(lines: list[str], probed: Probe, seek: float) -> list[str]:
    """What speaks against the file. Not what an output says that got no frame; nor, after a seek,
    what the decoder says of packets whose key frame was not read."""
    assert probed.picture is not None
    found = [line for line in lines if not line.startswith(("[vost#", "[out#"))]
    decoder = re.compile(rf"\[(dec:)?{re.escape(probed.picture.codec)} @")
    return [line for line in found if seek == 0 or not decoder.search(line)]


def _gather(
    ends: list[int], wanted: float, kept: int | None, request: _Request
) -> tuple[bytearray, int | None]:
    """The bytes of the frames, up to `wanted` or of the end only the `kept` ones, and the number of
    the first row."""
    frames, place = bytearray(), bytearray()
    start = None
    with selectors.DefaultSelector() as selector:
        for end, target in zip(ends, (frames, place), strict=True):
            selector.register(end, selectors.EVENT_READ, target)
        while selector.get_map() and (len(frames) < wanted or start is None):
            for key, _ in request.patience.select(selector):
                content = os.read(key.fd, READ_BYTES)
                if not content:
                    selector.unregister(key.fd)
                key.data.extend(content)
            if kept is not None:
                del frames[:-kept]
            if start is None and place.endswith(b"\n"):
                start = _row(place, request.view.rate)
    return frames, start


def _row(place: bytearray, rate: float) -> int | None:
    """The row of the one packet that framecrc tells of, once it does."""
    ends = packet_ends(io.BytesIO(place), (0,))
    return round(ends[0] * rate) - 1 if ends else None


def _command(
    request: _Request, seek: float, first: int, stop: int, descriptors: list[int]
) -> list[str]:
    probed, view, config = request.probed, request.view, request.config
    assert probed.picture is not None
    options = input_options(request.path, config.max_pixels) | {"threads": config.threads}
    if seek > 0:
        options |= {"ss": f"{seek:.6f}", "noaccurate_seek": None}
    source = ffmpeg.input(**options)
    stream = source[str(probed.picture.number)]
    if seek > 0:
        stream = stream.filter("select", FROM_KEY_FRAME)
    begin = {} if seek > 0 else {"start_time": 0}  # a late picture is held before its start
    rows = on_grid(stream, view, probed, **begin).filter_multi_output("split", 2)
    clip = scaled(
        rows[0].filter("trim", start_pts=first, end_pts=stop), view, probed.picture, config
    )
    place = rows[1].filter("trim", end_frame=1).filter("scale", 16, 16)
    passed = {"fps_mode": "passthrough"}
    outputs = [
        ffmpeg.output(clip, f"pipe:{descriptors[0]}", format="rawvideo", pix_fmt="rgb24", **passed),
        ffmpeg.output(
            place, f"pipe:{descriptors[1]}", format="framecrc", flush_packets=1, **passed
        ),
        # read though not wanted: times in MPEG streams count from the first packet of all in use
        *copied(source, [*untaken(probed, [view]), *probed.timed], "-", "null"),
    ]
    graph: Any = ffmpeg.merge_outputs(*outputs).global_args(
        "-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+error",
        "-copyts", "-start_at_zero", "-filter_complex_threads", "1",
    )  # fmt: skip
    command: list[str] = graph.compile(cmd=ffmpeg_binary())
    return command
