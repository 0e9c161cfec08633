"""One ffmpeg child a video gives every view of it in a single pass, streamed in bounded chunks.

    file ─▶ ffmpeg ─┬─ picture ─ split ─ fps ─ scale ─ crop ─▶ pipe ─▶ Chunk(view, first, frames)
                    └─ sound ─ resample ─────────────────────▶ pipe ─▶ Chunk(view, first, samples)

Nothing of a video is held but the chunk being filled of each view: when the consumer is busy the
pipes fill and ffmpeg waits.
"""

import contextlib
import math
import os
import re
import selectors
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from extractors.config import DecodeConfig
from extractors.errors import Reason, VideoError
from extractors.ffmpeg import child, ffmpeg_binary, input_options
from extractors.probe import Probe
from extractors.views import FrameView, SoundView, View

CHUNK_BYTES = 4 * 2**20
READ_BYTES = 2**18
# what ffmpeg calls errors on healthy files: remarks on streams that are only passed by, on H.264
# cut without encoding at an open group of pictures, on chapter titles
HARMLESS = re.compile(r"^\[null @|mmco: unref short failure|Referenced QT chapter track not found")
SCALER = "bicubic+accurate_rnd+full_chroma_int+bitexact"


@dataclass(frozen=True)
class Chunk:
    """Consecutive frames or samples of one view."""

    view: View
    first: int
    """Index of the chunk's first frame or sample in the view."""
    data: NDArray[np.generic]
    """(N, height, width, 3) uint8 RGB frames, or (N,) int16 samples."""


@dataclass(frozen=True)
class Decoded:
    """What decoding found, known at its end."""

    duration: float
    """Seconds that were decoded: the longest view's."""
    damage: str | None
    """What was wrong with the file, under `on_damage: keep`."""
    device: str
    """'cpu' or 'cuda'."""


@dataclass
class _Pipe:
    """The read end of one view's pipe and the bytes that do not yet make a chunk."""

    view: View
    shape: tuple[int, ...]
    dtype: type[np.generic]
    chunk_bytes: int
    buffer: bytearray
    count: int = 0

    def take(self, *, everything: bool) -> Chunk | None:
        """The next chunk, once enough bytes are there; at the end, whatever is whole."""
        item = math.prod(self.shape) * np.dtype(self.dtype).itemsize
        size = len(self.buffer) // item * item if everything else self.chunk_bytes
        if size == 0 or len(self.buffer) < size:
            return None
        data = np.frombuffer(bytes(self.buffer[:size]), self.dtype).reshape(-1, *self.shape)
        del self.buffer[:size]
        chunk = Chunk(self.view, self.count, data[:, 0] if self.shape == (1,) else data)
        self.count += len(data)
        return chunk


def decode(
    path: str, probed: Probe, views: Sequence[View], config: DecodeConfig, *, cuda: bool = False
) -> Iterator[Chunk | Decoded]:
    """Yields the chunks of every view that the file can give, each view's in order, then Decoded.

    Frame views need a picture and sound views a sound track; others give nothing. The child is
    killed and reaped on every way out, an abandoned generator included. With `cuda`, ffmpeg
    decodes on the GPU what NVDEC knows and the rest on the CPU.
    Raises VideoError: time-out, zero frames, truncated, decode errors, too long.
    """
    wanted = [view for view in dict.fromkeys(views) if _possible(view, probed)]
    if not wanted:
        yield Decoded(duration=probed.duration or 0.0, damage=None, device="cpu")
        return
    seconds = probed.duration if probed.duration is not None else config.max_seconds
    patience = _Patience(path, config.deadline_base + config.deadline_factor * seconds)
    pipes = [_pipe(view, probed) for view in wanted]
    ends = [os.pipe() for _ in wanted]
    read_ends, write_ends = [read for read, _ in ends], [write for _, write in ends]
    try:
        # these go to files: a child that complains a lot must not block on a full pipe
        with tempfile.TemporaryFile() as log, tempfile.TemporaryFile() as progress:
            shared = [*write_ends, progress.fileno()]
            command = decode_command(path, probed, wanted, shared, config, cuda=cuda)
            memory = None if cuda else config.max_memory_mb
            with child(command, log, max_memory_mb=memory, pass_fds=shared) as process:
                _close(write_ends)
                yield from _drain(dict(zip(read_ends, pipes, strict=True)), patience, config)
                code = patience.wait(process)
            ended = _Ended(code, _errors(log), _time_reached(progress))
    finally:
        _close(write_ends)
        _close(read_ends)
    yield _verdict(path, probed, pipes, ended, config, "cuda" if cuda else "cpu")


