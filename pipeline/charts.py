"""Plots as SVG for a page: their colours are the page's, so they follow its light or dark.

Drawn 288 units wide, so that text keeps its size on a phone.
"""

import colorsys
import hashlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

WIDTH = 4.0
"""Inches of 72 units."""
INK, SOFT, LINE, CARD = "#010203", "#040506", "#070809", "#0a0b0c"
_PAGE = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)", CARD: "var(--card)"}
"""Stand-ins that matplotlib can draw with, to the page's variables."""
# Okabe and Ito (2008), told apart by those who see few colours; lightened where they are dim on
# dark paper, darkened where on white
SERIES = ("#2a7fb8", "#d5703a", "#23936f", "#b8619a", "#8a7a1e", "#5c6bc0", "#7d7d7d")
_STYLE: Any = {  # matplotlib's type of it names every setting
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
MOST_BARS = 24
"""Of a histogram."""
LONGEST = 22
"""Characters of a name beside a bar."""


@dataclass(frozen=True)
class Chart:
    """A plot, and what it shows in words and in numbers."""

    title: str
    svg: Markup
    summary: str
    """For those who do not see it."""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    """The numbers of it; empty where they are too many."""


def bars(
    title: str, values: Mapping[str, float], unit: str, *, colours: Sequence[str] = ()
) -> Chart:
    """A bar a name, downward in the order given, each with its number."""
    names, numbers = list(values), list(values.values())
    with _drawing(title, 0.35 + 0.27 * len(names)) as (figure, axes):
        axes.barh(range(len(names)), numbers, height=0.66, color=list(colours) or SERIES[0])
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
        axes.set_ylim(max(1, len(names)) - 0.5, -0.5)
        axes.set_xlim(0, max([*numbers, 0]) * 1.22 or 1)
        axes.tick_params(axis="y", length=0)
        axes.spines[["bottom", "left"]].set_visible(False)
        axes.set_xticks([])
        for place, number in enumerate(numbers):
            axes.annotate(
                number_text(number),
                (number, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                color=SOFT,
            )
        svg = _svg(figure, title)
    rows = tuple((name, number_text(number)) for name, number in values.items())
    most = max(rows, key=lambda row: values[row[0]], default=("none", ""))
    summary = f"{title}, {unit}: {len(rows)} bars, longest {' with '.join(most)}"
    return Chart(title, svg, summary, ("", unit), rows)


def histogram(title: str, values: ArrayLike, label: str, unit: str) -> Chart:
    """How often values of each size come; the last bar holds the longest 1 %, where they are far
    out."""
    numbers = np.asarray(values, np.float64)
    top = float(np.percentile(numbers, 99)) if len(numbers) else 1.0
    top = top if float(numbers.max(initial=0)) > 2 * top else float(numbers.max(initial=1))
    edges = _edges(numbers, top or 1)
    counts, _ = np.histogram(numbers.clip(0, edges[-1]), edges)
    with _drawing(title, 1.9) as (figure, axes):
        axes.bar(edges[:-1], counts, np.diff(edges) * 0.94, align="edge", color=SERIES[0])
        axes.set_xlabel(label)
        axes.set_ylabel(unit)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=bool(edges[0] < 0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))
        axes.grid(axis="y")
        svg = _svg(figure, title)
    low, middle, high = np.percentile(numbers, (5, 50, 95)) if len(numbers) else (0, 0, 0)
    summary = (
        f"{title}: {len(numbers)} {unit}; {label} {number_text(low)} to {number_text(high)} for "
        f"nine in ten, median {number_text(middle)}"
    )
    return Chart(title, svg, summary)


def _edges(numbers: NDArray[np.float64], top: float) -> NDArray[np.float64]:
    """Of a histogram's bars: one a number where there are few whole ones."""
    if top <= MOST_BARS and not (numbers % 1).any():
        return np.arange(top + 2) - 0.5
    return np.linspace(0, top, min(MOST_BARS, max(6, int(np.sqrt(len(numbers))))) + 1)


def lines(
    title: str, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_label: str
) -> Chart:
    """A line a name, of points (x, y); the y axis is logarithmic where they span two decades."""
    every = np.concatenate([np.asarray(y, np.float64) for _, y in series.values()])
    every = every[np.isfinite(every)]
    logarithmic = bool(len(every) and every.min() > 0 and every.max() > 100 * every.min())
    legend = len(series) > 1
    with _drawing(title, 2.1 + 0.2 * (-(-len(series) // 2)) * legend) as (figure, axes):
        for number, (name, (x, y)) in enumerate(series.items()):
            style = ("-", "--", ":")[number // len(SERIES) % 3]
            colour = SERIES[number % len(SERIES)]
            marker = "o" if len(x) == 1 else ""
            axes.plot(x, y, style, marker=marker, color=colour, linewidth=1.4, label=_short(name))
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(lambda *_: "")
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel(x_label)
        axes.grid(axis="y")
        if legend:
            figure.legend(loc="outside lower center", ncols=2)
        svg = _svg(figure, title)
    rows = tuple((name, number_text(y[0]), number_text(y[-1])) for name, (_, y) in series.items())
    told = "; ".join(f"{name} from {first} to {last}" for name, first, last in rows)
    scale = ", logarithmic" if logarithmic else ""
    return Chart(title, svg, f"{title} by {x_label}{scale}: {told}", ("", "first", "last"), rows)


def scatter(
    title: str, x: Sequence[float], y: Sequence[float], group: Sequence[int], names: Sequence[str]
) -> Chart:
    """Points of the plane, coloured by group; each group's name stands at its middle. A group below
    0 is grey."""
    places = np.stack([x, y], axis=1) if len(x) else np.zeros((0, 2))
    groups = np.asarray(group)
    size = float(np.clip(4000 / max(1, len(groups)), 3, 20))
    with _drawing(title, 4.2) as (figure, axes):
        for number in np.unique(groups):
            chosen = places[groups == number]
            colour = group_colour(int(number))
            across, up = chosen.T
            axes.scatter(across, up, s=size, color=colour, alpha=0.9, linewidths=0)
        for number, name in enumerate(names):
            chosen = places[groups == number]
            if len(chosen):
                across, up = np.median(chosen, axis=0)
                axes.text(across, up, name, ha="center", va="center", weight="bold", gid="halo")
        axes.set_axis_off()
        axes.set_aspect("equal", "datalim")
        svg = _svg(figure, title)
    summary = f"{title}: {len(groups)} points in {len(set(groups.tolist()))} groups"
    return Chart(title, svg, summary)


def group_colour(number: int) -> str:
    """A colour that stands out from white and from dark paper (a contrast of 2.7 or more); hues are
    steps of the golden angle apart, neighbours differ in luminance too. Grey below 0."""
    if number < 0:
        return "#8a8a8a"
    hue = (number * 0.381966 + 0.56) % 1
    wanted = (0.24, 0.33, 0.16)[number % 3]
    levels = np.linspace(0.2, 0.8, 121)
    tried = [colorsys.hls_to_rgb(hue, float(level), 0.6) for level in levels]
    red, green, blue = min(tried, key=lambda colour: abs(luminance(*colour) - wanted))
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def luminance(red: float, green: float, blue: float) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2), channels and result in 0..1."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def number_text(value: float) -> str:
    """Four digits, thousands apart; whole numbers whole."""
    if not np.isfinite(value):
        return "–"
    if float(value).is_integer() and abs(value) < 1e12:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.4g}"


@contextmanager
def _drawing(title: str, height: float) -> Iterator[tuple[Figure, Axes]]:
    salt = hashlib.sha256(title.encode()).hexdigest()[:8]
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}), warnings.catch_warnings():
        # its font measures the text; the reader's, which has more signs, shows it
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.add_subplot()


def _svg(figure: Figure, title: str) -> Markup:
    """The drawing alone, to stand in a page: no prolog, styles, links or ids that others have."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg)
    )
    svg = svg.replace('<g id="halo">', '<g class="halo">')
    named = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    prefix = "c" + hashlib.sha256((title + svg).encode()).hexdigest()[:8]
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in named else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{prefix}", svg)
    svg = re.sub(r'(style="[^"]*?)font-family: [^;"]*;? ?', r"\1", svg)
    svg = svg.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    svg = svg.replace(' xmlns="http://www.w3.org/2000/svg"', "").replace("xlink:href", "href")
    for stand_in, variable in _PAGE.items():
        svg = svg.replace(stand_in, variable)
    svg = svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)
    # what was text in it, matplotlib has escaped
    return Markup(re.sub(r"\n\s*", "\n", svg))  # noqa: S704


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
