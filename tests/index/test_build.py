import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from extractors.errors import AbortError, UsageError
from index.config import IndexConfig
from index.embedding_shards import embedding_url
from index.search import open_index, search
from index.vectors import unit_rows
from pipeline import storage
from pipeline.shards import shard_url
from tests.index.conftest import in_process
from training.provenance import dataset_digest


def expected_vectors(corpus, targets: tuple[str, ...]) -> tuple[list[str], np.ndarray]:
    """Ids and sums by a plain loop over clips."""
    ids, sums = [], []
    for number in (0, 1, 2):
        clips, embeddings, present = corpus.arrays(number)
        for i, clip in enumerate(clips):
            parts = [embeddings[name][i] for name in targets if present[name][i]]
            if parts:
                ids.append(clip.id)
                sums.append(sum(parts))
    return ids, np.array(sums, np.float32)


@pytest.mark.parametrize("targets", [("video", "audio"), ("video",), ("video", "audio", "text")])
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_search_equals_brute_force(corpus, targets: tuple[str, ...], metric: str) -> None:
    corpus.build(IndexConfig(targets=targets, metric=metric))
    ids, sums_ND = expected_vectors(corpus, targets)
    index = open_index(corpus.output)
    for query_D in np.random.default_rng(1).standard_normal((20, sums_ND.shape[1])):
        scores_N = sums_ND.astype(np.float64) @ query_D
        if metric == "cosine":
            scores_N /= np.linalg.norm(sums_ND, axis=1) * np.linalg.norm(query_D)
        order = np.argsort(-scores_N)[:7]
        hits = search(index, query_D, k=7)
        assert [hit.id for hit in hits] == [ids[i] for i in order]
        # float32 products of about 16 terms of order 1 to 10
        assert np.allclose([hit.score for hit in hits], scores_N[order], atol=1e-5)


def test_row_i_of_ids_is_faiss_id_i(corpus) -> None:
    corpus.build(IndexConfig())
    ids, sums_ND = expected_vectors(corpus, ("video", "audio"))
    index = open_index(corpus.output)
    assert index.ids.column("id").to_pylist() == ids
    columns = ["id", "key", "uri", "start", "end", "text", "label", "split", "language"]
    assert index.ids.column_names == columns
    for i in range(len(ids)):
        assert np.allclose(index.vectors.reconstruct(i), unit_rows(sums_ND)[i], atol=1e-6)


def test_clips_without_a_target_modality_are_embedded_but_not_indexed(corpus) -> None:
    card = corpus.build(IndexConfig())
    table = pq.read_table(embedding_url(corpus.output, 0, ".parquet"))
    first = table.slice(0, 1).to_pylist()[0]
    assert first["sum_embedding"] is None
    assert first["text_embedding"] is not None
    assert first["id"] not in open_index(corpus.output).ids.column("id").to_pylist()
    assert card.count < card.clips == 36


def test_the_card_says_what_the_index_is(corpus) -> None:
    card = corpus.build(IndexConfig(metric="dot"))
    assert (card.factory, card.metric, card.normalisation) == ("Flat", "dot", "none")
    assert card.target_modalities == ("video", "audio")
    assert card.model_digest == "m" * 64
    assert card.dataset_digest == hashlib.sha256(b"tar0tar1tar2").hexdigest()
    assert card.videos == 9
    assert card.search_ms > 0
    knn_index = Path(corpus.output, "knn.index")
    assert card.index_sha256 == hashlib.sha256(knn_index.read_bytes()).hexdigest()
    assert card.size_bytes == knn_index.stat().st_size
    assert open_index(corpus.output).card == card


