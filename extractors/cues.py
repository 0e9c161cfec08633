"""What caption files say: cues of .srt, .vtt, .ass and .ssa to clean segments of transcript.

pysubs2 does the parsing. Around it: what it leaves in, what makes it slow on hostile files, and
the rolling duplicates of YouTube's automatic captions.
"""

import html
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pysubs2

from extractors.errors import Reason, VideoError
from extractors.tracks import Segment

MAX_LINES = 400_000  # twelve hours of automatic captions have half of it
MAX_CUE = 5000  # characters of one cue that are looked at
SHORT = 0.05  # seconds: the cues between two lines of automatic captions last 10 ms
GAP = 0.1  # seconds between two cues of which the second still shows a line of the first
MAX_ROLLING = 8  # lines that stay from cue to cue; captions show four at most
ROLLING_SHARE = 0.3  # of the cues: automatic captions have nearly all, others nearly none
# what stands in a file that has cues, of those that may have none: any .srt has some
CUE_SIGNS = {"srt": "", "vtt": "-->", "ass": "Dialogue:", "ssa": "Dialogue:"}

_ASS = re.compile(r"^\s*\[(?:Script Info|V4\+? Styles|Events)\]", re.MULTILINE | re.IGNORECASE)
_DRAWING = re.compile(r"\\p[1-9]")
# bounded by their own opening sign, so that a million of them without an end take linear time
_OVERRIDE = re.compile(r"\{[^{}]*\}")
_TAG = re.compile(r"<[^<>]*>")
_TIMING = re.compile(r"<[\d:.]+>")  # when a word is said: <00:00:01.480>
_BREAK = re.compile(r"\\[Nn]|\n")
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060\ufeff]")


@dataclass(frozen=True)
class Cue:
    """Lines shown over [start, end), in seconds, without mark-up."""

    start: float
    end: float
    lines: tuple[str, ...]


def parse_captions(text: str, where: str) -> list[Segment]:
    """The segments of a caption file in order of time, without mark-up, repeats or empty ones.

    `where` names the file in messages. Raises VideoError (bad_captions) for what is no .srt, .vtt,
    .ass or .ssa.
    """
    format_, content = _prepare(text)
    if content.count("\n") > MAX_LINES:
        message = f"{where}: over {MAX_LINES} lines of captions"
        raise VideoError(Reason.BAD_CAPTIONS, "captions", message)
    try:
        # html tags are taken out below: pysubs2's own patterns take quadratic time
        parsed = pysubs2.SSAFile.from_string(content, format_=format_, keep_html_tags=True)
    except (ValueError, pysubs2.Pysubs2Error) as err:
        message = f"{where}: cannot be read as captions: {' '.join(str(err).split())[:200]}"
        raise VideoError(Reason.BAD_CAPTIONS, "captions", message) from err
    # a broken line of .ass becomes an event without text, from 0 to 10 s
    events = [event for event in parsed if event.text or format_ in ("srt", "vtt")]
    if not events and CUE_SIGNS[format_] in content:
        message = f"{where}: cannot be read as captions: no whole cue of .srt, .vtt, .ass or .ssa"
        raise VideoError(Reason.BAD_CAPTIONS, "captions", message)
    cues = [
        Cue(event.start / 1000, event.end / 1000, lines)
        for event in events
        if event.end > event.start >= 0 and not event.is_comment
        if (lines := _lines(event.text[:MAX_CUE]))
    ]
    cues.sort(key=lambda cue: (cue.start, cue.end))
    return segments_of(cues)


def segments_of(cues: Iterable[Cue], duration: float | None = None) -> list[Segment]:
    """Cues, sorted by time, as segments: rolling repeats and doubles are taken out.

    Cues that overlap stay as they are: the speech of automatic captions does overlap.
    """
    found = dict.fromkeys(
        Segment(cue.start, cue.end, " ".join(cue.lines), "captions")
        for cue in without_rolling(list(cues))
    )
    return within(list(found), duration)


def within(segments: Sequence[Segment], duration: float | None) -> list[Segment]:
    """What of the segments lies before the video's end, in seconds; all where that is unknown."""
    if duration is None:
        return list(segments)
    return [
        Segment(s.start, min(s.end, duration), s.text, s.source, s.words)
        for s in segments
        if s.start < duration
    ]


def plain(text: str) -> str:
    """One line of text: entities resolved (automatic captions have them doubled), blanks single."""
    resolved = html.unescape(html.unescape(text))
    return re.sub(r"\s+", " ", _INVISIBLE.sub("", resolved)).strip()


def without_rolling(cues: Sequence[Cue]) -> list[Cue]:
    """Each line once, where the captions roll: a cue repeats the last lines of the one before.

    Whether they roll is asked of the whole file, since one line said twice is said twice.
    """
    if not cues:
        return []
    repeated = [0, *(_num_repeated(one, two) for one, two in itertools.pairwise(cues))]
    evidence = sum(
        number > 0 and (number < len(cue.lines) or cue.end - cue.start < SHORT)
        for cue, number in zip(cues, repeated, strict=True)
    )
    if evidence < max(2, ROLLING_SHARE * len(cues)):
        return list(cues)
    return [
        Cue(cue.start, cue.end, cue.lines[number:])
        for cue, number in zip(cues, repeated, strict=True)
        if number < len(cue.lines)
    ]


def _num_repeated(before: Cue, cue: Cue) -> int:
    """How many first lines of a cue are the last ones of the cue before."""
    if cue.start - before.end > GAP:
        return 0
    most = min(len(before.lines), len(cue.lines), MAX_ROLLING)
    fits = (n for n in range(most, 0, -1) if before.lines[-n:] == cue.lines[:n])
    return next(fits, 0)


def _prepare(text: str) -> tuple[str, str]:
    """The format, of the content rather than of the name, and the text as pysubs2 needs it."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.lstrip().startswith("WEBVTT"):
        return "vtt", _cue_blocks(text)
    if _ASS.search(text[:10_000]):
        return ("ass" if re.search(r"\[V4\+ Styles\]", text, re.IGNORECASE) else "ssa"), text
    return "srt", re.sub(r"\n{3,}", "\n\n", text)  # runs of newlines take it quadratic time


def _cue_blocks(text: str) -> str:
    """A WebVTT file without what pysubs2 takes for something else: notes, styles and names of cues
    for text of the cue before, a line with two times of words for the start of a cue."""
    blocks = []
    for block in re.split(r"\n{2,}", text):
        lines = block.split("\n")
        first = next((i for i, line in enumerate(lines) if "-->" in line), None)
        if first is not None and not block.startswith("NOTE"):
            spoken = [_TIMING.sub("", line) for line in lines[first + 1 :]]
            blocks.append("\n".join([lines[first], *spoken]))
    return "\n\n".join(["WEBVTT", *blocks])


def _lines(text: str) -> tuple[str, ...]:
    """The lines of a cue, without mark-up; none of a drawing of .ass."""
    if _DRAWING.search(text):
        return ()
    without = _TAG.sub("", _OVERRIDE.sub("", text)).replace(r"\h", " ")
    lines = (plain(line) for line in _BREAK.split(without))
    return tuple(line for line in lines if line)
