from collections.abc import Callable

import numpy as np
import pyarrow.parquet as pq
import pytest

from extractors.errors import AbortError, UsageError
from index import embedding_shards
from index.clip_vectors import clip_rows, clip_vector
from index.config import IndexConfig
from index.search import open_index, search, search_many
from index.vectors import prepared
from tests.index.conftest import Corpus, overlapping

Build = Callable[..., str]


def test_a_clip_is_found_by_its_id_however_it_is_written(build_from: Build) -> None:
    ids = open_index(build_from()).ids
    row = ids.slice(6, 1).to_pylist()[0]
    for clip in (row["id"], f"{row['key']}@{row['start']:g}-{row['end']:g}"):
        assert clip_rows(ids, clip).tolist() == [6]


def test_a_merged_hit_stands_for_the_clips_inside(build_from: Build) -> None:
    index = open_index(build_from())
    inside = [i for i, row in enumerate(index.ids.to_pylist()) if row["key"] == "v0_1"]
    assert clip_rows(index.ids, "v0_1@0-10").tolist() == inside
    mean_D = np.mean(
        [clip_vector(index.url, index.card, index.ids, index.ids["id"][i].as_py()) for i in inside],
        axis=0,
    )
    together_D = clip_vector(index.url, index.card, index.ids, "v0_1@0-10")
    assert np.allclose(together_D, mean_D, atol=1e-6)


@pytest.mark.parametrize("clip", ["v0_1", "v0_1@1-1.5", "gone@0-10", "v0_1@a-b", ""])
def test_an_unknown_clip_is_refused(build_from: Build, clip: str) -> None:
    with pytest.raises(UsageError, match=f"clip {clip}: "):
        clip_rows(open_index(build_from()).ids, clip)


def test_a_clips_vector_finds_the_clip(build_from: Build) -> None:
    index = open_index(build_from())
    clip = index.ids["id"][7].as_py()
    assert search(index, clip_vector(index.url, index.card, index.ids, clip), 1)[0].id == clip


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("targets", [("video",), ("text", "audio")])
def test_other_targets_give_what_an_index_of_them_would(corpus, metric, targets) -> None:
    every = IndexConfig(metric=metric, targets=("video", "audio", "text"))
    corpus.build(every)
    index = open_index(corpus.output)
    queries_QD = np.random.default_rng(3).standard_normal((3, 16)).astype(np.float32)
    found = search_many(index, queries_QD, 5, {"time": "0-5"}, targets=targets)
    expected = exact(corpus, metric, targets, prepared(queries_QD, metric))
    for hits, best in zip(found, expected, strict=True):
        assert [hit.id for hit in hits] == [clip for clip, _ in best]
        assert np.allclose([hit.score for hit in hits], [s for _, s in best], atol=1e-4)


def exact(corpus, metric, targets, queries_QD) -> list[list[tuple[str, float]]]:
    """The five nearest that overlap the first five seconds, one by one."""
    best = []
    for query_D in queries_QD:
        scored = []
        for number in (0, 1, 2):
            clips, embeddings, present = corpus.arrays(number)
            for i, clip in enumerate(clips):
                if clip.start >= 5 or not any(present[t][i] for t in targets):
                    continue
                x_D = sum(embeddings[t][i] for t in targets if present[t][i])
                x_D = prepared(x_D[None], metric)[0]
                score = -((query_D - x_D) ** 2).sum() if metric == "l2" else query_D @ x_D
                scored.append((clip.id, float(score)))
        best.append(sorted(scored, key=lambda pair: -pair[1])[:5])
    return best


def test_the_indexed_targets_are_searched_in_faiss(build_from: Build) -> None:
    index = open_index(build_from())
    query_D = np.ones(16)
    assert search(index, query_D, 5, targets=["audio", "video"]) == search(index, query_D, 5)


@pytest.mark.parametrize("targets", [["smell"], []])
def test_unknown_targets_are_refused(build_from: Build, targets: list[str]) -> None:
    with pytest.raises(UsageError, match="clips of this index have video, audio, text"):
        search(open_index(build_from()), np.ones(16), 5, targets=targets)


def test_many_queries_give_what_each_gives_alone(build_from: Build) -> None:
    index = open_index(build_from())
    queries_QD = np.random.default_rng(4).standard_normal((7, 16))
    for merge in (False, True):
        found = search_many(index, queries_QD, 4, merge=merge)
        assert found == [search(index, query_D, 4, merge=merge) for query_D in queries_QD]


