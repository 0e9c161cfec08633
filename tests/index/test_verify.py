import dataclasses
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

from extractors.errors import AbortError
from index.card import read_card, write_card
from index.config import IndexConfig
from index.embedding_shards import embedding_url
from index.verify import verify_index
from pipeline.shards import sha256_of


def edit(corpus, **changes: object) -> None:
    """A card that agrees with its files, so that only what is inside them can betray them."""
    card = read_card(corpus.output)
    sums = {
        f"{name}_sha256": sha256_of(Path(corpus.output, file))
        for name, file in (("index", "knn.index"), ("ids", "ids.parquet"))
    }
    write_card(corpus.output, dataclasses.replace(card, **sums, **changes))


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_a_whole_index_has_no_problems(corpus, metric: str) -> None:
    corpus.build(IndexConfig(metric=metric))
    problems = verify_index(corpus.output)
    if metric == "dot":  # a longer vector may score higher than a vector does with itself
        assert all("find themselves" in line for line in problems)
    else:
        assert problems == []


def test_ids_in_another_order_are_found(corpus) -> None:
    corpus.build(IndexConfig())
    path = Path(corpus.output, "ids.parquet")
    table = pq.read_table(path)
    order = [*range(5), 6, 5, *range(7, table.num_rows)]
    pq.write_table(table.take(order), path)
    edit(corpus)
    assert any("ids.parquet: row 5 is not the clip" in line for line in verify_index(corpus.output))


def test_vectors_of_something_else_are_found(corpus) -> None:
    card = corpus.build(IndexConfig())
    other = faiss.IndexFlatIP(16)
    other.add(np.random.default_rng(9).standard_normal((card.count, 16)).astype(np.float32))
    faiss.write_index(other, str(Path(corpus.output, "knn.index")))
    edit(corpus)
    (line,) = verify_index(corpus.output)
    assert "not these vectors' index?" in line


def test_shards_that_are_new_or_changed_since_are_named(corpus) -> None:
    corpus.build(IndexConfig())
    corpus.add_shard(1, tar_sha256="changed")
    corpus.add_shard(3, tar_sha256="new")
    assert verify_index(corpus.output) == [
        "shard 000001: changed since; run `pipeline index append`",
        "shard 000003: not in the index; run `pipeline index append`",
    ]


@pytest.mark.parametrize(
    ("suffix", "message"), [(".parquet", "missing or damaged"), ("_stats.json", "no record")]
)
def test_missing_embeddings_are_named(corpus, suffix: str, message: str) -> None:
    corpus.build(IndexConfig())
    Path(embedding_url(corpus.output, 2, suffix)).unlink()
    assert any(f"embeddings of shard 000002: {message}" in p for p in verify_index(corpus.output))


def test_embeddings_of_another_model_are_named(corpus) -> None:
    config = IndexConfig()
    corpus.build(config)
    edit(corpus, model_digest="n" * 64)
    assert len([p for p in verify_index(corpus.output) if "made by another model" in p]) == 3


def test_blocks_that_do_not_add_up_are_named(corpus) -> None:
    card = corpus.build(IndexConfig())
    edit(corpus, blocks=card.blocks[:-1], masked=1)
    problems = "\n".join(verify_index(corpus.output))
    assert "the card's blocks hold" in problems
    assert "mask 0 vectors, the mask 1" in problems
    assert "shard 000002: not in the index" in problems


def test_a_damaged_index_is_refused(corpus) -> None:
    corpus.build(IndexConfig())
    Path(corpus.output, "knn.index").write_bytes(b"?")
    with pytest.raises(AbortError, match=r"knn\.index: sha256"):
        verify_index(corpus.output)