def decode_command(
    path: str,
    probed: Probe,
    views: Sequence[View],
    descriptors: Sequence[int],
    config: DecodeConfig,
    *,
    cuda: bool,
) -> list[str]:
    """The child's command line: one input, one raw output a view on its own descriptor.

    `descriptors` has one more, the last: there ffmpeg says how far it has come.
    """
    options: dict[str, Any] = {**input_options(path), "threads": config.threads}
    if cuda:
        options["hwaccel"] = "cuda"
    source = ffmpeg.input(**options)
    frame_views = [view for view in views if isinstance(view, FrameView)]
    copies = {}
    if frame_views:
        assert probed.picture is not None
        split = source[str(probed.picture.number)].filter_multi_output("split", len(frame_views))
        copies = {view: split[number] for number, view in enumerate(frame_views)}
    outputs = []
    for view, descriptor in zip(views, descriptors[:-1], strict=True):
        if isinstance(view, FrameView):
            stream = _frames(copies[view], view, probed)
            kwargs = {"format": "rawvideo", "pix_fmt": "rgb24", "fps_mode": "passthrough"}
        else:
            assert probed.sound is not None
            stream = _samples(source[str(probed.sound.number)], view)
            kwargs = {"format": "s16le", "ac": "1"}
        outputs.append(ffmpeg.output(stream, f"pipe:{descriptor}", **kwargs))
    outputs += [
        ffmpeg.output(source[str(number)], "-", format="null", c="copy")
        for number in _other_streams(probed, views)
    ]
    graph = ffmpeg.merge_outputs(*outputs).global_args(
        "-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+error",
        "-progress", f"pipe:{descriptors[-1]}", "-filter_complex_threads", "1",
    )  # fmt: skip
    command: list[str] = graph.compile(cmd=ffmpeg_binary())
    return command


def _other_streams(probed: Probe, views: Sequence[View]) -> list[int]:
    """Picture or sound that no view takes. They are read all the same, undecoded, because

    - the end of a file may be theirs: without them a whole file can look truncated;
    - ffmpeg counts time in MPEG streams from the first packet of the streams in use, and a row
      must not move with what else is asked.
    """
    taken = {type(view) for view in views}
    kinds = ((probed.picture, FrameView), (probed.sound, SoundView))
    return [stream.number for stream, view in kinds if stream and view not in taken]


def _frames(stream: Any, view: FrameView, probed: Probe) -> Any:
    assert probed.picture is not None
    height, width = probed.picture.height, probed.picture.width
    # round=near (the default): frame i is the last one shown before (i + 0.5) / rate, and is there
    # if that is in the video; a video of less than one row still gives that row
    short = probed.duration is not None and probed.duration * view.rate < 1
    last = "pass" if short else "round"
    stream = stream.filter("fps", fps=view.rate, start_time=0, eof_action=last)
    if view.fit == "crop":
        scale = max(view.height / height, view.width / width)
        cover = max(view.height, round(height * scale)), max(view.width, round(width * scale))
        stream = stream.filter("scale", cover[1], cover[0], flags=SCALER)
        return stream.filter("crop", view.width, view.height)
    target = view.frame_size(height, width)
    return stream.filter("scale", target[1], target[0], flags=SCALER)


def _samples(stream: Any, view: SoundView) -> Any:
    # async and first_pts: gaps and late starts become silence, so sample i lies at i / rate
    return stream.filter("aresample", view.rate, **{"async": 1, "first_pts": 0})


def _possible(view: View, probed: Probe) -> bool:
    if isinstance(view, FrameView):
        return probed.picture is not None
    return probed.sound is not None


