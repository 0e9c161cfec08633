"""A page of search results: one HTML file with everything inside, readable without a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from extractors.thumbnails import Thumbnail, extract_thumbnails
from index.card import IndexCard
from index.search import Hit
from pipeline import storage

LONG_TEXT = 150
"""Characters of a transcript shown before it folds."""


@dataclass(frozen=True)
class QueryResults:
    """A query and what it found."""

    kind: Literal["text", "sound", "video"]
    query: str
    """The words, or the name of the file."""
    hits: Sequence[Hit]


def write_page(
    url: str,
    results: Sequence[QueryResults],
    card: IndexCard,
    *,
    title: str = "Search results",
    figures: Mapping[str, Mapping[str, float | str]] | None = None,
    figures_note: str = "",
    counts: Mapping[str, int | float | str] | None = None,
) -> None:
    """Publishes the page of `render_page`, with a thumbnail from the middle of each hit."""
    moments = [(hit.uri, _middle(hit)) for result in results for hit in result.hits]
    page = render_page(
        results,
        card,
        extract_thumbnails(moments),
        title=title,
        figures=figures or {},
        figures_note=figures_note,
        counts=counts or {},
    )
    # a query from a shell may hold bytes that are no UTF-8: shown as '?'
    storage.publish_bytes(url, page.encode(errors="replace"))


def render_page(
    results: Sequence[QueryResults],
    card: IndexCard,
    thumbnails: Mapping[tuple[str, float], Thumbnail],
    *,
    title: str,
    figures: Mapping[str, Mapping[str, float | str]],
    figures_note: str,
    counts: Mapping[str, int | float | str],
) -> str:
    """The page's HTML. Everything that comes from videos and queries is escaped.

    `figures` is a table, row name to column name to value; columns named 'R@…' are fractions and
    shown in percent; rows may have different columns. `counts` describes the dataset. Where
    `thumbnails`, by (uri, middle in seconds), has a reason and no picture, the reason is shown.
    """
    environment = Environment(
        loader=PackageLoader("index"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clock": clock, "figure": _figure_text, "count": _count_text}
    columns = list(dict.fromkeys(name for row in figures.values() for name in row))
    return environment.get_template("page.html").render(
        title=title,
        card=card,
        counts=counts,
        columns=columns,
        figures=figures,
        figures_note=figures_note,
        results=[_result_view(result, card.metric, thumbnails) for result in results],
        long_text=LONG_TEXT,
    )


def clock(seconds: float) -> str:
    """`1:05.5`, or `1:00:05` for hours; tenths only where they are not zero."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    whole = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    fraction = f".{rest % 10}" if rest % 10 else ""
    return f"{whole}:{rest // 10:02d}{fraction}"


def _result_view(
    result: QueryResults, metric: str, thumbnails: Mapping[tuple[str, float], Thumbnail]
) -> dict[str, Any]:
    """What the template needs of one query."""
    # a cosine is drawn as it is; a dot product has no scale of its own but the best hit's
    full = 1.0 if metric == "cosine" else max((hit.score for hit in result.hits), default=1.0)
    hits = [
        {
            "hit": hit,
            "thumbnail": thumbnails[hit.uri, _middle(hit)],
            "percent": round(100 * min(1.0, max(0.0, hit.score / full)), 1) if full > 0 else 0.0,
        }
        for hit in result.hits
    ]
    return {"kind": result.kind, "query": result.query, "hits": hits}


def _middle(hit: Hit) -> float:
    return (hit.start + hit.end) / 2


def _figure_text(value: float | str, column: str) -> str:
    if isinstance(value, str):
        return value
    if column.startswith("R@"):
        return f"{100 * value:.1f}\N{NARROW NO-BREAK SPACE}%"
    return _count_text(value)


def _count_text(value: float | str) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    return value if isinstance(value, str) else f"{value:,}"
