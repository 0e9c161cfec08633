"""The ffmpeg binary and how any child of it is bound: what it may open, how long, how much."""

import contextlib
import functools
import os
import resource
import selectors
import subprocess
from collections.abc import Iterator, Sequence
from typing import IO, Any

from extractors.errors import AbortError

# Containers that hold their own media. Playlists (hls, dash, concat, image lists) name other
# files or hosts, so a hostile "video" could read what its owner may not: they are not opened.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,wav,w64,mp3,"
    "flac,aac,ac3,eac3,amr,aiff,au,caf,opus,mxf,nut,rm,ivf,h264,hevc,av1,obu,dv,gif,y4m,"
    "yuv4mpegpipe,wv,ape,tta,swf,vc1,avs,nsv,gxf,roq,smk,bink"
)

# frames stay on the GPU until a filter brings them over: one that was decoded on the CPU after all
# cannot pass, and ffmpeg fails in place of falling back in silence
NVDEC_OPTIONS = ("-hwaccel", "cuda", "-hwaccel_output_format", "cuda")
BLACK_FRAME = (  # 256 x 144, H.264, as base64
    "AAAAAWdkAAyscgRBATsBEAAAAwAQAAADAyDxQphGAAAAAWjoQ48siwAAAWWIgQAFf/72c3wKa22wlS4Fdvdmo+XQkuX7"
    "EGD64nYPR/2Pt2VZmG6AAAFGAoOIGAtXgQ=="
)


@functools.cache
def ffmpeg_binary() -> str:
    """What $IMAGEIO_FFMPEG_EXE names, else the ffmpeg in imageio-ffmpeg's wheel, else that on PATH.

    The wheel's is pinned with the other packages, so that every machine decodes alike; it has
    NVDEC, and starts in a sixth of the time of a distribution's, which links 200 libraries.
    """
    import imageio_ffmpeg  # only where needed: its import looks for binaries

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as err:
        raise AbortError(f"no ffmpeg: {err}") from err


@functools.cache
def ffmpeg_version() -> str:
    """The version as ffmpeg prints it, e.g. `7.1`."""
    output = subprocess.run(
        [ffmpeg_binary(), "-version"], capture_output=True, text=True, check=True, timeout=30
    )
    return output.stdout.split()[2]


@functools.cache
def nvdec_failure() -> str | None:
    """Why ffmpeg cannot decode on the GPU here, None where it can. Asked once a process.

    A GPU that opens is not enough: in a container the driver's decoder library may be missing. So
    one frame is decoded, by the options that videos are decoded with.
    """
    command = [ffmpeg_binary(), "-hide_banner", "-nostdin", "-loglevel", "error",
               "-init_hw_device", "cuda", *NVDEC_OPTIONS, "-protocol_whitelist", "data",
               "-f", "h264", "-i", f"data:video/h264;base64,{BLACK_FRAME}",
               "-vf", "hwdownload,format=nv12", "-f", "null", "-"]  # fmt: skip
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
    except OSError as err:
        return f"{command[0]}: cannot be started: {err.strerror}"
    except subprocess.TimeoutExpired:
        return "no answer in 60 s"
    if result.returncode == 0:
        return None
    lines = result.stderr.decode(errors="replace").strip().splitlines()
    return lines[0] if lines else f"exit code {result.returncode}"


@functools.cache
def scales_on_gpu() -> bool:
    """Whether ffmpeg's scale_cuda filters as it shrinks (8.1 and later).

    Older ones read 4 x 4 pixels whatever the scale: the shrunk frames alias, and a network would
    see something else than on the CPU.
    """
    command = [ffmpeg_binary(), "-hide_banner", "-nostdin", "-h", "filter=scale_cuda"]
    output = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return " use_filters " in output.stdout


def input_options(path: str, max_pixels: int | None = None) -> dict[str, Any]:
    """ffmpeg-python keywords that make any input safe: local files of known containers only, and
    no decoder that takes memory for frames of far more than `max_pixels`."""
    options: dict[str, Any] = {
        "filename": "file:" + os.path.abspath(path),  # a leading dash or colon means nothing
        "protocol_whitelist": "file",
        "format_whitelist": CONTAINERS,
    }
    if max_pixels is not None:
        options["max_pixels"] = min(2 * max_pixels, 2**31 - 1)  # frames are coded larger than shown
    return options


@contextlib.contextmanager
def child(
    command: Sequence[str],
    stderr: IO[bytes] | int = subprocess.PIPE,
    *,
    max_memory_mb: int | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a child without standard input or output; killed and reaped on every way out.

    Raises AbortError where it cannot be started.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=pass_fds,
            env=os.environ | {"AV_LOG_FORCE_NOCOLOR": "1"},
        )
    except OSError as err:
        raise AbortError(f"{command[0]}: cannot be started: {err.strerror}") from err
    with process:
        try:
            if max_memory_mb is not None:
                _limit_memory(process.pid, max_memory_mb * 2**20)
            yield process
        finally:
            process.kill()


def wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """The exit code as soon as the child ends; None where it still runs after `seconds`.

    `Popen.wait` with a time-out looks again each 50 ms, longer than many a child takes.
    """
    if process.poll() is None:
        descriptor = os.pidfd_open(process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(descriptor, selectors.EVENT_READ)
                selector.select(timeout=max(0.0, seconds))
        finally:
            os.close(descriptor)
    return process.poll()


def _limit_memory(pid: int, num_bytes: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # ended already: its exit code tells why
        resource.prlimit(pid, resource.RLIMIT_AS, (num_bytes, num_bytes))
