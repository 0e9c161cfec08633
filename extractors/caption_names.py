"""Which caption files belong to a video, and which of them is taken.

NAME.srt  NAME.vtt  NAME.ass  NAME.ssa      of a language that the name does not say
NAME.en.srt  NAME.pt-BR.vtt                 with a language, as players and yt-dlp name them
NAME.en-orig.vtt  NAME.en.auto.srt          made by a machine: auto, automatic, asr, generated
NAME.info.json                              what yt-dlp writes of a video
"""

import functools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import langcodes

SUFFIXES = (".srt", ".vtt", ".ass", ".ssa")
INFO_SUFFIX = ".info.json"
NEAREST = 10  # langcodes' distance: en and en-GB are 5 apart, no and nb 1, zh and zh-Hant 54
AUTOMATIC = frozenset(("auto", "automatic", "asr", "generated", "orig"))

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]+)*")


@dataclass(frozen=True)
class CaptionName:
    """What a name says of the captions it stands for."""

    name: str
    language: str | None = None
    """As the name has it, e.g. `en` or `pt-BR`; None where it says none."""
    automatic: bool = False
    """Whether it says that speech recognition made them."""


def names_by_video(names: Iterable[str]) -> dict[str, tuple[CaptionName, ...]]:
    """From the names of a folder: video name without suffix to the caption files it could have."""
    found: dict[str, list[CaptionName]] = {}
    for name in sorted(names):
        for video, captions in _parse(name):
            found.setdefault(video, []).append(captions)
    return {video: tuple(captions) for video, captions in found.items()}


def choose(captions: Sequence[CaptionName], language: str | None) -> CaptionName | None:
    """The captions to take, None where none will do.

    In a language: those named with it (made by hand before automatic, then the nearest: `en`
    before `en-GB`), else those whose name says no language. In any: those of no language first,
    made by hand before automatic, then by name. Always .srt before .vtt before .ass.
    """
    ranked = []
    for entry in captions:
        distance = language_distance(language, entry.language)
        if distance is not None:
            named = (entry.language is None) == (language is not None)
            tag = "" if language else (entry.language or "").lower()
            kind = _suffix_rank(entry.name)
            ranked.append(((named, entry.automatic, distance, tag, kind, entry.name), entry))
    return min(ranked, key=lambda pair: pair[0])[1] if ranked else None


@functools.lru_cache(maxsize=10_000)
def language_distance(wanted: str | None, language: str | None) -> int | None:
    """How far a language is from the wanted one; 0 where either is open, None where it is another.

    `eng`, `en` and `en-US` are one language.
    """
    if wanted is None or language is None:
        return 0
    try:
        distance = langcodes.tag_distance(wanted, language)
    except ValueError:  # no tag of a language
        return None
    return distance if distance <= NEAREST else None


def captions_beside(video: str) -> tuple[CaptionName, ...]:
    """The caption files beside a local video, as names in its folder."""
    path = Path(video)
    return _listed(str(path.parent), _changed(path.parent)).get(path.stem, ())


def caption_files(video: str) -> list[str]:
    """Every file beside a local video that its captions could come from: a change of one of them
    may change its transcript."""
    path = Path(video)
    info = path.with_name(path.stem + INFO_SUFFIX)
    named = [str(path.with_name(entry.name)) for entry in captions_beside(video)]
    return named + ([str(info)] if info.is_file() else [])


def _parse(name: str) -> Iterable[tuple[str, CaptionName]]:
    """The videos that a file may belong to: a.en.srt to a.en.mp4 and, in English, to a.mp4."""
    stem, dot, suffix = name.rpartition(".")
    if not stem or (dot + suffix).lower() not in SUFFIXES:
        return
    yield stem, CaptionName(name)
    parts = stem.split(".")
    language, automatic = None, False
    while len(parts) > 1 and (language is None or parts[-1].lower() in AUTOMATIC):
        if parts[-1].lower() in AUTOMATIC:
            automatic = True
        elif _LANGUAGE.fullmatch(parts[-1]):
            language, marked = _without_mark(parts[-1])
            automatic = automatic or marked
        else:
            break
        parts.pop()
    if language or automatic:
        yield ".".join(parts), CaptionName(name, language, automatic)


def _without_mark(tag: str) -> tuple[str, bool]:
    """`en-orig` is English of a machine: yt-dlp's name of the captions in the spoken language."""
    head, _, tail = tag.replace("_", "-").rpartition("-")
    return (head, True) if head and tail.lower() in AUTOMATIC else (tag, False)


def _suffix_rank(name: str) -> int:
    suffix = "." + name.rpartition(".")[2].lower()
    return SUFFIXES.index(suffix) if suffix in SUFFIXES else len(SUFFIXES)


def _changed(folder: Path) -> int:
    """When an entry of a folder was last added or removed, in nanoseconds."""
    return folder.stat().st_mtime_ns if folder.is_dir() else 0


@functools.lru_cache(maxsize=8)
def _listed(folder: str, changed: int) -> dict[str, tuple[CaptionName, ...]]:
    """One listing for all of a folder's videos, made anew when the folder has changed."""
    return names_by_video(os.listdir(folder)) if changed else {}