@pytest.mark.parametrize("factory", ["Flat", "HNSW8"])
def test_merged_hits_do_not_depend_on_the_rest_of_the_batch(corpus: Corpus, factory: str) -> None:
    """Some of these queries must be searched deeper than others."""
    overlapping(corpus)
    corpus.build(IndexConfig(factory=factory))
    index = open_index(corpus.output)
    queries_QD = np.random.default_rng(4).standard_normal((9, 16))
    found = search_many(index, queries_QD, 5, merge=True)
    alone = [search(index, query_D, 5, merge=True) for query_D in queries_QD]
    assert [[h.id for h in hits] for hits in found] == [[h.id for h in hits] for hits in alone]


def test_merging_ends_where_there_are_not_enough_videos(corpus: Corpus, monkeypatch) -> None:
    overlapping(corpus)
    corpus.build(IndexConfig(factory="Flat"))
    index = open_index(corpus.output)
    merged = search(index, np.ones(16), 30, merge=True)
    assert 0 < len(merged) < 30
    monkeypatch.setattr("index.search.DEEPEST", 1)
    assert search(index, np.ones(16), 5, merge=True) != merged[:5]
    assert 0 < len(search(index, np.ones(16), 5, merge=True)) < 5


def test_only_the_row_groups_of_a_clip_are_read(corpus: Corpus, monkeypatch) -> None:
    monkeypatch.setattr("index.embedding_shards.BATCH_ROWS", 3)
    corpus.build(IndexConfig(factory="Flat", metric="dot"))
    index, read = open_index(corpus.output), []
    assert index.card.count < index.card.clips  # some rows have no sum
    monkeypatch.setattr("index.clip_vectors.pq.ParquetFile", counting(read))
    for row in range(index.card.count):
        clip = index.ids["id"][row].as_py()
        x_D = clip_vector(index.url, index.card, index.ids, clip)
        assert np.allclose(x_D, index.vectors.reconstruct(row))
    assert {len(groups) for groups in read} == {1}
    inside = clip_rows(index.ids, "v0_1@0-10")
    x_D = clip_vector(index.url, index.card, index.ids, "v0_1@0-10")
    assert np.allclose(x_D, np.mean([index.vectors.reconstruct(int(i)) for i in inside], axis=0))
    assert len(read[-1]) > 1


def counting(read: list[list[int]]) -> type[pq.ParquetFile]:
    class Counting(pq.ParquetFile):
        def read_row_groups(self, row_groups, *args, **kwargs):
            read.append(row_groups)
            return super().read_row_groups(row_groups, *args, **kwargs)

    return Counting


def test_a_scan_reads_a_batch_at_a_time_and_can_be_stopped(corpus: Corpus, monkeypatch) -> None:
    corpus.build(IndexConfig())
    index, asked = open_index(corpus.output), []
    first = embedding_shards.embedding_batches

    def three_at_a_time(*args):
        for table in first(*args, rows=3):
            asked.append("read")
            yield table

    def stopped() -> bool:
        asked.append("stopped?")
        return len(asked) == 4

    monkeypatch.setattr("index.stored_vectors.embedding_batches", three_at_a_time)
    with pytest.raises(AbortError, match="given up"):
        search_many(index, np.ones((1, 16)), 5, targets=["video"], stopped=stopped)
    assert asked == ["read", "stopped?"] * 2


def test_embeddings_that_are_newer_than_the_index_are_not_read_as_its_own(corpus: Corpus) -> None:
    """A server goes on with its index while another run embeds a shard anew."""
    config = IndexConfig(factory="Flat")
    corpus.build(config)
    index, clip = open_index(corpus.output), "v1_1@0-2.5"
    assert search(index, np.ones(16), 1, targets=("audio",))
    clip_vector(index.url, index.card, index.ids, clip)
    corpus.add_shard(1, tar_sha256="changed")
    before = corpus.arrays

    def one_fewer(number: int):
        clips, embeddings, present = before(number)
        moved = ({name: x[1:] for name, x in part.items()} for part in (embeddings, present))
        return clips[1:], *moved

    corpus.arrays = one_fewer
    corpus.update(config)
    with pytest.raises(AbortError, match=r"000001\.parquet: not the embeddings that were indexed"):
        search(index, np.ones(16), 1, targets=("audio",))
    with pytest.raises(AbortError, match=r"000001\.parquet: not the embeddings that were indexed"):
        clip_vector(index.url, index.card, index.ids, clip)
