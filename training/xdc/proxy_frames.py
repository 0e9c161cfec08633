"""Frames at random times out of a proxy that lies in a shard's tar (extractors.proxy).

Only the proxy's table of frames is read and the bytes from a key frame to the last frame wanted,
and one decoder serves all proxies of the same coding: opening each file anew, as decord and PyAV's
containers do, costs more than the frames of a clip. This leans on what a proxy is: H.264 in mp4,
tables first, no B-frames, closed groups of pictures.
Shapes: F frames of the proxy, N frames asked for.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, NamedTuple, NoReturn

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from extractors.proxy_reader import shown_frames, unreadable
from training.xdc.recent import recent

HEAD_BYTES = 16_384
"""Read at once: holds the tables of 40 s at 12 frames a second."""
MOST_FRAMES = 2**24
"""No proxy has more: 388 hours at 12 frames a second."""
DECODERS = 8
"""Kept by a process; proxies of one frame size and one encoding share one."""
SAMPLE_ENTRY = 86
"""Bytes of an avc1 sample entry before its own boxes."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class ProxyTable:
    """Where a proxy's frames lie, in bytes from its beginning."""

    start_F: Numbers
    end_F: Numbers
    key_F: Numbers
    """The frame from which each is decoded."""
    rate: float
    """Frames per second; frame i is shown over [i / rate, (i + 1) / rate)."""
    header: bytes
    """What a decoder must be told first (avcC)."""


def read_table(file: IO[bytes], offset: int, size: int) -> ProxyTable:
    """That of the proxy of `size` bytes that begins at `offset`. Raises VideoError where something
    else lies there."""
    try:
        table = _parse(_movie_box(file, offset, size))
    except (ValueError, LookupError, ArithmeticError) as err:
        _refuse(str(err), err)
    if int(table.end_F.max()) > size:
        _refuse(f"{size} bytes, its frames need {int(table.end_F.max())}")
    return table


class FrameDecoder:
    """Decodes frames; keeps its decoders from clip to clip, which changes no bit."""

    def __init__(self) -> None:
        self._decoders: OrderedDict[bytes, _Decoder] = OrderedDict()

    def read(
        self, file: IO[bytes], offset: int, table: ProxyTable, times: Sequence[float]
    ) -> NDArray[np.uint8]:
        """(N, height, width, 3) uint8 RGB: the frame shown at each time, in any order.

        A time before the first frame gives the first, one after the last gives the last. Raises
        ValueError for no times or such that are not finite, VideoError where the proxy is damaged.
        """
        wanted = np.asarray(times, np.float64)
        if not len(wanted) or not np.isfinite(wanted).all():
            raise ValueError(f"times of frames are finite, one or more, got {list(times)}")
        numbers: list[int] = shown_frames(wanted, table.rate, len(table.start_F)).tolist()
        once = sorted(set(numbers))
        header = table.header
        decoder, _ = recent(self._decoders, header, lambda: _Decoder(header), DECODERS)
        try:
            frames = decoder.frames(_packets(file, offset, table, once))
            found = {number: decoder.rgb(frames[number]) for number in once}
        except (av.error.FFmpegError, KeyError) as err:
            del self._decoders[header]  # who knows what it still holds
            _refuse("a frame cannot be decoded", err)
        return np.stack([found[number] for number in numbers])


