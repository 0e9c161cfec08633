"""The failed videos of a dataset: which, why, and how many of each kind."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from extractors.errors import Reason, UsageError
from pipeline.dataset import read_records
from pipeline.scan import scan_rows

STORED = ("key", "uri", "reason", "stage", "error_message", "label", "split", "attempts")
FILTERS = ("key", "uri", "reason", "stage", "extractor", "label", "split", "shard")
GROUPS = ("reason", "stage", "extractor", "split", "shard")


@dataclass(frozen=True)
class Where:
    """One condition on a failed video's row."""

    column: str
    """One of FILTERS."""
    value: str
    """`*` stands for any characters, `?` for one; empty for rows without a value."""
    negated: bool = False


class FailedVideo(NamedTuple):
    """Enough to find a failed video again."""

    shard: int
    key: str
    reason: str


def parse_where(conditions: Sequence[str]) -> tuple[Where, ...]:
    """`["reason=timeout", "key!=test_*"]` to conditions, all of which are to hold.

    Raises UsageError for another form, an unknown column or reason, a shard that is no number.
    """
    return tuple(_parse(condition) for condition in conditions)


def _parse(condition: str) -> Where:
    column, separator, value = condition.partition("=")
    negated = column.endswith("!")
    column = column.removesuffix("!").strip()
    if not separator:
        raise UsageError(f"--where {condition}: expected COLUMN=VALUE or COLUMN!=VALUE, "
                         "as in reason=timeout")  # fmt: skip
    _check("column", column, FILTERS, condition)
    if column == "reason" and value and not _has_wildcard(value):
        _check("reason", value, [str(reason) for reason in Reason], condition)
    if column == "shard" and not value.isdecimal():
        raise UsageError(f"--where {condition}: a shard is a number, as in shard=12")
    return Where(column, value, negated)


def _check(what: str, given: str, allowed: Sequence[str], condition: str) -> None:
    if given in allowed:
        return
    close = difflib.get_close_matches(given, allowed, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(allowed)}"
    raise UsageError(f"--where {condition}: no {what} {given!r}, {hint}")


def select_failed(dataset: str, wheres: Sequence[Where] = ()) -> list[FailedVideo]:
    """The failed videos that meet every condition, in the order of the shards."""
    table = failed_videos(dataset, wheres)
    columns = [table.column(name).to_pylist() for name in FailedVideo._fields]
    return [FailedVideo(*values) for values in zip(*columns, strict=True)]


def failed_videos(dataset: str, wheres: Sequence[Where] = ()) -> pa.Table:
    """The rows of the failed videos that meet every condition, in the order of the shards.

    Columns: STORED, `shard`, and `extractor`: the track at which the video failed, null where it
    failed before or beside the extractors. Reads the shards that are published now, and of those
    the ones alone whose record counts a failure; so it is right while a run goes on.
    """
    numbers = [record.number for record in read_records(dataset) if record.reasons]
    table = scan_rows(dataset, numbers, STORED, failed_only=True)
    at_an_extractor = pc.equal(table.column("reason"), str(Reason.EXTRACTOR_ERROR))
    nothing = pa.scalar(None, pa.string())
    extractor = pc.if_else(at_an_extractor, table.column("stage"), nothing)
    table = table.append_column("extractor", extractor)
    for where in wheres:
        table = table.filter(_mask(table, where))
    return table


def _mask(table: pa.Table, where: Where) -> pa.ChunkedArray:
    column = table.column(where.column)
    if where.column == "shard":
        mask = pc.equal(column, int(where.value))
    elif not where.value:
        mask = pc.equal(pc.fill_null(column, ""), "")
    elif _has_wildcard(where.value):
        mask = pc.match_like(column, _like(where.value))
    else:
        mask = pc.equal(column, where.value)
    mask = pc.fill_null(mask, False)
    return pc.invert(mask) if where.negated else mask


def _has_wildcard(value: str) -> bool:
    return "*" in value or "?" in value


def _like(pattern: str) -> str:
    """SQL's LIKE of a glob."""
    for sign in "\\%_":
        pattern = pattern.replace(sign, "\\" + sign)
    return pattern.replace("*", "%").replace("?", "_")


def count_failed(failed: pa.Table, by: str) -> list[tuple[str | int | None, int]]:
    """How many rows of `failed_videos` there are of each value of a column, most first.

    None stands for rows without a value. Raises UsageError for a column that is not in GROUPS.
    """
    if by not in GROUPS:
        raise UsageError(f"--by {by}: allowed are {', '.join(GROUPS)}")
    counted = failed.group_by(by).aggregate([([], "count_all")]).to_pylist()
    counts = [(row[by], int(row["count_all"])) for row in counted]
    return sorted(counts, key=lambda pair: (-pair[1], pair[0] is None, pair[0]))
