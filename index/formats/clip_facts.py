"""What is known of the clips of others: their columns to our words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from extractors.errors import AbortError, UsageError
from index.embedding_shards import CLIP_SCHEMA, ClipRow
from pipeline.sources import key_of

FIELDS = (*(name for name in CLIP_SCHEMA.names if name != "id"), "duration")
USUAL = {
    "uri": ("uri", "image_path", "url", "path"),
    "key": ("key",),
    "start": ("start",),
    "end": ("end",),
    "duration": ("duration",),
    "text": ("text", "caption"),
    "label": ("label",),
    "split": ("split",),
    "language": ("language",),
}
"""Field to the columns that are taken for it, the first that is there."""


@dataclass(frozen=True)
class Naming:
    """Whose clips they are."""

    where: str
    """The file, for messages."""
    part: int
    columns: Mapping[str, str]
    """Column to field, before the usual ones."""


def clip_rows(facts: pa.Table, naming: Naming, first: int) -> list[ClipRow]:
    """A clip a row. `first` is the number of the first row in its file.

    A clip without a key has that of its uri, without a uri the number of its row; without an end it
    lasts as long as its duration says, without times it is [0, 0). Keys keep to [A-Za-z0-9_-],
    others are changed as those of files are. Raises UsageError for a column that is not there,
    AbortError for times that are none.
    """
    found = _columns(facts, naming)
    values = {field: facts.column(name).to_pylist() for field, name in found.items()}
    rows = []
    for number in range(facts.num_rows):
        row = {field: column[number] for field, column in values.items()}
        rows.append(_clip(row, naming, first + number))
    return rows


def _columns(facts: pa.Table, naming: Naming) -> dict[str, str]:
    """Field to column."""
    for column, field in naming.columns.items():
        if field not in FIELDS:
            raise UsageError(f"--column {column}={field}: fields are {', '.join(FIELDS)}")
        if column not in facts.column_names:
            names = ", ".join(facts.column_names)
            raise UsageError(f"--column {column}: {naming.where} has the columns {names}")
    named = {field: column for column, field in naming.columns.items()}
    usual = {
        field: next((name for name in names if name in facts.column_names), None)
        for field, names in USUAL.items()
    }
    return {field: name for field, name in (usual | named).items() if name is not None}


def _clip(row: Mapping[str, Any], naming: Naming, number: int) -> ClipRow:
    uri = _words(row.get("uri")) or ""
    start = _seconds(row.get("start"), naming, number, "start")
    end = start + _seconds(row.get("duration"), naming, number, "duration")
    if row.get("end") is not None:
        end = _seconds(row["end"], naming, number, "end")
    if end < start:
        raise AbortError(
            f"{naming.where}: row {number} ends at {end:g}, before its start {start:g}"
        )
    key = _words(row.get("key")) or uri.lstrip("/") or f"{naming.part:06d}_{number:09d}"
    return ClipRow(
        key=key_of(key),
        uri=uri,
        start=start,
        end=end,
        text=_words(row.get("text")),
        label=_words(row.get("label")),
        split=_words(row.get("split")),
        language=_words(row.get("language")),
    )


def _words(value: Any) -> str | None:
    """Numbers as they are written; nothing where there is nothing."""
    return str(value) if value is not None and value != "" else None


def _seconds(value: Any, naming: Naming, number: int, field: str) -> float:
    try:
        seconds = float(value or 0.0)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise AbortError(f"{naming.where}: row {number}: {field} {value!r} is no time in seconds")
    return seconds
