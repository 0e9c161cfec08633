"""What a file says of itself, without decoding: read from the header that ffmpeg prints.

ffprobe would give JSON, but the pip-installable ffmpeg has none beside it, and one way that always
works is better than two.
"""

import os
import re
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass

import ffmpeg

from extractors.decode_config import DecodeConfig
from extractors.errors import Reason, VideoError
from extractors.ffmpeg import child, ffmpeg_binary, input_options, wait

PROBE_DEADLINE = 30.0
HEADER_BYTES = 2**24  # of what ffmpeg prints: the tags of a file can be of any size

_STREAM = re.compile(
    r"^ +Stream #0:(?P<number>\d+)(?:\[\w+\])?(?:\((?P<language>[^)\s]*)\))?: "
    r"(?P<kind>Video|Audio|Subtitle|Data): (?P<codec>\w+)(?P<rest>.*)$"
)
_PIXELS = re.compile(r", (yuvj?4\d\dp(?:\d+le)?)[(,]")
_SIZE = re.compile(r", (\d+)x(\d+)")
_SAR = re.compile(r"SAR (\d+):(\d+)")
_RATE = re.compile(r", ([\d.]+)(k?) fps")
_ROTATION = re.compile(r"(?:displaymatrix|Display Matrix): rotation of (-?[\d.]+) degrees")
_DURATION = re.compile(r"^  Duration: (\d+):(\d\d):(\d\d\.\d+)")
_INPUT = re.compile(r"^Input #0, (\S+), from ")


@dataclass(frozen=True)
class PictureStream:
    """A moving picture as it is shown: rotation and sample aspect ratio applied."""

    number: int
    """Stream number in the file."""
    codec: str
    height: int
    width: int
    rate: float
    """Frames per second as declared; 0 where the container does not say."""
    pixels: str = ""
    """ffmpeg's name of the pixel format, e.g. `yuv420p10le`; empty for those that are not YUV."""
    rotation: float = 0.0
    """Degrees that a player turns the coded picture, anticlockwise; -90 for most upright phones."""


@dataclass(frozen=True)
class SoundStream:
    """A sound track."""

    number: int
    codec: str
    language: str | None = None
    """As the file tags it; None where it does not, or says `und`."""


@dataclass(frozen=True)
class Probe:
    """What a file declares; decoding may find less."""

    container: str
    duration: float | None
    """Seconds; None where the container does not say or ffmpeg only guesses from the bit rate."""
    picture: PictureStream | None
    """The first stream that moves (cover art does not count)."""
    sound: SoundStream | None
    """The track in `decode.audio_language`, else the default one, else the first."""
    other: tuple[int, ...] = ()
    """Numbers of the further pictures and sounds: no view is made of them."""
    timed: tuple[int, ...] = ()
    """Numbers of subtitle and data streams."""


def probe(path: str, config: DecodeConfig) -> Probe:
    """Raises VideoError: gone, unreadable, empty, not a video, refused, too long, too large."""
    check_file(path)
    header = _read_header(path, config)
    found = parse_header(header, path, config.audio_language)
    if "exceeds specified max pixel count" in header:
        message = f"{path}: frames of far more pixels than decode.max_pixels, {config.max_pixels}"
        raise VideoError(Reason.TOO_LARGE, "probe", message)
    if found.picture is None and found.sound is None:
        raise VideoError(Reason.NO_STREAMS, "probe", f"{path}: holds neither picture nor sound")
    if found.duration is not None and found.duration > config.max_seconds:
        message = f"{path}: {found.duration:.0f} s, decode.max_seconds is {config.max_seconds:.0f}"
        raise VideoError(Reason.TOO_LONG, "probe", message)
    picture = found.picture
    if picture is not None and picture.height * picture.width > config.max_pixels:
        size = f"{picture.width}x{picture.height}"
        message = f"{path}: frames of {size}, decode.max_pixels is {config.max_pixels}"
        raise VideoError(Reason.TOO_LARGE, "probe", message)
    return found


def check_file(path: str) -> None:
    """Raises VideoError unless `path` is a readable regular file with something in it."""
    try:
        path.encode()  # ffmpeg-python, JSON and parquet take no other names
    except UnicodeEncodeError as err:
        shown = path.encode(errors="backslashreplace").decode()
        message = f"{shown}: its name is not UTF-8; rename it"
        raise VideoError(Reason.UNREADABLE, "probe", message) from err
    try:
        status = os.stat(path)
    except FileNotFoundError as err:
        raise VideoError(Reason.NOT_FOUND, "probe", f"{path}: no such file") from err
    except OSError as err:
        raise VideoError(Reason.UNREADABLE, "probe", f"{path}: {err.strerror}") from err
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(Reason.UNREADABLE, "probe", f"{path}: not a regular file")
    if not os.access(path, os.R_OK):
        raise VideoError(Reason.UNREADABLE, "probe", f"{path}: permission denied")
    if status.st_size == 0:
        raise VideoError(Reason.EMPTY_FILE, "probe", f"{path}: 0 bytes")


