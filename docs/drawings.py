"""The drawings of the docs, as SVG: dark on light, readable on a dark page too."""

from collections.abc import Iterable
from html import escape

from pipeline.samples import VideoSample

INK, PAPER, SOFT, FILL, ACCENT = "#263238", "#ffffff", "#90a4ae", "#eceff1", "#b3d4e5"
FONT = "font-family='system-ui, sans-serif'"


def svg(width: int, height: int, parts: Iterable[str]) -> str:
    """A whole drawing."""
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' "
        f"width='{width}' height='{height}' {FONT} font-size='13' fill='{INK}'>"
    )
    paper = f"<rect width='{width}' height='{height}' rx='8' fill='{PAPER}'/>"
    return "\n".join([head, paper, *parts, "</svg>", ""])


def box(x: float, y: float, width: float, height: float, fill: str = FILL) -> str:
    """A box with a thin border."""
    return (
        f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}' rx='3' "
        f"fill='{fill}' stroke='{SOFT}'/>"
    )


def text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 13) -> str:
    """A line of text; `y` is its base line."""
    place = f"x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' font-size='{size}'"
    return f"<text {place}>{escape(words)}</text>"


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A horizontal or vertical arrow."""
    if y1 == y2:
        tip = f"M{x2 - 7:.1f} {y2 - 4:.1f}L{x2:.1f} {y2:.1f}L{x2 - 7:.1f} {y2 + 4:.1f}"
    else:
        tip = f"M{x2 - 4:.1f} {y2 - 7:.1f}L{x2:.1f} {y2:.1f}L{x2 + 4:.1f} {y2 - 7:.1f}"
    line = f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}{tip}"
    return f"<path d='{line}' fill='none' stroke='{INK}' stroke-width='1.3'/>"


def stages_drawing() -> str:
    """From videos to a search."""
    boxes = (
        ("videos", ("folder, table,", "bucket")),
        ("dataset", ("tracks, segments,", "in shards")),
        ("run", ("a model, or", "two encoders")),
        ("index", ("embeddings,", "FAISS")),
        ("search", ("by text, sound,", "video")),
    )
    arrows = ("extract", "train", "index", "")
    parts = []
    for number, (name, lines) in enumerate(boxes):
        x = 15 + number * 175
        parts += [box(x, 30, 115, 76, ACCENT if 0 < number < 4 else FILL)]
        parts += [text(x + 57, 52, name, anchor="middle", size=15)]
        parts += [
            text(x + 57, 73 + 17 * k, line, anchor="middle", size=12)
            for k, line in enumerate(lines)
        ]
        if number < len(arrows):
            parts += [arrow(x + 120, 68, x + 170, 68)]
            parts += [text(x + 145, 60, arrows[number], anchor="middle", size=12)]
    return svg(845, 125, parts)


def shard_drawing() -> str:
    """The three files of a shard, in the order in which they count."""
    samples = ("cat_01", "cat_02", "coffee_01")
    members = "audio.npy  meta.json  text.npy  transcript.json  visual_2d.npy  visual_3d.npy"
    parts = [box(15, 15, 575, 125), text(25, 34, "shards/000000.tar", size=14)]
    for number, key in enumerate(samples):
        y = 44 + number * 31
        parts += [box(25, y, 555, 26, ACCENT), text(33, y + 17, key)]
        parts += [text(570, y + 17, members, anchor="end", size=11)]
    parts += [box(15, 150, 575, 34), text(25, 171, "shards/000000.parquet", size=14)]
    parts += [text(580, 171, "one row a video, failures too", anchor="end", size=12)]
    parts += [box(15, 194, 575, 34, ACCENT), text(25, 215, "shards/000000_stats.json", size=14)]
    parts += [text(580, 215, "the record, last: now the shard exists", anchor="end", size=12)]
    parts += [
        arrow(615, 30, 615, 215),
        text(630, 120, "published"),
        text(630, 137, "in this order"),
    ]
    return svg(735, 243, parts)


def tracks_drawing(sample: VideoSample) -> str:
    """A video's tracks and segments on its time line, at their true places, and a clip."""
    left, width, seconds = 105.0, 640.0, sample.duration
    scale = width / seconds
    first = sample.segments[0]
    parts = [
        f"<rect x='{left + first.start * scale:.1f}' y='22' "
        f"width='{(first.end - first.start) * scale:.1f}' height='190' fill='{ACCENT}' "
        "fill-opacity='0.45'/>",
        text(left + first.start * scale + 4, 36, f"a clip: [{first.start:g}, {first.end:g})"),
    ]
    for number, name in enumerate(sorted(sample.tracks, reverse=True)):
        track, y = sample.tracks[name], 48.0 + number * 38
        parts += [text(15, y + 17, name)]
        hop = track.hop * scale
        if hop < 3:
            shown = f"{len(track.rows)} rows, one each {track.hop:g} s"
            parts += [box(left, y, min(len(track.rows) * hop, width), 26)]
            parts += [text(left + 8, y + 17, shown, size=12)]
            continue
        for row in range(len(track.rows)):
            centre = left + (track.start + row * track.hop) * scale
            begin, end = max(centre - hop / 2, left), min(centre + hop / 2, left + width)
            parts += [box(begin + 1, y, end - begin - 2, 26)]
            parts += [
                text(min(centre, left + width - 8), y + 17, str(row), anchor="middle", size=12)
            ]
    y = 48.0 + len(sample.tracks) * 38
    parts += [text(15, y + 17, "segments")]
    for segment in sample.segments:
        x, room = left + segment.start * scale, (segment.end - segment.start) * scale
        parts += [box(x, y, room, 26), text(x + 6, y + 17, _cut(segment.text, room), size=12)]
    axis = y + 56
    parts += [f"<path d='M{left} {axis}h{width}' stroke='{INK}'/>"]
    for second in range(int(seconds) + 1):
        x = left + second * scale
        parts += [f"<path d='M{x:.1f} {axis}v5' stroke='{INK}'/>"]
        parts += [text(x, axis + 18, f"{second} s", anchor="middle", size=11)]
    return svg(770, int(axis) + 32, parts)


def _cut(words: str, room: float) -> str:
    """As much as has room, at some 6.4 pixels a letter."""
    most = int(room / 6.4) - 2
    return words if len(words) <= most else words[: most - 1].rstrip() + "…"
