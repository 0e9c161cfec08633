"""index.stored_vectors: the same vectors whatever the number of threads that read them."""

from dataclasses import replace

import faiss
import numpy as np
import pytest

from extractors.errors import AbortError
from index.card import Block
from index.config import IndexConfig
from index.embedding_shards import MODALITIES, ClipRow, clip_table, publish_embeddings
from index.stored_vectors import each_block, make_blocks, numbered_vectors, sample_vectors
from index.truth import new_truth

COUNTS = (40, 1, 25)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, tuple[Block, ...]]:
    """An index folder with the embeddings of three shards, and their blocks."""
    folder = str(tmp_path_factory.mktemp("index"))
    rng = np.random.default_rng(0)
    records = []
    for number, count in enumerate(COUNTS):
        x_ND = rng.normal(size=(count, 8)).astype(np.float32)
        clips = [ClipRow(f"v{number}_{i}", "", 0.0, 1.0) for i in range(count)]
        vectors = dict.fromkeys(MODALITIES, x_ND)
        present = {name: np.full(count, name == "video") for name in MODALITIES}
        table = clip_table(clips, vectors, present, ("video",))
        records.append(
            publish_embeddings(
                folder, number, table, tar_sha256="", model_digest="", settings={"window": 8.0}
            )
        )
    return folder, make_blocks(records)


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> int:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(request.param)
    yield request.param
    faiss.omp_set_num_threads(before)


def test_a_sample_holds_the_vectors_of_its_ids(
    blocks: tuple[str, tuple[Block, ...]], threads: int
) -> None:
    folder, made = blocks
    every_ND = np.concatenate([x_ND for _, x_ND in numbered_vectors(folder, made, "cosine")])
    ids, found_ND = sample_vectors(folder, made, "cosine", 20, (0, 1))
    assert len(set(ids.tolist())) == 20
    np.testing.assert_array_equal(found_ND, every_ND[ids])
    ids, found_ND = sample_vectors(folder, made, "cosine", 1000, (0, 1))
    np.testing.assert_array_equal(found_ND, every_ND)


def test_the_truth_is_that_of_all_blocks(
    blocks: tuple[str, tuple[Block, ...]], threads: int
) -> None:
    """Against plain NumPy; the block of one vector has fewer than are asked for."""
    folder, made = blocks
    config = IndexConfig(held_out_queries=7)
    truth = new_truth(folder, config, made)
    every_ND = np.concatenate([x_ND for _, x_ND in numbered_vectors(folder, made, "cosine")])
    best_QN = np.argsort(-(truth.queries_QD @ every_ND.T), axis=1)
    np.testing.assert_array_equal(truth.nearest_QK[:, :10], best_QN[:, :10])
    assert truth.nearest_QK.shape == (7, sum(COUNTS))


def test_work_on_blocks_comes_back_in_order_and_its_error_too(
    blocks: tuple[str, tuple[Block, ...]], threads: int
) -> None:
    _, made = blocks
    assert list(each_block(lambda block: block.count, made)) == list(COUNTS)
    assert list(each_block(lambda block: block.count, ())) == []
    assert faiss.omp_get_max_threads() == threads
    with pytest.raises(ZeroDivisionError):
        list(each_block(lambda block: 1 // (block.count - 1), made))


def test_embeddings_that_are_newer_than_the_index_are_refused(
    blocks: tuple[str, tuple[Block, ...]],
) -> None:
    """Their rows are in other places: they would pass for other clips."""
    folder, made = blocks
    older = replace(made[1], parquet_sha256="0" * 64)
    with pytest.raises(AbortError, match=r"000001\.parquet: not the embeddings that were indexed"):
        list(numbered_vectors(folder, (made[0], older), "cosine"))
