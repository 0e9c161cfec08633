"""One small picture of a moment of a video, as a data URI, or the reason why there is none."""

import base64
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fsspec.core import split_protocol

from extractors.ffmpeg import ffmpeg_binary, input_options

NUM_THREADS = 2
MAX_SIDE = 320
"""Pixels."""


@dataclass(frozen=True)
class Thumbnail:
    """Either a picture or a reason."""

    data_uri: str | None = None
    """`data:image/jpeg;base64,…`."""
    reason: str | None = None
    """Why there is no picture, in a few words for the reader of a page."""


def extract_thumbnails(moments: Iterable[tuple[str, float]]) -> dict[tuple[str, float], Thumbnail]:
    """A thumbnail for each (uri, seconds), equal moments once, two at a time."""
    unique = list(dict.fromkeys(moments))
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        pictures = pool.map(lambda moment: extract_thumbnail(*moment), unique)
        return dict(zip(unique, pictures, strict=True))


def extract_thumbnail(uri: str, seconds: float, deadline: float = 20.0) -> Thumbnail:
    """The frame of a local video at a time, at most 320 pixels wide and high.

    Never raises for the video's sake: what cannot be opened or decoded within `deadline` seconds
    gives a reason. ffmpeg may open this one file only, and containers only, no playlists.
    """
    protocol, path = split_protocol(uri)
    if protocol not in (None, "file", "local"):
        return Thumbnail(reason="not on this disk")
    if not Path(path).is_file():
        return Thumbnail(reason="file not found")
    try:
        output = subprocess.run(
            _command(path, seconds), capture_output=True, timeout=deadline, check=False
        )
    except subprocess.TimeoutExpired:
        return Thumbnail(reason=f"no frame within {deadline:g} s")
    if output.stdout:
        encoded = base64.b64encode(output.stdout).decode("ascii")
        return Thumbnail(data_uri=f"data:image/jpeg;base64,{encoded}")
    if b"matches no streams" in output.stderr:
        return Thumbnail(reason="sound only")
    if output.returncode != 0:
        return Thumbnail(reason="cannot be decoded")
    return Thumbnail(reason=f"no frame at {seconds:.1f} s")


def _command(path: str, seconds: float) -> list[str]:
    options = input_options(path)
    filename = options.pop("filename")
    safety = [part for name, value in options.items() for part in (f"-{name}", str(value))]
    scale = f"scale={MAX_SIDE}:{MAX_SIDE}:force_original_aspect_ratio=decrease"
    return [
        *[ffmpeg_binary(), "-nostdin", "-v", "error", "-threads", "1"],
        *[*safety, "-ss", f"{max(0.0, seconds):.3f}", "-i", filename],
        *["-map", "0:v:0", "-frames:v", "1", "-vf", scale],
        # mjpeg asks for full range by name before it knows of any frame
        *["-c:v", "mjpeg", "-strict", "unofficial", "-q:v", "5", "-f", "image2pipe", "pipe:1"],
    ]
