import pyarrow as pa
import pytest

from extractors.errors import UsageError
from index.embedding_shards import CLIP_SCHEMA
from index.filters import allowed_rows, parse_where

ROWS = [
    ("a", 0.0, 10.0, "cat", "train", None),
    ("a", 10.0, 20.0, "cat", "train", "en"),
    ("b", 5.0, 15.0, None, "test", "de"),
    ("c", 30.0, 40.0, "dog", None, None),
]


@pytest.fixture
def ids() -> pa.Table:
    names = ("key", "start", "end", "label", "split", "language")
    rows = [dict(zip(names, row, strict=True)) for row in ROWS]
    return pa.Table.from_pylist(rows, schema=CLIP_SCHEMA)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"video": "a"}, [0, 1]),
        ({"label": "cat"}, [0, 1]),
        ({"label": "bird"}, []),
        ({"split": "test"}, [2]),
        ({"language": "en"}, [1]),
        ({"language": "fr"}, []),
        ({"label": "cat", "time": "12-"}, [1]),
        ({"time": "10-15"}, [1, 2]),  # half open: the clip that ends at 10 is not in
        ({"time": "-5"}, [0]),  # nor the one that starts at 5
        ({"time": "14.5-30"}, [1, 2]),
        ({"time": "39.9-"}, [3]),
    ],
)
def test_all_conditions_must_hold(
    ids: pa.Table, where: dict[str, str], expected: list[int]
) -> None:
    assert allowed_rows(ids, where).nonzero()[0].tolist() == expected


@pytest.mark.parametrize("value", ["10", "a-b", "5-5", "6-5", "nan-9", "-", ""])
def test_a_time_that_is_no_range_is_refused(ids: pa.Table, value: str) -> None:
    if value == "-":
        assert allowed_rows(ids, {"time": value}).all()
        return
    with pytest.raises(UsageError, match="expected START-END"):
        allowed_rows(ids, {"time": value})


def test_an_unknown_key_is_answered_with_the_nearest(ids: pa.Table) -> None:
    with pytest.raises(UsageError, match=r"where labels: no such condition, did you mean label\?"):
        allowed_rows(ids, {"labels": "cat"})
    with pytest.raises(UsageError, match="there are video, label, split, language, time"):
        parse_where(["zzz=1"])


def test_conditions_are_read_from_the_command_line() -> None:
    assert parse_where(["label=a=b", "time=1-2"]) == {"label": "a=b", "time": "1-2"}
    for wrong in ("label", "label=", "=cat"):
        with pytest.raises(UsageError):
            parse_where([wrong])
    with pytest.raises(UsageError, match="given twice"):
        parse_where(["label=a", "label=b"])
