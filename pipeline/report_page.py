"""The page of `pipeline report`: sections of facts, plots, tables and pictures in one HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined

from extractors.thumbnails import Thumbnail
from pipeline import storage
from pipeline.charts import Chart

LONG_TABLE = 12
"""Rows shown before a table folds."""


@dataclass(frozen=True)
class Table:
    """Rows under a heading."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()
    """Columns that stand to the right."""
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A frame, or why there is none, with the words below it."""

    thumbnail: Thumbnail
    alt: str
    caption: str
    text: str = ""


@dataclass(frozen=True)
class Sheet:
    """Pictures side by side under a heading."""

    title: str
    pictures: tuple[Picture, ...]
    note: str = ""
    colour: str = ""
    """Of a cluster on the map."""
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """One part of a report, in the order of its fields."""

    title: str
    note: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    charts: tuple[Chart, ...] = ()
    wide: tuple[Chart, ...] = ()
    """Charts that take the width of the page."""
    tables: tuple[Table, ...] = field(default=())
    sheets: tuple[Sheet, ...] = field(default=())


def write_report(url: str, target: str, title: str, sections: Sequence[Section]) -> int:
    """Publishes the page of `render_report`; gives its size in bytes."""
    content = render_report(target, title, sections).encode(errors="replace")
    storage.publish_bytes(url, content)
    return len(content)


def render_report(target: str, title: str, sections: Sequence[Section]) -> str:
    """The page's HTML. What comes from videos and settings is escaped; nothing is loaded."""
    environment = Environment(
        loader=PackageLoader("pipeline"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html")
    return template.render(target=target, title=title, sections=sections, long_table=LONG_TABLE)
