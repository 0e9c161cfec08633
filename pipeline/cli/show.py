"""What people see: errors, tables, progress.

Names of files and transcripts may hold what rich would take for mark-up, so they are given as text.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def error(message: str) -> None:
    """One line on standard error."""
    err.print(Text.assemble(("error:", "bold red"), " ", message), soft_wrap=True)


def note(message: str) -> None:
    """One line on standard error, out of the way of results."""
    err.print(Text(message), soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints a table; numbers to the right."""
    out.print(make_table(title, columns, rows))


def make_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """What `table` prints."""
    made = Table(title=title, title_justify="left", title_style="bold")
    rows = [list(row) for row in rows]
    for number, column in enumerate(columns):
        numeric = all(isinstance(row[number], int | float) for row in rows) and bool(rows)
        made.add_column(
            column, justify="right" if numeric else "left", overflow="fold", no_wrap=number == 0
        )
    for row in rows:
        made.add_row(*(Text(_text(value)) for value in row))
    return made


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator["Bar"]:
    """A bar on standard error with what is done, a changing detail and the time left."""
    columns = (
        SpinnerColumn(),
        TextColumn(f"[bold]{what}[/]"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as shown:
        yield Bar(shown, total)


@contextmanager
def byte_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error by bytes; gives what adds to it, from any thread."""
    columns = (
        TextColumn(f"[bold]{what}[/]"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as shown:
        task = shown.add_task("", total=total)
        yield lambda count: shown.update(task, advance=count)


class Bar:
    """A running progress bar."""

    def __init__(self, shown: Progress, total: int) -> None:
        self._shown = shown
        self._task = shown.add_task("", total=total, detail="")

    def advance(self, count: int, detail: str) -> None:
        """Adds to what is done."""
        self._shown.update(self._task, advance=count, detail=detail)

    def reach(self, completed: int, total: int, detail: str) -> None:
        """Sets what is done and what there is to do."""
        self._shown.update(self._task, completed=completed, total=total, detail=detail)


def count(number: int, what: str) -> str:
    """`1 video`, `2 videos`."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def duration(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
