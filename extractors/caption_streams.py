"""Subtitle streams inside a video file, by an ffmpeg child bound like those that decode."""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import ffmpeg

from extractors.caption_names import language_distance
from extractors.decode_config import DecodeConfig
from extractors.errors import Reason, VideoError
from extractors.ffmpeg import child, ffmpeg_binary, input_options, wait
from extractors.probe import HEADER_BYTES, PROBE_DEADLINE, Probe

# what ffmpeg decodes to text; all others (dvd_subtitle, hdmv_pgs_subtitle …) are pictures of text
TEXT_CODECS = frozenset(
    (
        "ass",
        "ssa",
        "subrip",
        "srt",
        "mov_text",
        "webvtt",
        "text",
        "eia_608",
        "subviewer",
        "microdvd",
    )
)
MAX_BYTES = 20 * 2**20

_STREAM = re.compile(
    r"^ +Stream #0:(?P<number>\d+)(?:\[\w+\])?(?:\((?P<language>[^)\s]*)\))?: "
    r"Subtitle: (?P<codec>\w+)(?P<rest>.*)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class SubtitleStream:
    """One subtitle stream as the container declares it."""

    number: int
    """Stream number in the file."""
    codec: str
    language: str | None = None
    """As the file tags it (`eng`); None where it does not, or says `und`."""
    default: bool = False
    forced: bool = False
    """Only what a viewer of the original sound needs: a few signs and foreign lines."""

    @property
    def is_text(self) -> bool:
        """Whether it can be read: pictures of text cannot."""
        return self.codec in TEXT_CODECS


def subtitle_streams(path: str, config: DecodeConfig) -> list[SubtitleStream]:
    """The subtitle streams of a video, in its order. Raises VideoError on a time-out."""
    source = ffmpeg.input(**input_options(path, config.max_pixels))
    arguments = source.output("-").get_args()
    command = [ffmpeg_binary(), "-hide_banner", "-nostdin", *arguments[: arguments.index("-i") + 2]]
    with tempfile.TemporaryFile() as log:
        _run(command, log, PROBE_DEADLINE, config, path)
        log.seek(0)
        return parse_streams(log.read(HEADER_BYTES).decode(errors="replace"))


def parse_streams(header: str) -> list[SubtitleStream]:
    """From the header that `ffmpeg -i` prints."""
    return [
        SubtitleStream(
            number=int(match["number"]),
            codec=match["codec"],
            language=tag if (tag := (match["language"] or "").lower()) not in ("", "und") else None,
            default="(default)" in match["rest"],
            forced="(forced)" in match["rest"],
        )
        for match in _STREAM.finditer(header)
    ]


def choose_stream(streams: Sequence[SubtitleStream], language: str | None) -> SubtitleStream | None:
    """The text stream to take: in the language where one is wanted, else in none that is said;
    whole ones before forced ones, the default one first. None where none will do."""
    ranked = []
    for stream in streams:
        distance = language_distance(language, stream.language)
        if stream.is_text and distance is not None:
            untagged = language is not None and stream.language is None
            rank = (untagged, stream.forced, distance, not stream.default, stream.number)
            ranked.append((rank, stream))
    return min(ranked, key=lambda pair: pair[0])[1] if ranked else None


def read_stream(path: str, stream: SubtitleStream, probed: Probe, config: DecodeConfig) -> str:
    """A stream as the text of an .ass or .srt file, its times those of picture and sound.

    The child reads the whole file, undecoded but for this stream. Raises VideoError: a time-out,
    more than MAX_BYTES of text, damage (unless `decode.on_damage` is `keep`).
    """
    kind = "ass" if stream.codec in ("ass", "ssa") else "srt"
    seconds = probed.duration if probed.duration is not None else config.max_seconds
    with tempfile.TemporaryFile() as text, tempfile.TemporaryFile() as log:
        source = ffmpeg.input(**input_options(path, config.max_pixels))
        outputs = [
            ffmpeg.output(source[str(stream.number)], f"pipe:{text.fileno()}", format=kind,
                          fs=MAX_BYTES + 2**16, **{"c:s": kind})
        ]  # fmt: skip
        # read all streams: in MPEG streams ffmpeg counts time from the first one in use
        streams = [s.number for s in (probed.picture, probed.sound) if s] + list(probed.other)
        if streams:
            copied = [source[str(number)] for number in streams]
            outputs.append(ffmpeg.output(*copied, "-", format="null", c="copy"))
        graph = ffmpeg.merge_outputs(*outputs).global_args(
            "-hide_banner", "-nostdin", "-nostats", "-loglevel", "error"
        )
        deadline = config.deadline_base + config.deadline_factor * seconds
        command = graph.compile(cmd=ffmpeg_binary())
        code = _run(command, log, deadline, config, path, (text.fileno(),))
        return _checked(path, stream, code, text, log, config)


def _checked(
    path: str,
    stream: SubtitleStream,
    code: int,
    text: IO[bytes],
    log: IO[bytes],
    config: DecodeConfig,
) -> str:
    where = f"{path}: subtitle stream {stream.number} ({stream.codec})"
    text.seek(0)
    content = text.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        message = f"{where}: over {MAX_BYTES} bytes"
        raise VideoError(Reason.BAD_CAPTIONS, "captions", message)
    if code != 0 and config.on_damage == "fail":
        log.seek(0)
        lines = log.read(2**16).decode(errors="replace").strip().splitlines()
        message = (
            f"{where}: {lines[0] if lines else f'exit code {code}'} (speech.embedded_captions)"
        )
        raise VideoError(Reason.BAD_CAPTIONS, "captions", message)
    return content.decode(errors="replace")


def _run(
    command: Sequence[str],
    log: IO[bytes],
    deadline: float,
    config: DecodeConfig,
    path: str,
    shared: Sequence[int] = (),
) -> int:
    with child(command, log, max_memory_mb=config.max_memory_mb, pass_fds=shared) as process:
        code = wait(process, deadline)
        if code is None:
            message = f"{path}: its subtitles were not read in {deadline:.0f} s"
            raise VideoError(Reason.TIMEOUT, "captions", message)
        return code
