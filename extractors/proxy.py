"""A proxy: a small mp4 of a video for random access, made from the decode's own chunks.

    decode ─┬─ frames ─▶ pipe ─▶ ffmpeg (H.264) ─▶ picture.mp4 ─┬─▶ ffmpeg (copy) ─▶ proxy.mp4
            └─ samples ▶ pipe ─▶ ffmpeg (AAC) ───▶ sound.m4a ───┘

Nothing is decoded twice. Each encoder has one input: a child that reads two pipes may wait for
sound while we wait for it to take pictures, and the decoder gives both as they come. The files lie
in a temporary folder, so memory stays flat up to the proxy's own bytes.
"""

import contextlib
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import ffmpeg

from extractors.decode import Chunk
from extractors.decode_config import DecodeConfig, ProxyConfig
from extractors.errors import AbortError, Reason, VideoError
from extractors.ffmpeg import child, ffmpeg_binary, wait
from extractors.views import FrameView, SoundView, View

TO_YUV = "bicubic+accurate_rnd+full_chroma_int+bitexact"  # the size stays: colours alone
VERSION = 1
SOUND_VIEW = SoundView(16_000)
# no clock, no version of ffmpeg and no choice by the processor's kind in the bytes
REPRODUCIBLE = {"fflags": "+bitexact", "map_metadata": "-1", "threads": 1}
MP4 = {"format": "mp4", "movflags": "+faststart"}


def frame_view(config: ProxyConfig) -> FrameView:
    """The frames that a proxy holds, whole, their short side as set."""
    return FrameView(config.rate, config.short_side, config.short_side, fit="whole")


