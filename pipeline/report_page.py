"""The page of `pipeline report`: sections of facts, plots, tables and pictures in one HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined

from extractors.errors import UsageError
from extractors.thumbnails import Thumbnail
from pipeline import storage
from pipeline.charts import Chart

MARK = b'<meta name="generator" content="pipeline report">'
"""By which a report is known, in its first HEAD_BYTES."""
HEAD_BYTES = 1024
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


def check_target(url: str, *, force: bool = False) -> None:
    """Raises UsageError where a report would go over a folder or, without `force`, over a file that
    is no report."""
    path = storage.local_path(url)
    if url.endswith("/") or (path is not None and path.is_dir()):
        file = f"{url.rstrip('/')}/report.html"
        raise UsageError(f"--output {url}: a folder; give the HTML file, as in {file}")
    if not force and storage.exists(url):
        with storage.open_binary(url) as stored:
            head = stored.read(HEAD_BYTES)
        if MARK not in head:
            raise UsageError(f"--output {url}: not a report of this program; --force overwrites it")


def write_report(url: str, target: str, title: str, sections: Sequence[Section]) -> int:
    """Publishes the page of `render_report`, whole; gives its size in bytes."""
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