def _read_header(path: str, config: DecodeConfig) -> str:
    """What `ffmpeg -i` prints of a file (it exits with 1: no output was asked for)."""
    source = ffmpeg.input(**input_options(path, config.max_pixels))
    arguments = source.output("-").get_args()
    command = [ffmpeg_binary(), "-hide_banner", "-nostdin", *arguments[: arguments.index("-i") + 2]]
    with tempfile.TemporaryFile() as log:
        with child(command, log, max_memory_mb=config.max_memory_mb) as process:
            if wait(process, PROBE_DEADLINE) is None:
                message = f"{path}: its header was not read in {PROBE_DEADLINE:.0f} s"
                raise VideoError(Reason.TIMEOUT, "probe", message)
        log.seek(0)
        return log.read(HEADER_BYTES).decode(errors="replace")


def parse_header(text: str, path: str, audio_language: str | None = None) -> Probe:
    """Raises VideoError with the reason that ffmpeg's messages point to."""
    lines = text.split("\n")  # a tag may hold any other line separator
    opened = next((match for line in lines if (match := _INPUT.match(line))), None)
    if opened is None:
        raise _why_not_opened(text, path)
    streams = [match for line in lines if (match := _STREAM.match(line))]
    guessed = "Estimating duration from bitrate" in text
    picture, sound = _picture(streams, lines), _sound(streams, audio_language)
    taken = {stream.number for stream in (picture, sound) if stream is not None}
    return Probe(
        container=opened.group(1),
        duration=None if guessed else _duration(lines),
        picture=picture,
        sound=sound,
        other=tuple(sorted(_numbers(streams, ("Video", "Audio")) - taken)),
        timed=tuple(sorted(_numbers(streams, ("Subtitle", "Data")))),
    )


def _numbers(streams: list[re.Match[str]], kinds: tuple[str, ...]) -> set[int]:
    """Streams that have packets with times: cover art has none, an unknown codec may not."""
    return {
        int(match["number"])
        for match in streams
        if match["kind"] in kinds
        and match["codec"] not in ("none", "unknown")
        and "attached pic" not in match["rest"]
    }


def _why_not_opened(text: str, path: str) -> VideoError:
    low_score = "detected only with low score" in text
    last = text.strip().splitlines()[-1] if text.strip() else "ffmpeg said nothing"
    if "not on whitelist" in text:
        message = f"{path}: a playlist or list of other files, which are not followed"
        return VideoError(Reason.REFUSED, "probe", message)
    if "moov atom not found" in text and not low_score:
        message = f"{path}: its index (moov) is missing: the file was cut short"
        return VideoError(Reason.TRUNCATED, "probe", message)
    return VideoError(Reason.NOT_A_VIDEO, "probe", f"{path}: not a video file ({last})")


def _duration(lines: Iterable[str]) -> float | None:
    for line in lines:
        if match := _DURATION.match(line):
            hours, minutes, seconds = match.groups()
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    return None


def _picture(streams: list[re.Match[str]], lines: list[str]) -> PictureStream | None:
    for match in streams:
        rest = match["rest"]
        size = _SIZE.search(rest)
        if match["kind"] != "Video" or "attached pic" in rest or size is None:
            continue
        width, height = float(size.group(1)), float(size.group(2))
        if not (width and height):
            continue  # a damaged header: nothing of such a stream can be shown
        if (ratio := _SAR.search(rest)) and int(ratio.group(1)) and int(ratio.group(2)):
            width = width * int(ratio.group(1)) / int(ratio.group(2))
        rotation = _rotation(match.group(0), lines)
        if round(rotation) % 180 == 90:
            width, height = height, width
        rate = _RATE.search(rest)
        return PictureStream(
            number=int(match["number"]),
            codec=match["codec"],
            height=max(1, round(height)),
            width=max(1, round(width)),
            rate=float(rate.group(1)) * (1000 if rate.group(2) else 1) if rate else 0.0,
            pixels=pixels.group(1) if (pixels := _PIXELS.search(rest)) else "",
            rotation=rotation,
        )
    return None


def _rotation(stream_line: str, lines: list[str]) -> float:
    """Degrees from the side data printed below the stream's own line."""
    for line in lines[lines.index(stream_line) + 1 :]:
        if _STREAM.match(line):
            break
        if match := _ROTATION.search(line):
            return float(match.group(1))
    return 0.0


def _sound(streams: list[re.Match[str]], language: str | None) -> SoundStream | None:
    tracks = [match for match in streams if match["kind"] == "Audio"]
    if not tracks:
        return None
    spoken = [match for match in tracks if language and _language(match) == language.lower()]
    choice = spoken or tracks
    default = [match for match in choice if "(default)" in match["rest"]]
    chosen = (default or choice)[0]
    return SoundStream(int(chosen["number"]), chosen["codec"], _language(chosen))


def _language(stream: re.Match[str]) -> str | None:
    tag = (stream["language"] or "").lower()
    return tag if tag not in ("", "und") else None
