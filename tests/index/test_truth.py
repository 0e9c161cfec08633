from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.card import Block
from index.config import IndexConfig
from index.held_out import exact_nearest
from index.stored_vectors import make_blocks, numbered_vectors
from index.truth import TRUTH_NAME, extended_truth, new_truth


def blocks_of(corpus, config: IndexConfig) -> tuple[Block, ...]:
    return make_blocks(corpus.update(config))


def truly_nearest(corpus, config: IndexConfig, blocks, queries_QD) -> np.ndarray:
    live = [block for block in blocks if not block.masked]
    k = min(100, sum(block.count for block in live))
    vectors = numbered_vectors(corpus.output, live, config.metric)
    return exact_nearest(queries_QD, vectors, config.metric, k)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_what_is_appended_is_compared_and_the_queries_stay(
    corpus, metric: str, monkeypatch
) -> None:
    config = IndexConfig(metric=metric, held_out_queries=9)
    for number in range(3, 8):
        corpus.add_shard(number, tar_sha256=f"tar{number}")
    before = new_truth(corpus.output, config, blocks_of(corpus, config))
    corpus.add_shard(8, tar_sha256="tar8")
    blocks = blocks_of(corpus, config)
    read = []

    def watched(output, of, metric):
        read.extend(block.shard for block in of)
        return numbered_vectors(output, of, metric)

    monkeypatch.setattr("index.truth.numbered_vectors", watched)
    after = extended_truth(corpus.output, config, blocks)
    assert read == [8]
    assert np.array_equal(after.queries_QD, before.queries_QD)
    expected = truly_nearest(corpus, config, blocks, after.queries_QD)
    assert np.array_equal(after.nearest_QK, expected)
    assert (after.nearest_QK >= blocks[-1].first).any()


def test_what_is_masked_is_never_the_truth(corpus) -> None:
    config = IndexConfig(held_out_queries=9)
    blocks = blocks_of(corpus, config)
    new_truth(corpus.output, config, blocks)
    masked = (replace(blocks[0], masked=True), *blocks[1:])
    found = extended_truth(corpus.output, config, masked)
    assert np.array_equal(found.nearest_QK, truly_nearest(corpus, config, masked, found.queries_QD))
    assert found.nearest_QK.min() >= blocks[1].first


@pytest.mark.parametrize("damage", ["gone", "cut", "settings", "outgrown"])
def test_what_cannot_be_used_is_made_anew(corpus, damage: str) -> None:
    config = IndexConfig(held_out_queries=9)
    new_truth(corpus.output, config, blocks_of(corpus, config))
    path = Path(corpus.output, TRUTH_NAME)
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "settings":
        config = IndexConfig(held_out_queries=8)
    else:
        for number in (3, 4):
            corpus.add_shard(number, tar_sha256=f"tar{number}")
    blocks = blocks_of(corpus, config)
    found = extended_truth(corpus.output, config, blocks)
    anew = new_truth(corpus.output, config, blocks)
    assert np.array_equal(found.queries_QD, anew.queries_QD)
    assert np.array_equal(found.nearest_QK, anew.nearest_QK)


def test_a_build_does_not_depend_on_what_an_earlier_one_left(corpus) -> None:
    config = IndexConfig(held_out_queries=9)
    first = corpus.build(config)
    kept = Path(corpus.output, TRUTH_NAME).read_bytes()
    corpus.add_shard(3, tar_sha256="tar3")
    corpus.build(config)
    assert Path(corpus.output, TRUTH_NAME).read_bytes() != kept
    assert first.recall["recall@10"] == 1.0
