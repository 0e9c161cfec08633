"""Captions that yt-dlp's NAME.info.json holds or names."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ijson

from extractors.caption_names import SUFFIXES, CaptionName, choose
from extractors.errors import Reason, VideoError

MAX_BYTES = 2**28  # comments of viewers can make it large; they are passed over


@dataclass(frozen=True)
class InfoCaptions:
    """Captions that an info.json leads to."""

    language: str
    automatic: bool
    suffix: str
    data: str | None
    """Their text, where the info.json itself holds it."""
    path: str | None
    """Their file beside the info.json, where it does not."""


def find_in_info(info: str, language: str | None) -> InfoCaptions | None:
    """The best captions of an info.json, by `caption_names.choose`; None where it has none here.

    Its addresses on the network are not followed, nor are paths: a file it names is looked for
    beside it only. Raises VideoError (bad_captions) for what is not JSON.
    """
    found = {captions_name: entry for captions_name, entry in _candidates(info)}
    chosen = choose(list(found), language)
    return found[chosen] if chosen else None


def _candidates(info: str) -> Iterator[tuple[CaptionName, InfoCaptions]]:
    sections = {name: _section(info, name) for name in ("subtitles", "automatic_captions")}
    downloaded = _section(info, "requested_subtitles")
    made_by_hand = sections["subtitles"]
    groups = [(made_by_hand, False), (sections["automatic_captions"], True)]
    for section, automatic in groups:
        for language, formats in section.items():
            for entry in formats if isinstance(formats, list) else []:
                yield from _usable(info, language, automatic, entry)
    for language, entry in downloaded.items():
        yield from _usable(info, language, language not in made_by_hand, entry)


def _usable(
    info: str, language: str, automatic: bool, entry: Any
) -> Iterator[tuple[CaptionName, InfoCaptions]]:
    if not isinstance(entry, dict) or f".{entry.get('ext')}" not in SUFFIXES:
        return
    suffix, data, given = f".{entry['ext']}", entry.get("data"), entry.get("filepath")
    file_name = Path(given).name if isinstance(given, str) else ""
    path = Path(info).with_name(file_name) if file_name else None
    tag = language.removesuffix("-orig")
    name = CaptionName(f"{language}{suffix}", tag, automatic or tag != language)
    if isinstance(data, str) and data:
        yield name, InfoCaptions(tag, name.automatic, suffix, data, None)
    elif path is not None and path.is_file():
        yield name, InfoCaptions(tag, name.automatic, suffix, None, str(path))


def _section(info: str, name: str) -> dict[str, Any]:
    """One member of the file, streamed: all else is passed over."""
    try:
        if Path(info).stat().st_size > MAX_BYTES:
            raise VideoError(Reason.BAD_CAPTIONS, "captions", f"{info}: over {MAX_BYTES} bytes")
        with open(info, "rb") as file:
            section = next(ijson.items(file, name, use_float=True), None)
    except (OSError, ijson.JSONError) as err:
        message = f"{info}: cannot be read as yt-dlp's JSON: {' '.join(str(err).split())}"
        raise VideoError(Reason.BAD_CAPTIONS, "captions", message) from err
    return section if isinstance(section, dict) else {}