def check_encoders() -> None:
    """Raises AbortError where ffmpeg cannot encode H.264 or AAC."""
    listed = subprocess.run(
        [ffmpeg_binary(), "-hide_banner", "-encoders"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    names = {line.split()[1] for line in listed.stdout.splitlines() if len(line.split()) > 1}
    if missing := {"libx264", "aac"} - names:
        raise AbortError(
            f"{ffmpeg_binary()}: has no encoder {', '.join(sorted(missing))}, which extract.proxy "
            "needs; install an ffmpeg that has it, or set extract.proxy=null"
        )


class ProxyWriter:
    """Encodes the proxy of one video while it is decoded. Use it as a context manager.

    Every child is killed and reaped, and every file removed, on every way out. Together they may
    keep us waiting as long as the decoder of a video of this `duration` may.
    """

    def __init__(
        self, path: str, config: ProxyConfig, decode: DecodeConfig, duration: float | None
    ) -> None:
        self._path = path
        self._config = config
        self._max_memory_mb = decode.max_memory_mb
        seconds = duration if duration is not None else decode.max_seconds
        self._left = decode.deadline_base + decode.deadline_factor * seconds
        self._resources = contextlib.ExitStack()
        self._encoders: dict[View, _Encoder] = {}
        self.views: tuple[View, ...] = (frame_view(config), SOUND_VIEW)

    def __enter__(self) -> "ProxyWriter":
        self._folder = Path(self._resources.enter_context(tempfile.TemporaryDirectory()))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._resources.__exit__(kind, error, traceback)

    def write(self, chunk: Chunk) -> None:
        """Takes a chunk of one of `views`, in order. Raises VideoError: time-out, extractor_error.

        Waits while the encoder is busy: no more than a pipe's worth is held.
        """
        encoder = self._encoders.get(chunk.view) or self._start(chunk)
        content = memoryview(chunk.data.tobytes())
        while content:
            with self._waiting():
                ready = encoder.selector.select(timeout=max(0.0, self._left))
            if not ready:
                raise self._too_slow()
            try:
                content = content[os.write(encoder.pipe, content) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as err:
                raise self._broken(encoder.log) from err

    def finish(self) -> bytes:
        """The proxy, once all chunks are written; empty where there was no frame.

        Raises VideoError: time-out, extractor_error.
        """
        for encoder in self._encoders.values():
            encoder.end()
            self._wait(encoder.process, encoder.log)
        picture, sound = self._folder / "picture.mp4", self._folder / "sound.m4a"
        if not picture.exists():
            return b""
        if not sound.exists():
            return picture.read_bytes()
        target = self._folder / "proxy.mp4"
        with tempfile.TemporaryFile() as log:
            command = _compile(_joined(picture, sound, target))
            with child(command, log, max_memory_mb=self._max_memory_mb) as process:
                self._wait(process, log)
        return target.read_bytes()

    def _start(self, chunk: Chunk) -> "_Encoder":
        read_end, pipe = os.pipe()
        try:
            if isinstance(chunk.view, FrameView):
                size = chunk.data.shape[1:3]
                graph = _picture(read_end, size, self._folder / "picture.mp4", self._config)
            else:
                graph = _sound(read_end, self._folder / "sound.m4a", self._config)
            encoder = _Encoder(pipe, self._resources)
            encoder.process = self._resources.enter_context(
                child(
                    _compile(graph),
                    encoder.log,
                    max_memory_mb=self._max_memory_mb,
                    pass_fds=[read_end],
                )
            )
        finally:
            os.close(read_end)  # the child's alone: its end must break our pipe
        self._encoders[chunk.view] = encoder
        return encoder

    def _wait(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        with self._waiting():
            code = wait(process, self._left)
        if code is None:
            raise self._too_slow()
        if code != 0:
            raise self._broken(log)

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._left -= time.monotonic() - started

    def _too_slow(self) -> VideoError:
        message = f"{self._path}: not encoded in time (decode.deadline_base, deadline_factor)"
        return VideoError(Reason.TIMEOUT, "proxy", message)

    def _broken(self, log: IO[bytes]) -> VideoError:
        log.seek(0)
        lines = log.read(2**16).decode(errors="replace").strip().splitlines()
        message = f"{self._path}: its proxy was not encoded: {(lines or ['no reason given'])[0]}"
        return VideoError(Reason.EXTRACTOR_ERROR, "proxy", message)


class _Encoder:
    """The pipe into one encoding child; what it holds is freed with `resources`."""

    process: subprocess.Popen[bytes]

    def __init__(self, pipe: int, resources: contextlib.ExitStack) -> None:
        self.pipe = pipe
        closing = resources.enter_context(contextlib.ExitStack())
        closing.callback(os.close, pipe)
        self.end = closing.close  # a second call does nothing
        os.set_blocking(pipe, False)
        self.log: IO[bytes] = resources.enter_context(
            tempfile.TemporaryFile()  # noqa: SIM115  # closed with `resources`
        )
        self.selector = closing.enter_context(selectors.DefaultSelector())
        self.selector.register(pipe, selectors.EVENT_WRITE)


def _picture(descriptor: int, size: tuple[int, int], target: Path, config: ProxyConfig) -> Any:
    height, width = size
    source = ffmpeg.input(
        f"pipe:{descriptor}",
        format="rawvideo",
        pix_fmt="rgb24",
        s=f"{width}x{height}",
        framerate=config.rate,
    )
    # no B-frames: what is shown first is stored first, so any frame is a seek and a few decodes
    return source.filter("scale", flags=TO_YUV).output(
        str(target),
        vcodec="libx264",
        pix_fmt="yuv420p",
        preset="veryfast",
        crf=config.crf,
        g=config.gop,
        bf=0,
        **{"flags": "+bitexact+cgop", "x264-params": "cpu-independent=1"},
        **REPRODUCIBLE,
        **MP4,
    )


def _sound(descriptor: int, target: Path, config: ProxyConfig) -> Any:
    source = ffmpeg.input(f"pipe:{descriptor}", format="s16le", ar=SOUND_VIEW.rate, ac=1)
    kbps = f"{config.sound_kbps}k"
    return source.output(
        str(target), acodec="aac", audio_bitrate=kbps, flags="+bitexact", **REPRODUCIBLE, **MP4
    )


def _joined(picture: Path, sound: Path, target: Path) -> Any:
    return ffmpeg.output(
        ffmpeg.input(str(picture))["v"],
        ffmpeg.input(str(sound))["a"],
        str(target),
        c="copy",
        **REPRODUCIBLE,
        **MP4,
    )


def _compile(graph: Any) -> list[str]:
    quiet = ("-hide_banner", "-nostdin", "-nostats", "-loglevel", "error", "-filter_threads", "1")
    command: list[str] = graph.global_args(*quiet).compile(cmd=ffmpeg_binary())
    return command
