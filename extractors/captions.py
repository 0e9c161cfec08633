"""Captions of a video: where they are looked for, in this order, and what they say.

    1. what the source's `captions` column names (a file, an info.json, a table)
    2. a caption file beside the video (extractors/caption_names.py)
    3. yt-dlp's NAME.info.json beside the video, where it holds captions
    4. `speech.caption_table` (extractors/caption_tables.py)
    5. a subtitle stream inside the video (extractors/caption_streams.py)

The first that is there is taken; whether it can be read does not send the search on.
"""

import codecs
import functools
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from extractors.caption_info import InfoCaptions, find_in_info
from extractors.caption_names import (
    INFO_SUFFIX,
    CaptionName,
    captions_beside,
    choose,
    names_by_video,
)
from extractors.caption_names import SUFFIXES as SUFFIXES  # others list them
from extractors.caption_streams import (
    SubtitleStream,
    choose_stream,
    read_stream,
    subtitle_streams,
)
from extractors.caption_tables import INDEX_SUFFIX, find_entry, read_entry
from extractors.cues import parse_captions, within
from extractors.decode_config import DecodeConfig
from extractors.errors import Reason, VideoError
from extractors.probe import Probe
from extractors.speech_config import SpeechConfig
from extractors.tracks import Segment

MAX_BYTES = 20 * 2**20

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Captions:
    """Where the captions of a video were found; nothing of them is parsed yet."""

    kind: str
    """'srt', 'vtt', 'ass' or 'ssa' (a file), 'info' (inside an info.json), 'table', 'stream'."""
    name: str
    """The file's name without folders, the id in the table, or the stream's number and codec."""
    path: str
    """The file that holds them; the video's own for a stream."""
    language: str | None = None
    """As it is tagged; None where nothing says."""
    automatic: bool = False
    """Whether something says that a machine wrote them."""
    content: bytes | None = None
    """Their text, where they are no file of their own."""
    stream: SubtitleStream | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """For meta.json: kind, name, language, automatic. No path of this machine."""
        return {name: getattr(self, name) for name in ("kind", "name", "language", "automatic")}

    @property
    def digest(self) -> str:
        """What the segments come from, as a sha256 in hex: the file's bytes, the table's entry, or
        which stream (what it says is in the video's own content id).

        Raises VideoError (bad_captions) where the file cannot be read.
        """
        if self.stream is not None:
            return hashlib.sha256(json.dumps(asdict(self.stream)).encode()).hexdigest()
        if self.content is not None:
            return hashlib.sha256(self.content).hexdigest()
        return captions_id(self.path)


def locate_captions(
    video: str,
    speech: SpeechConfig,
    decoding: DecodeConfig,
    *,
    ids: Sequence[str] = (),
    given: str | None = None,
    probed: Probe | None = None,
) -> Captions | None:
    """The captions of a local video, by the order above; None where there are none.

    `ids` are the names that a table may know the video by, `given` is a local copy of what the
    source names, `probed` says whether the video has streams to look at.
    Raises VideoError (bad_captions, time-out), or UsageError for a table that is none.
    """
    if not speech.captions:
        return None
    language, names = speech.caption_language, tuple(dict.fromkeys([*ids, Path(video).stem]))
    found = _given(given, language, names) if given else None
    found = found or _beside(video, language)
    if found is None and speech.caption_table:
        found = _in_table(speech.caption_table, names)
    if found is None and speech.embedded_captions and probed is not None and probed.timed:
        found = _inside(video, language, decoding)
    return found


def read_located(captions: Captions, probed: Probe | None, decoding: DecodeConfig) -> list[Segment]:
    """The segments in order of time, cut to the video's declared length.

    Raises VideoError (bad_captions, time-out).
    """
    where = f"{captions.path}: {captions.name}" if captions.content else captions.path
    if captions.stream is not None:
        assert probed is not None, "a stream is found in what was probed"
        text = read_stream(captions.path, captions.stream, probed, decoding)
        segments = parse_captions(text, where) if text.strip() else []
    elif captions.kind == "table":
        segments = read_entry(captions.content or b"", where)
    elif captions.content is not None:
        segments = parse_captions(_decode(captions.content, where), where)
    else:
        segments = read_captions(captions.path)
    return within(segments, probed.duration if probed else None)