class _Decoder:
    """libavcodec's, on one thread, since processes read side by side. It conceals no damage."""

    def __init__(self, header: bytes) -> None:
        self._context = av.VideoCodecContext.create("h264", "r")
        self._context.extradata = header
        self._context.thread_count = 1
        self._context.options = {"err_detect": "explode", "flags": "low_delay"}
        self._reformatter = VideoReformatter()  # keeps the conversion's tables

    def frames(self, packets: Iterator[tuple[int, bytes]]) -> dict[int, av.VideoFrame]:
        """By number. Each packet gives its frame at once and each run of packets begins anew, so
        nothing is left to flush; a flushed decoder would set up all its tables again."""
        found = []
        for number, content in packets:
            packet = av.Packet(content)
            packet.pts = packet.dts = number
            found += self._context.decode(packet)
        return {frame.pts: frame for frame in found if frame.pts is not None}

    def rgb(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """(height, width, 3)"""
        shown = self._reformatter.reformat(frame, format="rgb24", threads=1)
        return shown.to_ndarray().astype(np.uint8, copy=False)


def _packets(
    file: IO[bytes], offset: int, table: ProxyTable, numbers: list[int]
) -> Iterator[tuple[int, bytes]]:
    """All frames that `numbers`, in rising order, are decoded from, themselves included."""
    for first, last in decoding_runs(table.key_F, numbers):
        starts = table.start_F[first : last + 1].tolist()
        ends = table.end_F[first : last + 1].tolist()
        file.seek(offset + starts[0])
        content = file.read(ends[-1] - starts[0])
        for number, (start, end) in enumerate(zip(starts, ends, strict=True), start=first):
            yield number, content[start - starts[0] : end - starts[0]]


def decoding_runs(key_F: Numbers, numbers: Sequence[int]) -> list[tuple[int, int]]:
    """First and last frame of each run to decode for these frames, in rising order. A run begins
    at a key frame; groups of pictures of which nothing is wanted are left out."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        key = int(key_F[number])
        if runs and key <= runs[-1][1]:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((key, number))
    return runs


# The tables: ISO/IEC 14496-12, and 14496-15 for avcC


def _movie_box(file: IO[bytes], offset: int, size: int) -> bytes:
    """The content of `moov`, which follows `ftyp`."""
    file.seek(offset)
    head = file.read(min(size, HEAD_BYTES))
    if head[4:8] != b"ftyp":
        raise ValueError(f"{size} bytes that are no mp4")
    begins = int.from_bytes(head[:4])
    length, kind = int.from_bytes(head[begins : begins + 4]), head[begins + 4 : begins + 8]
    if kind != b"moov" or not 8 <= length <= size - begins:
        raise ValueError(f"an mp4 whose tables are not whole at its head ({kind!r}, {length})")
    if begins + length > len(head):
        head += file.read(begins + length - len(head))
    return head[begins + 8 : begins + length]


class _Box(NamedTuple):
    kind: bytes
    content: bytes


def _boxes(content: bytes) -> Iterator[_Box]:
    place = 0
    while place + 8 <= len(content):
        length, kind = int.from_bytes(content[place : place + 4]), content[place + 4 : place + 8]
        if not 8 <= length <= len(content) - place:
            raise ValueError(f"a box {kind!r} of {length} bytes does not fit")
        yield _Box(kind, content[place + 8 : place + length])
        place += length


def _parse(movie: bytes) -> ProxyTable:
    for kind, track in _boxes(movie):
        media = dict(_boxes(dict(_boxes(track))[b"mdia"])) if kind == b"trak" else {}
        if media.get(b"hdlr", b"")[8:12] == b"vide":
            return _frame_table(media)
    raise ValueError("an mp4 without a picture")


def _frame_table(media: dict[bytes, bytes]) -> ProxyTable:
    boxes = dict(_boxes(dict(_boxes(media[b"minf"]))[b"stbl"]))
    if b"ctts" in boxes:
        raise ValueError("frames are not stored in the order in which they are shown")
    size_F = _sizes(boxes[b"stsz"])
    start_F = _starts(boxes, size_F)
    count, delta = _numbers(boxes[b"stts"], 2).T
    seconds = int((count * delta).sum()) / _timescale(media[b"mdhd"])
    if not len(size_F) or int(count.sum()) != len(size_F) or not seconds > 0:
        raise ValueError(f"{len(size_F)} frames in {seconds} s")
    return ProxyTable(
        start_F,
        start_F + size_F,
        _key_frames(boxes, len(size_F)),
        len(size_F) / seconds,
        _avc_header(boxes[b"stsd"]),
    )


def _sizes(box: bytes) -> Numbers:
    """Bytes of each frame (stsz): of each its own, or one for all."""
    size, count = int.from_bytes(box[4:8]), int.from_bytes(box[8:12])
    if count > MOST_FRAMES:
        raise ValueError(f"{count} frames")
    return np.full(count, size, np.int64) if size else _uint32(box[12 : 12 + 4 * count])


def _starts(boxes: dict[bytes, bytes], size_F: Numbers) -> Numbers:
    """Frames lie in chunks (stco), so many in each (stsc), one behind the other."""
    chunk_C = _numbers(boxes[b"stco"], 1)[:, 0]  # 32 bits: no proxy has 4 GB
    first, per_chunk, _ = _numbers(boxes[b"stsc"], 3).T
    lasting = np.diff(first, append=len(chunk_C) + 1)
    held = int((per_chunk * lasting).sum())
    if held != len(size_F) or lasting.min() < 1:
        raise ValueError(f"{len(size_F)} frames, {held} in chunks")
    chunk_F = np.repeat(np.arange(len(chunk_C)), np.repeat(per_chunk, lasting))
    before_F = np.cumsum(size_F) - size_F
    first_F = np.searchsorted(chunk_F, chunk_F, "left")
    start_F: Numbers = chunk_C[chunk_F] + before_F - before_F[first_F]
    return start_F


def _key_frames(boxes: dict[bytes, bytes], count: int) -> Numbers:
    """The key frame at or before each frame (stss; without it all are)."""
    if b"stss" not in boxes:
        return np.arange(count)
    key_F = np.zeros(count, np.int64)
    keys = _numbers(boxes[b"stss"], 1)[:, 0] - 1
    key_F[keys] = keys
    at_or_before_F: Numbers = np.maximum.accumulate(key_F)
    return at_or_before_F


def _timescale(box: bytes) -> int:
    """Units per second (mdhd)."""
    return int.from_bytes(box[20:24] if box[0] == 1 else box[12:16])


def _avc_header(box: bytes) -> bytes:
    """avcC of the one sample entry (stsd)."""
    entry = next(_boxes(box[8:]), _Box(b"", b""))
    if entry.kind != b"avc1":
        raise ValueError(f"coded as {entry.kind!r}, not H.264")
    return dict(_boxes(entry.content[SAMPLE_ENTRY - 8 :]))[b"avcC"]


def _numbers(box: bytes, columns: int) -> Numbers:
    """(count, columns) of a box that holds a count and so many rows."""
    count = int.from_bytes(box[4:8])
    return _uint32(box[8 : 8 + 4 * columns * count]).reshape(count, columns)


def _uint32(content: bytes) -> Numbers:
    return np.frombuffer(content, ">u4").astype(np.int64)


def _refuse(reason: str, err: Exception | None = None) -> NoReturn:
    raise unreadable(reason) from err
