"""One ffmpeg child a video gives every view of it in a single pass, streamed in bounded chunks.

    file ─▶ ffmpeg ─┬─ picture ─▶ pipe ─▶ Chunk(view, first, frames)
                    └─ sound ───▶ pipe ─▶ Chunk(view, first, samples)

Nothing of a video is held but the chunk being filled of each view: when the consumer is busy the
pipes fill and ffmpeg waits.
"""

import contextlib
import functools
import logging
import math
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extractors.decode_command import (
    Descriptors,
    decode_command,
    no_nvdec,
    timed_streams,
)
from extractors.decode_config import DecodeConfig
from extractors.decode_verdict import Ended, packet_ends, read_errors, time_reached, verdict
from extractors.errors import AbortError, Reason, VideoError
from extractors.ffmpeg import child, nvdec_failure, wait
from extractors.probe import Probe
from extractors.views import FrameView, SoundView, View

CHUNK_BYTES = 4 * 2**20
READ_BYTES = 2**18

_log = logging.getLogger(__name__)


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
    """What decoded the picture: 'cpu', or 'cuda' for NVDEC."""
    fallback: str | None = None
    """Why it was the CPU where NVDEC was asked for."""


@dataclass
class _Pipe:
    """The read end of one view's pipe and the bytes that do not yet make a chunk."""

    view: View
    shape: tuple[int, ...]
    dtype: type[np.generic]
    chunk_bytes: int
    buffer: bytearray
    count: int = 0
    keeps_last: bool = False
    """The last item stays in the buffer for `hold`."""

    def take(self, *, everything: bool) -> Chunk | None:
        """The next chunk, once enough bytes are there; at the end, whatever is whole."""
        item = math.prod(self.shape) * np.dtype(self.dtype).itemsize
        available = len(self.buffer) - (item if self.keeps_last else 0)
        size = available // item * item if everything else self.chunk_bytes
        if size <= 0 or available < size:
            return None
        data = np.frombuffer(bytes(self.buffer[:size]), self.dtype).reshape(-1, *self.shape)
        del self.buffer[:size]
        chunk = Chunk(self.view, self.count, data[:, 0] if self.shape == (1,) else data)
        self.count += len(data)
        return chunk

    def hold(self, seconds: float) -> Iterator[Chunk]:
        """The last frame for every row before `seconds` that is missing, at least the first."""
        item = math.prod(self.shape)
        if len(self.buffer) < item:
            return
        frame = np.frombuffer(bytes(self.buffer[-item:]), self.dtype).reshape(1, *self.shape)
        missing = max(math.floor(seconds * self.view.rate + 0.5), 1) - self.count
        while missing > 0:
            number = min(missing, max(1, self.chunk_bytes // item))
            yield Chunk(self.view, self.count, np.repeat(frame, number, axis=0))
            self.count += number
            missing -= number


def uses_nvdec(config: DecodeConfig, *, gpu: bool) -> bool:
    """Whether a worker, with a GPU or without, is to decode by NVDEC. To be asked at its start.

    Raises AbortError where `decode.device` is `cuda` and ffmpeg cannot decode on a GPU.
    """
    if config.device == "cpu" or (config.device == "auto" and not gpu):
        return False
    failure = nvdec_failure()
    if failure is None:
        return True
    if config.device == "cuda":
        raise AbortError(
            f"decode.device: cuda, but ffmpeg cannot decode on a GPU here ({failure}); mend the "
            "driver (containers need its `video` capability) or set decode.device: auto or cpu"
        )
    _say_once(f"Videos are decoded on the CPU: ffmpeg cannot decode on the GPU ({failure})")
    return False


@functools.cache
def _say_once(message: str) -> None:
    _log.warning(message)


def decode(
    path: str, probed: Probe, views: Sequence[View], config: DecodeConfig, *, cuda: bool = False
) -> Iterator[Chunk | Decoded]:
    """Yields the chunks of every view that the file can give, each view's in order, then Decoded.

    Frame views need a picture and sound views a sound track; others give nothing. The child is
    killed and reaped on every way out, an abandoned generator included. With `cuda`, NVDEC decodes
    the picture; what it does not know or finds damaged is decoded on the CPU, whose verdict counts
    (what NVDEC had given by then stays).
    Raises VideoError: time-out, zero frames, truncated, decode errors, too long, too large.
    """
    wanted = [view for view in dict.fromkeys(views) if _possible(view, probed)]
    if not wanted:
        yield Decoded(duration=probed.duration or 0.0, damage=None, device="cpu")
        return
    task = _Task(path, probed, wanted, config)
    fallback = None
    given: dict[View, int] = {}
    if cuda and probed.picture and any(isinstance(view, FrameView) for view in wanted):
        fallback = no_nvdec(probed.picture)
        if fallback is None:
            fallback = yield from _decode_by_nvdec(task, given)
            if fallback is None:
                return
    pipes = _pipes(task)
    ended = yield from _run(task, pipes, given, cuda=False)
    duration, damage = _judge(task, pipes, ended)
    yield Decoded(duration, damage, "cpu", fallback)


@dataclass(frozen=True)
class _Task:
    """What is to be decoded."""

    path: str
    probed: Probe
    views: Sequence[View]
    config: DecodeConfig


def _decode_by_nvdec(
    task: _Task, given: dict[View, int]
) -> Generator[Chunk | Decoded, None, str | None]:
    """Returns None where it was a success, else why not; `given` then says how many items of each
    view were given already."""
    pipes = _pipes(task)
    ended = yield from _run(task, pipes, {}, cuda=True)
    try:
        duration, failure = _judge(task, pipes, ended)
    except VideoError as err:
        failure = err.message
    if failure is None:
        yield Decoded(duration, None, "cuda")
        return None
    given |= {pipe.view: pipe.count for pipe in pipes}
    _log.debug("%s: decoded on the CPU: %s", task.path, failure)
    return failure


def _run(
    task: _Task, pipes: list["_Pipe"], given: dict[View, int], *, cuda: bool
) -> Generator[Chunk, None, Ended]:
    """One child from start to end; gives the items of each view from number `given` on."""
    probed, config = task.probed, task.config
    patience = patience_for(task.path, probed, config)
    ends = [os.pipe() for _ in pipes]
    read_ends, write_ends = [read for read, _ in ends], [write for _, write in ends]
    try:
        with contextlib.ExitStack() as stack:
            # these go to files: a child that complains a lot must not block on a full pipe
            log, progress, times = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
            targets = Descriptors(tuple(write_ends), progress.fileno(), times.fileno())
            command = decode_command(task.path, probed, task.views, targets, config, cuda=cuda)
            memory = None if cuda else config.max_memory_mb
            shared = [*write_ends, targets.progress, targets.times]
            with child(command, log, max_memory_mb=memory, pass_fds=shared) as process:
                _close(write_ends)
                drained = _drain(dict(zip(read_ends, pipes, strict=True)), patience, config)
                yield from _not_given(drained, given)
                code = patience.wait(process)
            ends_by_stream = packet_ends(times, timed_streams(probed, task.views, config))
            held = _hold(task, pipes, ends_by_stream)
            yield from _not_given(held, given)
            reached = max(time_reached(progress), *ends_by_stream.values(), 0.0)
            return Ended(code, read_errors(log), reached)
    finally:
        _close(write_ends)
        _close(read_ends)


def _judge(task: _Task, pipes: Sequence["_Pipe"], ended: Ended) -> tuple[float, str | None]:
    counts = {pipe.view: pipe.count for pipe in pipes}
    return verdict(task.path, task.probed, counts, ended, task.config.on_damage)


def _not_given(chunks: Iterator[Chunk], given: dict[View, int]) -> Iterator[Chunk]:
    """The chunks without the items that were given by another child."""
    for chunk in chunks:
        known = max(0, given.get(chunk.view, 0) - chunk.first)
        if known < len(chunk.data):
            yield Chunk(chunk.view, chunk.first + known, chunk.data[known:])


def _hold(task: _Task, pipes: list["_Pipe"], ends: dict[int, float]) -> Iterator[Chunk]:
    """Where key frames alone are decoded, the rows from the last one to the picture's end."""
    picture = task.probed.picture
    for pipe in pipes:
        if pipe.keeps_last and picture is not None:
            for chunk in pipe.hold(ends.get(picture.number, 0.0)):
                _check_length(chunk, task.path, task.config)
                yield chunk


def _possible(view: View, probed: Probe) -> bool:
    if isinstance(view, FrameView):
        return probed.picture is not None
    return probed.sound is not None


def _pipes(task: _Task) -> list[_Pipe]:
    pipes = [_pipe(view, task.probed) for view in task.views]
    for pipe in pipes:
        if math.prod(pipe.shape) > 3 * task.config.max_pixels:  # a strip, made whole: 65535 x 1
            size = f"{pipe.shape[1]}x{pipe.shape[0]}"
            message = f"{task.path}: rows of {size}, decode.max_pixels is {task.config.max_pixels}"
            raise VideoError(Reason.TOO_LARGE, "decode", message)
        pipe.keeps_last = task.config.key_frames_only and isinstance(pipe.view, FrameView)
    return pipes


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
class Patience:
    """How long a child may still keep us waiting. A slow consumer does not use it up."""

    path: str
    seconds: float

    def select(self, selector: selectors.BaseSelector) -> list[tuple[selectors.SelectorKey, int]]:
        """The pipes that are ready. Raises VideoError: time-out."""
        with self._spending():
            ready = selector.select(timeout=max(0.0, self.seconds))
        if not ready:
            raise self.error()
        return ready

    def wait(self, process: subprocess.Popen[bytes]) -> int:
        """The child's exit code. Raises VideoError: time-out."""
        with self._spending():
            code = wait(process, self.seconds)
        if code is None:
            raise self.error()
        return code

    @contextlib.contextmanager
    def _spending(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds -= time.monotonic() - started

    def error(self) -> VideoError:
        """What to raise when it has run out."""
        message = f"{self.path}: not decoded in time (decode.deadline_base, deadline_factor)"
        return VideoError(Reason.TIMEOUT, "decode", message)


def patience_for(path: str, probed: Probe, config: DecodeConfig) -> Patience:
    """That of `decode.deadline_base` and `deadline_factor` with a video of this length."""
    seconds = probed.duration if probed.duration is not None else config.max_seconds
    return Patience(path, config.deadline_base + config.deadline_factor * seconds)


def _drain(pipes: dict[int, _Pipe], patience: Patience, config: DecodeConfig) -> Iterator[Chunk]:
    """Reads all pipes at once until each has ended, giving chunks as they fill."""
    with selectors.DefaultSelector() as selector:
        for descriptor, pipe in pipes.items():
            selector.register(descriptor, selectors.EVENT_READ, pipe)
        while selector.get_map():
            for key, _ in patience.select(selector):
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


def _close(descriptors: list[int]) -> None:
    """Closes and forgets, so that a second call does no harm."""
    while descriptors:
        os.close(descriptors.pop())
