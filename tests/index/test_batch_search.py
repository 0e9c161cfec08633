import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from extractors.errors import UsageError
from index.batch_search import NamedQuery, read_queries, search_queries
from index.encoding import QueryEncoder
from index.queries import Query, Term
from index.search import open_index, search


def test_rows_of_every_format_are_the_same_queries(tmp_path: Path) -> None:
    rows = [
        {"query": "a", "text": "a dog", "where": "label=cat"},
        {"query": "b", "video": "v.mp4", "at": "2.5", "minus": "text:rain"},
    ]
    expected = [
        NamedQuery("a", Query((Term("text", "a dog"),), {"label": "cat"})),
        NamedQuery(
            "b",
            Query((Term("video", f"{tmp_path}/v.mp4", at=2.5), Term("text", "rain", -1.0))),
        ),
    ]
    names = ("query", "text", "video", "at", "minus", "where")
    lines = [",".join(names), *(",".join(row.get(n, "") for n in names) for row in rows)]
    (tmp_path / "q.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema([(n, pa.string()) for n in names])),
                   tmp_path / "q.parquet")  # fmt: skip
    for suffix in ("csv", "jsonl", "parquet"):
        assert read_queries(str(tmp_path / f"q.{suffix}")) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.csv", "words\na dog\n", "row 0: no column words"),
        ("q.csv", "text\n", "no rows"),
        ("q.jsonl", "{", "cannot be read"),
        ("q.jsonl", '{"at": 3}', "row 0: give one of"),
        ("q.jsonl", '{"video": "x", "at": "soon"}', "row 0: at = soon"),
        ("q.jsonl", '{"text": "x", "where": ["colour=red"]}', "row 0: where colour"),
        ("q.parquet", "no", "cannot be read"),
        ("q.txt", "x", "allowed are .csv"),
    ],
)
def test_a_wrong_file_is_refused_by_row(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=message):
        read_queries(str(tmp_path / name))
    with pytest.raises(UsageError, match="no such file"):
        read_queries(str(tmp_path / "gone.csv"))


def test_hits_and_failures_of_a_batch(build_from: Callable[..., str], tmp_path: Path) -> None:
    """By clip, which needs no model."""
    index = open_index(build_from())
    clip = index.ids["id"][3].as_py()
    output = str(tmp_path / "hits.parquet")
    queries = [
        NamedQuery("one", Query((Term("clip", clip),))),
        NamedQuery("bad", Query((Term("clip", "gone@0-1"),))),
        NamedQuery("none", Query((Term("clip", clip),), {"video": "nowhere"})),
        NamedQuery("two", Query((Term("clip", clip),), {"time": "0-5"})),
    ]
    with QueryEncoder(index, torch.device("cpu")) as encoder:
        (vector,) = encoder.encode([queries[0].query.terms])
        assert search_queries(index, encoder, queries, output, 3) == 1
    rows = pq.read_table(output).to_pylist()
    assert [row["query"] for row in rows] == ["one"] * 3 + ["bad"] + ["two"] * 3
    assert [row["id"] for row in rows[:3]] == [hit.id for hit in search(index, vector, 3)]
    assert rows[3]["error"] == "clip gone@0-1: no such clip in this index"
    assert all(row["start"] < 5 for row in rows[4:])


def test_vectors_of_a_batch(build_from: Callable[..., str], tmp_path: Path) -> None:
    index = open_index(build_from())
    own = index.vectors.reconstruct(3)
    np.save(tmp_path / "own.npy", own)
    rows = [{"vector": own.tolist()}, {"vector": "own.npy"}, {"vector": [1, 2]}]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    queries, output = read_queries(f"{tmp_path}/q.jsonl"), str(tmp_path / "hits.parquet")
    with QueryEncoder(index, torch.device("cpu")) as encoder:
        assert search_queries(index, encoder, queries, output, 1) == 1
    found = pq.read_table(output).to_pylist()
    assert [row["id"] for row in found] == [index.ids["id"][3].as_py()] * 2 + [None]
    assert "the index takes 16 numbers" in found[2]["error"]
