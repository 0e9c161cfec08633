"""What the server does, apart from HTTP, of indexes without models."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from extractors.errors import AbortError, PipelineError, UsageError
from index.batch_search import NamedQuery, search_queries
from index.config import IndexConfig
from index.encoding import QueryEncoder
from index.hits import Hit
from index.queries import Query, Term
from index.search import open_index
from index.serving.limits import Limits
from index.serving.service import SearchRequest, Service
from tests.index.conftest import Corpus, overlapping
from tests.index.serving.conftest import Client, running
from tests.index.test_append import append, changed

CPU = torch.device("cpu")


def by_clip(clip: str) -> SearchRequest:
    return SearchRequest((Term("clip", clip),), 3)


@pytest.fixture
def appended(corpus: Corpus) -> tuple[Corpus, str, str]:
    """An index with a clip that was removed by an append, and one that was replaced."""
    config = IndexConfig(factory="Flat")
    corpus.build(config)
    ids = open_index(corpus.output).ids.column("id").to_pylist()
    changed(corpus, 1)
    append(corpus, config)
    gone = next(clip for clip in ids if clip.startswith("v1_0@"))
    replaced = next(clip for clip in ids if clip.startswith("v1_1@"))
    return corpus, gone, replaced


def test_a_clip_that_was_removed_is_refused_alone(appended: tuple[Corpus, str, str]) -> None:
    corpus, gone, replaced = appended
    service = Service(open_index(corpus.output), CPU, Limits())
    refused, found, other = service.search([by_clip(gone), by_clip(replaced), by_clip("v0_1@0-10")])
    assert isinstance(refused, UsageError)
    assert str(refused) == f"clip {gone}: was removed from this index"
    assert isinstance(found, list)
    assert isinstance(other, list)
    assert found[0].id == replaced
    with pytest.raises(UsageError, match="was removed"):
        service.clips.find(gone)


def test_a_removed_clip_is_one_failed_row_of_a_file(
    appended: tuple[Corpus, str, str], tmp_path: Path
) -> None:
    corpus, gone, replaced = appended
    index, output = open_index(corpus.output), str(tmp_path / "hits.parquet")
    queries = [NamedQuery(clip, Query((Term("clip", clip),))) for clip in (gone, replaced)]
    with QueryEncoder(index, CPU) as encoder:
        assert search_queries(index, encoder, queries, output, 1) == 1
    rows = pq.read_table(output).to_pylist()
    assert [row["id"] for row in rows] == [None, replaced]
    assert rows[0]["error"].endswith("was removed from this index")


@pytest.mark.parametrize("content", [None, b"", b"no parquet"])
def test_embeddings_that_cannot_be_read_fail_their_own_request_alone(
    corpus: Corpus, content: bytes | None
) -> None:
    corpus.build(IndexConfig())
    index = open_index(corpus.output)
    damaged = Path(corpus.output, "embeddings", "000001.parquet")
    damaged.unlink()
    if content is not None:
        damaged.write_bytes(content)
    found = Service(index, CPU, Limits()).search([by_clip("v1_1@0-10"), by_clip("v0_1@0-10")])
    assert isinstance(found[0], AbortError)
    assert "cannot be read" in str(found[0])
    assert is_answered(found[1])


@pytest.mark.parametrize("factory", ["Flat", "HNSW8"])
def test_an_answer_does_not_depend_on_who_else_asks(corpus: Corpus, factory: str) -> None:
    overlapping(corpus)
    corpus.build(IndexConfig(factory=factory))
    index = open_index(corpus.output)
    service = Service(index, CPU, Limits())
    requests = [
        SearchRequest((Term("clip", clip),), k, merge=merge)
        for clip in index.ids.column("id").to_pylist()[:6]
        for k, merge in ((2, True), (5, True), (100, True), (2, False), (20, False))
    ]
    together = service.search(requests)
    assert together == [service.search([request])[0] for request in requests]
    assert all(isinstance(found, list) and found for found in together)


@pytest.mark.parametrize(
    ("url", "message", "shown"),
    [
        (".", ".: k = 0. Ask for 1 or more", "the index: k = 0. Ask for 1 or more"),
        (".", "clip v.1@0.5-1: no such clip", "clip v.1@0.5-1: no such clip"),
        (".", "./embeddings/0.parquet: gone", "the index/embeddings/0.parquet: gone"),
        ("out", "text 'without': the encoder", "text 'without': the encoder"),
        ("out", "out: a query has dimension 3", "the index: a query has dimension 3"),
        ("/x/out", "file:///x/out/knn.index: gone", "file://the index/knn.index: gone"),
        ("s3://b/out", "s3://b/out/knn.index: gone", "the index/knn.index: gone"),
    ],
)
def test_places_of_the_server_are_not_told(
    build_from: Callable[..., str], url: str, message: str, shown: str
) -> None:
    index = dataclasses.replace(open_index(build_from()), url=url)
    assert Service(index, CPU, Limits()).public(message) == shown


def test_values_are_counted_once(corpus: Corpus, monkeypatch) -> None:
    corpus.build(IndexConfig())
    service, counted = Service(open_index(corpus.output), CPU, Limits()), []
    monkeypatch.setattr(service, "values", lambda column: counted.append(column) or [])
    with running(service) as url:
        assert [Client(url)("/api/index").status for _ in range(3)] == [200] * 3
    assert counted == ["label", "language"]


def is_answered(found: list[Hit] | PipelineError) -> bool:
    return isinstance(found, list) and bool(found)