def test_the_card_names_dataset_and_model_from_anywhere(
    corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus.dataset = "dataset"
    card = corpus.build(IndexConfig())
    assert (card.dataset, card.model) == (str(tmp_path / "dataset"), "/run")


def test_the_card_has_autofaiss_keys(corpus) -> None:
    card = corpus.build(IndexConfig())
    content = storage.read_json(storage.join(corpus.output, "index_infos.json"))
    assert content["index_key"] == "Flat"
    assert content["nb vectors"] == card.count
    assert content["vectors dimension"] == 16
    assert content["size in bytes"] == card.size_bytes
    assert content["avg_search_speed_ms"] == card.search_ms
    assert content["format_version"] == 3


def test_the_resolved_configuration_is_saved(corpus) -> None:
    corpus.build(IndexConfig(metric="dot"))
    assert "metric: dot" in Path(corpus.output, "config.yaml").read_text()


def test_the_same_dataset_and_model_give_the_same_bytes(corpus) -> None:
    first = corpus.build(IndexConfig())
    content = Path(corpus.output, "ids.parquet").read_bytes()
    second = corpus.build(IndexConfig())
    assert first.index_sha256 == second.index_sha256
    assert content == Path(corpus.output, "ids.parquet").read_bytes()


def test_a_second_run_keeps_every_shard(corpus) -> None:
    corpus.build(IndexConfig())
    assert corpus.embedded == [0, 1, 2]
    assert [(p.done, p.total, p.kept) for p in corpus.progress] == [
        *[(0, 3, 0), (1, 3, 0)],
        *[(2, 3, 0), (3, 3, 0)],
    ]
    corpus.build(IndexConfig(metric="dot", factory="HNSW8"))
    assert corpus.embedded == [0, 1, 2]
    assert corpus.progress[-1].kept == 3


def test_a_changed_feature_shard_is_redone_alone(corpus) -> None:
    before = corpus.build(IndexConfig())
    corpus.add_shard(1, tar_sha256="changed")
    after = corpus.build(IndexConfig())
    assert corpus.embedded == [0, 1, 2, 1]
    assert corpus.progress[-1].kept == 2
    assert before.dataset_digest != after.dataset_digest


def test_a_new_feature_shard_is_added(corpus) -> None:
    corpus.build(IndexConfig())
    corpus.add_shard(3, tar_sha256="tar3")
    card = corpus.build(IndexConfig())
    assert corpus.embedded == [0, 1, 2, 3]
    assert card.clips == 48


@pytest.mark.parametrize(
    "again",
    [
        lambda corpus: corpus.build(IndexConfig(), model_digest="n" * 64),
        lambda corpus: corpus.build(IndexConfig(targets=("video",))),
        lambda corpus: corpus.build(IndexConfig(window=4.0)),
        lambda corpus: corpus.build(IndexConfig(overlap=1.0)),
        lambda corpus: corpus.build(IndexConfig(clips="windows")),
    ],
    ids=["model", "targets", "window", "overlap", "clips"],
)
def test_what_decides_the_numbers_redoes_every_shard(corpus, again: Callable) -> None:
    corpus.build(IndexConfig())
    again(corpus)
    assert corpus.embedded == [0, 1, 2, 0, 1, 2]


def test_a_damaged_shard_of_embeddings_is_redone(corpus) -> None:
    first = corpus.build(IndexConfig())
    Path(embedding_url(corpus.output, 2, ".parquet")).write_bytes(b"damaged")
    second = corpus.build(IndexConfig())
    assert corpus.embedded == [0, 1, 2, 2]
    assert first.index_sha256 == second.index_sha256


def test_a_stopped_build_resumes_at_the_shard_it_stopped_at(corpus) -> None:
    class StopError(Exception):
        pass

    def stop(progress) -> None:
        if progress.done == 2:
            raise StopError

    corpus.progress = type("Stop", (), {"append": staticmethod(stop)})()
    with pytest.raises(StopError):
        corpus.build(IndexConfig())
    with pytest.raises(AbortError, match="not found"):
        open_index(corpus.output)
    corpus.progress = []
    corpus.build(IndexConfig())
    assert corpus.embedded == [0, 1, 2]
    assert corpus.progress[-1].kept == 2


def test_a_dataset_without_shards_is_refused(corpus, tmp_path: Path) -> None:
    corpus.dataset = str(tmp_path / "nothing")
    with pytest.raises(UsageError, match="nothing: no finished shards"):
        corpus.build(IndexConfig())


def test_another_datasets_output_is_refused(corpus, tmp_path: Path) -> None:
    corpus.build(IndexConfig())
    corpus.dataset = str(tmp_path / "smaller")
    corpus.add_shard(0)
    for number in range(4):  # fewer shards or more: the card says whose they are
        with pytest.raises(AbortError, match=r"embeddings of .*/dataset, not of .*/smaller"):
            corpus.build(IndexConfig())
        corpus.add_shard(number)
    assert corpus.embedded == [0, 1, 2]


def test_a_stopped_build_of_another_dataset_is_refused(corpus, tmp_path: Path) -> None:
    corpus.update(IndexConfig())
    corpus.dataset = str(tmp_path / "smaller")
    corpus.add_shard(0)
    with pytest.raises(AbortError, match=r"embeddings of another dataset, not of .*/smaller"):
        corpus.build(IndexConfig())


def test_a_dataset_that_moved_keeps_its_index(corpus, tmp_path: Path) -> None:
    corpus.build(IndexConfig())
    moved = tmp_path / "moved"
    Path(corpus.dataset).rename(moved)
    corpus.dataset = str(moved)
    for suffix in (".tar", "_stats.json"):
        Path(shard_url(corpus.dataset, 2, suffix)).unlink(missing_ok=True)
    card = corpus.build(IndexConfig())
    assert corpus.embedded == [0, 1, 2]
    assert (card.dataset, len(card.blocks)) == (str(moved), 2)


def test_a_dataset_without_any_target_modality_is_refused(corpus) -> None:
    arrays = corpus.arrays

    def silent(number: int):
        clips, embeddings, present = arrays(number)
        return clips, embeddings, present | {"audio": np.zeros(len(clips), bool)}

    corpus.arrays = silent
    with pytest.raises(AbortError, match=r"no clip has any of the target modalities \(audio\)"):
        corpus.build(IndexConfig(targets=("audio",)))


@pytest.mark.parametrize(
    ("factory", "reason"), [("IDMap,Flat", "use add_with_ids"), ("NSG8,Flat", "incremental")]
)
@pytest.mark.parametrize("execute", [None, in_process])
def test_a_factory_that_vectors_cannot_be_added_to_is_refused(
    corpus,
    monkeypatch: pytest.MonkeyPatch,
    factory: str,
    reason: str,
    execute: Callable | None,
) -> None:
    monkeypatch.setattr("tests.index.conftest.CLIPS", 200)  # NSG wants 100 in its first batch
    with pytest.raises(UsageError, match=f"^index.factory = '{factory}': .*{reason}.*'auto'"):
        corpus.build(IndexConfig(factory=factory), execute=execute)


def test_the_order_of_shards_is_in_the_datasets_digest() -> None:
    assert dataset_digest(["a", "b"]) != dataset_digest(["b", "a"])