def _pipe(view: View, probed: Probe) -> _Pipe:
    if isinstance(view, SoundView):
        return _Pipe(view, (1,), np.int16, CHUNK_BYTES // 4, bytearray())
    assert probed.picture is not None
    height, width = view.frame_size(probed.picture.height, probed.picture.width)
    frame = height * width * 3
    return _Pipe(
        view, (height, width, 3), np.uint8, max(1, CHUNK_BYTES // frame) * frame, bytearray()
    )


@dataclass
class _Patience:
    """How long the child may still keep us waiting. A slow consumer does not use it up."""

    path: str
    seconds: float

    def select(self, selector: selectors.BaseSelector) -> list[tuple[selectors.SelectorKey, int]]:
        """The pipes that are ready."""
        with self._spending():
            return selector.select(timeout=max(0.0, self.seconds))

    def wait(self, process: subprocess.Popen[bytes]) -> int:
        """The child's exit code."""
        with self._spending(), contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.0, self.seconds))
        if process.returncode is None:
            raise self.error()
        return process.returncode

    @contextlib.contextmanager
    def _spending(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds -= time.monotonic() - started

    def error(self) -> VideoError:
        """What to raise when it has run out."""
        message = f"{self.path}: not decoded in time (decode.deadline_base, deadline_factor)"
        return VideoError(Reason.TIMEOUT, "decode", message)


def _drain(pipes: dict[int, _Pipe], patience: _Patience, config: DecodeConfig) -> Iterator[Chunk]:
    """Reads all pipes at once until each has ended, giving chunks as they fill."""
    with selectors.DefaultSelector() as selector:
        for descriptor, pipe in pipes.items():
            selector.register(descriptor, selectors.EVENT_READ, pipe)
        while selector.get_map():
            ready = patience.select(selector)
            if not ready:
                raise patience.error()
            for key, _ in ready:
                content = os.read(key.fd, READ_BYTES)
                if not content:
                    selector.unregister(key.fd)
                key.data.buffer.extend(content)
                while chunk := key.data.take(everything=not content):
                    _check_length(chunk, patience.path, config)
                    yield chunk


def _check_length(chunk: Chunk, path: str, config: DecodeConfig) -> None:
    """A container may lie about its length, or not state it: the bound holds all the same."""
    seconds = chunk.first / chunk.view.rate
    if seconds > config.max_seconds:
        message = f"{path}: still going after {seconds:.0f} s, decode.max_seconds"
        raise VideoError(Reason.TOO_LONG, "decode", message)


@dataclass(frozen=True)
class _Ended:
    """How a child ended."""

    code: int
    errors: list[str]
    reached: float
    """Seconds to the end of the last packet of any stream."""


def _errors(log: IO[bytes]) -> list[str]:
    log.seek(0)
    lines = log.read(2**20).decode(errors="replace").strip().splitlines()
    return [line for line in lines if not HARMLESS.search(line)]


def _time_reached(progress: IO[bytes]) -> float:
    """The last `out_time_us=` of ffmpeg's progress reports, in seconds; 0 where there is none."""
    progress.seek(max(0, progress.seek(0, os.SEEK_END) - 4096))
    times = re.findall(rb"^out_time_us=(\d+)$", progress.read(), re.MULTILINE)
    return int(times[-1]) / 1e6 if times else 0.0


def _verdict(
    path: str,
    probed: Probe,
    pipes: Sequence[_Pipe],
    ended: _Ended,
    config: DecodeConfig,
    device: str,
) -> Decoded:
    """ffmpeg exits with 0 on a file cut short, so what came out is held against the header."""
    duration = max(pipe.count / pipe.view.rate for pipe in pipes)
    first_error = next(iter(ended.errors), "")
    if not any(pipe.count for pipe in pipes):
        message = f"{path}: nothing could be decoded ({first_error or 'no frames'})"
        raise VideoError(Reason.ZERO_FRAMES, "decode", message)
    reached = max(duration, ended.reached)
    damage = None
    if probed.duration is not None and reached < probed.duration - _slack(probed, pipes):
        reason = Reason.TRUNCATED
        damage = f"{reached:.2f} s of {probed.duration:.2f} s are there"
    elif ended.code != 0 or first_error:
        reason = Reason.DECODE_ERROR
        damage = f"{len(ended.errors)} errors, the first: {first_error}"
    if damage is not None and config.on_damage == "fail":
        raise VideoError(reason, "decode", f"{path}: {damage}")
    return Decoded(duration=duration, damage=damage, device=device)


def _slack(probed: Probe, pipes: Sequence[_Pipe]) -> float:
    """Seconds by which a whole file's longest view may fall short of its declared duration."""
    assert probed.duration is not None
    return 0.5 + 0.02 * probed.duration + min(1 / pipe.view.rate for pipe in pipes)


def _close(descriptors: list[int]) -> None:
    """Closes and forgets, so that a second call does no harm."""
    while descriptors:
        os.close(descriptors.pop())
