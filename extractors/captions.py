"""Captions beside a video: .srt, .vtt, .ass and what else pysubs2 reads."""

import functools
import html
import os
import re
from pathlib import Path

import pysubs2

from extractors.errors import Reason, VideoError
from extractors.tracks import Segment

SUFFIXES = (".srt", ".vtt", ".ass", ".ssa")
MAX_BYTES = 20 * 2**20
WITH_LANGUAGE = re.compile(  # NAME.en.srt, NAME.en-GB.vtt, NAME.zh_Hans.ass
    r"(.+)\.[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]+)*\.(?:srt|vtt|ass|ssa)", re.DOTALL
)


def find_captions(video: str) -> str | None:
    """The caption file beside a local video: same name, a caption suffix; NAME.LANG.srt too."""
    path = Path(video)
    for suffix in SUFFIXES:
        exact = path.with_suffix(suffix)
        if exact.is_file():
            return str(exact)
    named = _with_language(str(path.parent), _changed(path.parent)).get(path.stem)
    return str(path.parent / named) if named else None


def read_captions(path: str) -> list[Segment]:
    """The segments in order of time; empty ones are dropped, mark-up is removed.

    Raises VideoError (bad_captions) for what is no caption file.
    """
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise VideoError(Reason.BAD_CAPTIONS, "captions", f"{path}: over {MAX_BYTES} bytes")
        text = Path(path).read_text(encoding="utf-8-sig")
        subtitles = pysubs2.SSAFile.from_string(text)
    except (OSError, UnicodeDecodeError, ValueError, pysubs2.Pysubs2Error) as err:
        message = f"{path}: cannot be read as captions: {err}"
        raise VideoError(Reason.BAD_CAPTIONS, "captions", message) from err
    subtitles.sort()
    segments = [
        Segment(event.start / 1000, event.end / 1000, _plain(event.plaintext), "captions")
        for event in subtitles
        if not event.is_comment and event.end > event.start
    ]
    return [segment for segment in segments if segment.text]


def _plain(text: str) -> str:
    without_tags = html.unescape(re.sub(r"<[^<>]*>", "", text))  # WebVTT writes &amp; and &lt;
    return re.sub(r"\s+", " ", without_tags).strip()


def _changed(folder: Path) -> int:
    """When an entry of a folder was last added or removed, in nanoseconds."""
    return folder.stat().st_mtime_ns if folder.is_dir() else 0


@functools.lru_cache(maxsize=8)
def _with_language(folder: str, changed: int) -> dict[str, str]:
    """Video name to the first of its NAME.LANG.srt files: one listing for all of a folder's
    videos, made anew when the folder has changed."""
    found: dict[str, str] = {}
    for name in sorted(os.listdir(folder)) if changed else []:
        match = WITH_LANGUAGE.fullmatch(name)
        if match:
            found.setdefault(match.group(1), name)
    return found
