"""Captions beside a video: .srt, .vtt, .ass and what else pysubs2 reads."""

import html
import re
from pathlib import Path

import pysubs2

from extractors.errors import Reason, VideoError
from extractors.tracks import Segment

SUFFIXES = (".srt", ".vtt", ".ass", ".ssa")
MAX_BYTES = 20 * 2**20
LANGUAGE = re.compile(r"\.[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*")  # .en, .en-GB, .zh_Hans


def find_captions(video: str) -> str | None:
    """The caption file beside a local video: same name, a caption suffix; NAME.LANG.srt too."""
    path = Path(video)
    for suffix in SUFFIXES:
        exact = path.with_suffix(suffix)
        if exact.is_file():
            return str(exact)
        named_alike = sorted(path.parent.glob(f"{_literal(path.stem)}.*{suffix}"))
        for candidate in named_alike:
            if LANGUAGE.fullmatch(candidate.name[len(path.stem) : -len(suffix)]):
                return str(candidate)
    return None


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


def _literal(name: str) -> str:
    """A file name as a glob pattern that matches it alone."""
    return re.sub(r"([*?\[])", r"[\1]", name)
