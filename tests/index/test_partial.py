from pathlib import Path

import pytest

from index.config import IndexConfig
from tests.index.conftest import in_process


@pytest.mark.parametrize("factory", ["Flat", "IVF4,SQ8", "HNSW8", "IVF4_HNSW4,Flat"])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_merged_parts_are_the_bytes_of_one_piece(corpus, factory: str, metric: str) -> None:
    config = IndexConfig(factory=factory, metric=metric)
    alone = corpus.build(config)
    merged = corpus.build(config, execute=in_process)
    assert merged.index_sha256 == alone.index_sha256
    assert merged.ids_sha256 == alone.ids_sha256
    assert not Path(corpus.output, "partial").exists()


@pytest.mark.parametrize("factory", ["IVF4,SQ8", "PCAR8,IVF4,SQ6", "IVF4_HNSW4,Flat"])
@pytest.mark.parametrize("execute", [None, in_process])
def test_what_exceeds_memory_is_joined_on_disk_to_the_same_bytes(
    corpus, factory: str, execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = corpus.build(IndexConfig(factory=factory))
    monkeypatch.setattr("index.partial._merged", None)  # what would join them in memory
    on_disk = corpus.build(IndexConfig(factory=factory, build_memory=100), execute=execute)
    assert on_disk.index_sha256 == alone.index_sha256
    assert on_disk.recall == alone.recall
    assert not Path(corpus.output, "partial").exists()


def test_an_exact_index_has_no_lists_to_join_on_disk(corpus) -> None:
    alone = corpus.build(IndexConfig(factory="Flat"))
    small = corpus.build(IndexConfig(factory="Flat", build_memory=100))
    assert small.index_sha256 == alone.index_sha256


def test_a_stopped_build_goes_on_with_the_parts_that_are_whole(corpus) -> None:
    config = IndexConfig(factory="IVF4,Flat")
    asked: list[list[int]] = []

    def stops_after_one(setup, items):
        asked.append([block.shard for block in items])
        work = setup()
        yield work(items[0])
        if len(asked) == 1:
            raise KeyboardInterrupt
        yield from map(work, items[1:])

    with pytest.raises(KeyboardInterrupt):
        corpus.build(config, execute=stops_after_one)
    card = corpus.build(config, execute=stops_after_one)
    assert asked == [[0, 1, 2], [1, 2]]
    assert card.index_sha256 == corpus.build(config).index_sha256
