"""The columns of others to our words."""

from typing import Any

import pyarrow as pa
import pytest

from index.formats.clip_facts import Naming, clip_rows


def times(columns: dict[str, list[Any]], **named: str) -> list[tuple[float, float]]:
    rows = clip_rows(pa.table(columns), Naming("facts.parquet", 0, named), first=0)
    return [(row.start, row.end) for row in rows]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"start": [5.0, 30.0], "end": [10.0, 40.0]}, [(5, 10), (30, 40)]),
        ({"start": [5.0, 30.0], "duration": [10.0, 10.0]}, [(5, 15), (30, 40)]),
        ({"start": [5, 30], "end": [7, None], "duration": [99, 10]}, [(5, 7), (30, 40)]),
        ({"duration": [8.0, None]}, [(0, 8), (0, 0)]),
        ({"start": [5.0, None]}, [(5, 5), (0, 0)]),
        ({"caption": ["a", "b"]}, [(0, 0), (0, 0)]),
    ],
)
def test_a_clip_ends_where_it_says_or_after_its_duration(columns, expected) -> None:
    assert times(columns) == expected


def test_a_column_can_be_named_as_the_duration() -> None:
    assert times({"start": [2.0], "seconds": [3.0]}, seconds="duration") == [(2, 5)]