def find_captions(video: str, language: str | None = None) -> str | None:
    """The caption file beside a local video (`caption_names.choose`); None where there is none."""
    if language is None:  # the usual case without a listing of the folder
        for suffix in SUFFIXES:
            exact = Path(video).with_suffix(suffix)
            if exact.is_file():
                return str(exact)
    chosen = choose(captions_beside(video), language)
    return str(Path(video).with_name(chosen.name)) if chosen else None


def read_captions(path: str, duration: float | None = None) -> list[Segment]:
    """The segments of a caption file in order of time, up to `duration` seconds; empty and repeated
    ones are dropped, mark-up is removed.

    UTF-8, UTF-16 and UTF-32, else Windows-1252, which Latin-1 is a part of.
    Raises VideoError (bad_captions) for what is no caption file.
    """
    return within(parse_captions(_decode(_read_bytes(path), path), path), duration)


def captions_id(path: str) -> str:
    """The sha256 of a caption file's bytes, in hex. Raises VideoError (bad_captions)."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise _unreadable(path, err) from err


def _given(given: str, language: str | None, ids: Sequence[str]) -> Captions | None:
    if given.endswith(INFO_SUFFIX):
        return _in_info(given, language)
    if given.endswith((".json", INDEX_SUFFIX)):
        return _in_table(given, ids)
    name = Path(given).name
    parsed = [entry for entries in names_by_video([name]).values() for entry in entries]
    return _file(given, parsed[-1] if parsed else CaptionName(name))


def _beside(video: str, language: str | None) -> Captions | None:
    path = find_captions(video, language)
    if path is not None:
        known = {entry.name: entry for entry in captions_beside(video)}
        name = Path(path).name
        return _file(path, known.get(name, CaptionName(name)))
    info = Path(video).with_name(Path(video).stem + INFO_SUFFIX)
    return _in_info(str(info), language) if info.is_file() else None


def _file(path: str, name: CaptionName) -> Captions:
    kind = Path(path).suffix.lower().lstrip(".")
    return Captions(kind, name.name, path, name.language, name.automatic)


def _in_info(info: str, language: str | None) -> Captions | None:
    found: InfoCaptions | None = find_in_info(info, language)
    if found is None:
        return None
    if found.path is not None:
        path = Path(found.path)
        return _file(found.path, CaptionName(path.name, found.language, found.automatic))
    content = (found.data or "").encode(errors="replace")
    name = f"{found.language}{found.suffix}"
    return Captions("info", name, info, found.language, found.automatic, content)


def _in_table(table: str, ids: Sequence[str]) -> Captions | None:
    found = find_entry(table, tuple(ids))
    return Captions("table", found[0], table, content=found[1]) if found else None


def _inside(video: str, language: str | None, decoding: DecodeConfig) -> Captions | None:
    streams = subtitle_streams(video, decoding)
    chosen = choose_stream(streams, language)
    if chosen is not None:
        name = f"stream {chosen.number} ({chosen.codec})"
        return Captions("stream", name, video, chosen.language, stream=chosen)
    pictures = sorted({stream.codec for stream in streams if not stream.is_text})
    if pictures:
        _say_once(f"Subtitles that are pictures are not read as text: {', '.join(pictures)}")
    return None


@functools.cache
def _say_once(message: str) -> None:
    _log.warning(message)


def _read_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as err:
        raise _unreadable(path, err) from err
    if len(content) > MAX_BYTES:
        raise VideoError(Reason.BAD_CAPTIONS, "captions", f"{path}: over {MAX_BYTES} bytes")
    return content


def _unreadable(path: str, err: OSError) -> VideoError:
    message = f"{path}: cannot be read as captions: {err.strerror}"
    return VideoError(Reason.BAD_CAPTIONS, "captions", message)


def _decode(content: bytes, where: str) -> str:
    """Text of any encoding that caption files come in. Raises VideoError for what is binary."""
    text = None
    for encoding in _encodings(content):
        try:
            text = content.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    if text is None or "\0" in text:
        message = f"{where}: cannot be read as captions: not a text file"
        raise VideoError(Reason.BAD_CAPTIONS, "captions", message)
    return text.removeprefix("\ufeff")


def _encodings(content: bytes) -> tuple[str, ...]:
    """To be tried in turn: what the byte order mark says, else by where the zeros of ASCII lie."""
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return ("utf-32",)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return ("utf-16",)
    if content[1:2] == b"\0" != content[:1]:
        return ("utf-16-le",)
    if content[:1] == b"\0" != content[1:2]:
        return ("utf-16-be",)
    return ("utf-8", "cp1252", "latin-1")
