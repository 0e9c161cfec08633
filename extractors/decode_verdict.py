"""How a video's ffmpeg child ended, and whether the file is whole."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from extractors.errors import Reason, VideoError
from extractors.probe import Probe
from extractors.views import View

# what ffmpeg calls errors on healthy files: remarks on streams that are only passed by, on H.264
# cut without encoding at an open group of pictures, on chapter titles
TOO_LARGE = "exceeds specified max pixel count"
HARMLESS = re.compile(
    r"^\[(null|framecrc) @|mmco: unref short failure|Referenced QT chapter track not found"
)
_PACKET = re.compile(rb"^(\d+), *(-?\d+|NOPTS), *(-?\d+|NOPTS), *(\d+),")
_TIME_BASE = re.compile(rb"^#tb (\d+): (\d+)/(\d+)")


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    code: int
    errors: list[str]
    reached: float
    """Seconds to the end of the last packet of any stream."""


def read_errors(log: IO[bytes]) -> list[str]:
    """What ffmpeg called errors, but for what is known to be harmless."""
    log.seek(0)
    lines = log.read(2**20).decode(errors="replace").strip().splitlines()
    return [line for line in lines if not HARMLESS.search(line)]


def time_reached(progress: IO[bytes]) -> float:
    """The last `out_time_us=` of ffmpeg's progress reports, in seconds; 0 where there is none."""
    progress.seek(max(0, progress.seek(0, os.SEEK_END) - 4096))
    times = re.findall(rb"^out_time_us=(\d+)$", progress.read(), re.MULTILINE)
    return int(times[-1]) / 1e6 if times else 0.0


def packet_ends(times: IO[bytes], streams: Sequence[int]) -> dict[int, float]:
    """Seconds to the end of the last packet of each of these streams, from framecrc's lines."""
    times.seek(0)
    bases: dict[bytes, float] = {}
    ticks: dict[bytes, int] = {}
    for line in times:
        if match := _PACKET.match(line):
            number, *moments, length = match.groups()
            known = [int(moment) for moment in moments if moment != b"NOPTS"]
            if known:
                ticks[number] = max(ticks.get(number, 0), max(known) + int(length))
        elif match := _TIME_BASE.match(line):
            bases[match[1]] = int(match[2]) / int(match[3])
    return {streams[int(number)]: end * bases[number] for number, end in ticks.items()}


def verdict(
    path: str, probed: Probe, counts: Mapping[View, int], ended: Ended, on_damage: str
) -> tuple[float, str | None]:
    """(seconds that were decoded, damage), from how many items of each view came out.

    ffmpeg exits with 0 on a file cut short, so what came out is held against the header.
    Raises VideoError: too large, zero frames; truncated and decode errors unless they are kept.
    """
    duration = max(count / view.rate for view, count in counts.items())
    first_error = next(iter(ended.errors), "")
    if not any(counts.values()):
        message = f"{path}: nothing could be decoded ({first_error or 'no frames'})"
        raise VideoError(Reason.ZERO_FRAMES, "decode", message)
    reached = max(duration, ended.reached)
    damage = None
    if probed.duration is not None and reached < probed.duration - _slack(probed.duration, counts):
        reason = Reason.TRUNCATED
        damage = f"{reached:.2f} s of {probed.duration:.2f} s are there"
    elif ended.code != 0 or first_error:
        too_large = any(TOO_LARGE in line for line in ended.errors)
        reason = Reason.TOO_LARGE if too_large else Reason.DECODE_ERROR
        damage = f"{len(ended.errors)} errors, the first: {first_error}"
    if damage is not None and on_damage == "fail":
        raise VideoError(reason, "decode", f"{path}: {damage}")
    return duration, damage


def _slack(declared: float, views: Iterable[View]) -> float:
    """Seconds by which a whole file's longest view may fall short of its declared duration."""
    return 0.5 + 0.02 * declared + min(1 / view.rate for view in views)
