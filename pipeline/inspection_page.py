"""The page of `pipeline inspect --html`: one file with everything inside."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from extractors.tracks import Track
from pipeline import storage
from pipeline.inspection import Inspected, times_of
from pipeline.pictures import contact_sheet, heat_map, norms, self_similarity

FRAMES = 12
LONG_TRANSCRIPT = 8
"""Segments shown before the rest folds."""
TICK_STEPS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
MOST_TICKS = 7


def write_page(url: str, title: str, videos: Sequence[Inspected]) -> None:
    """Publishes the page of `render_page`."""
    storage.publish_bytes(url, render_page(title, videos).encode(errors="replace"))


def render_page(title: str, videos: Sequence[Inspected]) -> str:
    """The page's HTML. Everything that comes from videos is escaped; nothing is loaded."""
    environment = Environment(
        loader=PackageLoader("pipeline"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clock": clock, "bytes": byte_text}
    views = [_video_view(video) for video in videos]
    template = environment.get_template("inspection.html")
    return template.render(title=title, videos=views, long_transcript=LONG_TRANSCRIPT)


def clock(seconds: float) -> str:
    """`1:05.25` or `1:00:05`; a fraction only where there is one."""
    hundredths = round(seconds * 100)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    whole = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    fraction = f".{rest % 100:02d}".rstrip("0") if rest % 100 else ""
    return f"{whole}:{rest // 100:02d}{fraction}"


def byte_text(count: int) -> str:
    """`812 B`, `3.4 kB`, `1.2 MB`."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"


def _video_view(video: Inspected) -> dict[str, Any]:
    """What the template needs of one video."""
    sample = video.sample
    times = times_of(sample.duration, FRAMES) if sample.meta.get("picture") else []
    return {
        "video": video,
        "sample": sample,
        "facts": list(_facts(sample.meta)),
        "frames": contact_sheet(sample.proxy, video.uri, times) if times else [],
        "frames_from": "the proxy" if sample.proxy else "the video itself",
        "tracks": [_track_view(name, video) for name in sample.meta["tracks"]],
        "size": sum(member.num_bytes for member in video.members),
        "made": [(name, list(_flat(facts))) for name, facts in sorted(video.provenance.items())],
    }


def _facts(meta: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What meta.json says of the file, in words."""
    picture, sound = meta.get("picture"), meta.get("sound")
    if picture:
        size = f"{picture.get('width')} × {picture.get('height')}"
        yield "picture", f"{picture.get('codec')}, {size}, {picture.get('rate')} frames/s"
    else:
        yield "picture", "none"
    yield "sound", str(sound.get("codec")) if sound else "none"
    for name in ("label", "split", "text_source", "decoded_on", "decode_fallback", "damage"):
        if meta.get(name):
            yield name.replace("_", " "), str(meta[name])
    yield "content id", str(meta.get("content_id"))


def _track_view(name: str, video: Inspected) -> dict[str, Any]:
    facts = video.sample.meta["tracks"][name]
    track = video.sample.tracks.get(name)
    view: dict[str, Any] = {
        "name": name,
        "absent": facts.get("absent") or "no rows" if track is None else "",
        "facts": list(_flat(facts)),
    }
    if track is None:
        return view
    span = _span(track)
    view |= {
        "shape": " × ".join(map(str, track.rows.shape)),
        "dtype": str(track.rows.dtype),
        "ticks": _ticks(*span),
        "span": span,
    }
    if _is_spectrogram(name, video):
        return view | {"picture": heat_map(track.rows), "bands": _bands(track.rows.shape[1])}
    return view | {"line": _line(norms(track.rows)), "similar": self_similarity(track.rows)}


def _is_spectrogram(name: str, video: Inspected) -> bool:
    """Whether a track's columns are bands of frequency, in order."""
    made = video.provenance.get(name)
    if made is None:  # of a shard older than provenance
        return name == "audio"
    return "mel" in str(made.get("settings", {}).get("kind", ""))


def _span(track: Track) -> tuple[float, float]:
    """The time that a track's rows own: half a hop around each."""
    first = track.start - track.hop / 2
    return max(0.0, first), first + len(track.rows) * track.hop


def _ticks(start: float, end: float) -> list[tuple[float, float]]:
    """Round times and where they lie, in percent of the span."""
    length = end - start
    step = next((s for s in TICK_STEPS if length / s <= MOST_TICKS), length / MOST_TICKS)
    times = np.arange(np.ceil(start / step), np.floor(end / step) + 1) * step
    return [(float(time), round(100 * (float(time) - start) / length, 2)) for time in times]


def _bands(count: int) -> list[int]:
    """The bands to name, from the top."""
    return sorted({count, round(count * 3 / 4), round(count / 2), round(count / 4), 1} - {0})[::-1]


def _line(values: NDArray[np.float64]) -> dict[str, Any]:
    """Points of a line in a box of 1000 x 100, and what its top and bottom stand for."""
    low, high = float(values.min()), float(values.max())
    height = (values - low) / max(high - low, 1e-9)
    # over the middle of its stretch of time
    along = (np.arange(len(values)) + 0.5) * 1000 / len(values)
    points = " ".join(f"{x:.1f},{96 - 92 * y:.1f}" for x, y in zip(along, height, strict=True))
    return {"points": points, "low": f"{low:.3g}", "high": f"{high:.3g}"}


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves by dotted name, in order."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
        elif item not in (None, ""):
            yield f"{prefix}{key}", str(item)
