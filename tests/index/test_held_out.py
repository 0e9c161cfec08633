import faiss
import numpy as np
import pytest

from index.config import IndexConfig
from index.construct import add_vectors, train_index
from index.held_out import (
    HeldOut,
    exact_nearest,
    headline,
    measure,
    perturbed,
    recall_at,
    tune,
)
from tests.index.conftest import clusters

X_ND = clusters(3000, 16)


def held_out(metric: str = "cosine") -> HeldOut:
    queries_QD = perturbed(X_ND[::60], metric, seed=0)
    return HeldOut(queries_QD, exact_nearest(queries_QD, [(0, X_ND)], metric, 100))


def index_of(factory: str, metric: str = "cosine") -> faiss.Index:
    return add_vectors(train_index(factory, 16, metric, X_ND), [X_ND])


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_the_truth_is_that_of_all_vectors_whatever_the_batches(metric: str) -> None:
    queries_QD = perturbed(X_ND[:9], metric, seed=1)
    numbered = [(i, X_ND[i : i + 700]) for i in range(0, 3000, 700)] + [(3000, X_ND[:0])]
    if metric == "l2":
        scores = -((queries_QD[:, None].astype(np.float64) - X_ND) ** 2).sum(axis=2)
    else:
        scores = queries_QD.astype(np.float64) @ X_ND.T.astype(np.float64)
    expected = np.argsort(-scores, axis=1)[:, :7]
    assert np.array_equal(exact_nearest(queries_QD, numbered, metric, 7), expected)


def test_queries_are_near_their_vectors_but_none_of_them() -> None:
    queries_QD = perturbed(3 * X_ND[:50], "dot", seed=0)
    moved_Q = np.linalg.norm(queries_QD - 3 * X_ND[:50], axis=1)
    assert np.allclose(moved_Q, 0.9, atol=1e-5)
    assert np.allclose(np.linalg.norm(perturbed(X_ND[:50], "cosine", 0), axis=1), 1, atol=1e-6)
    assert np.array_equal(queries_QD, perturbed(3 * X_ND[:50], "dot", seed=0))
    assert not np.array_equal(queries_QD, perturbed(3 * X_ND[:50], "dot", seed=1))


@pytest.mark.parametrize("factory", ["IVF64,Flat", "HNSW4"])
def test_tuning_takes_the_fastest_that_reaches_the_target(factory: str) -> None:
    index, queries = index_of(factory), held_out()
    low = tune(index, queries, IndexConfig(recall_target=0.3, search_ms_budget=1e9))
    high = tune(index, queries, IndexConfig(recall_target=0.99, search_ms_budget=1e9))
    ((name, least),) = low.items()
    assert least < high[name]
    measured = measure(index, queries, IndexConfig(recall_target=0.99, search_ms_budget=1e9))
    assert measured.search_parameters == high
    assert measured.recall["recall@10"] >= 0.99


def test_the_time_budget_bounds_the_tuning() -> None:
    config = IndexConfig(recall_target=1.0, search_ms_budget=1e-9)
    measured = measure(index_of("IVF64,Flat"), held_out(), config)
    assert measured.search_parameters == {"nprobe": 1}
    said = headline(measured.recall, config.recall_target)
    assert said is not None
    assert "below index.recall_target = 1" in said


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_an_exact_index_finds_all(metric: str) -> None:
    measured = measure(index_of("Flat", metric), held_out(metric), IndexConfig())
    assert measured.search_parameters == {}
    assert measured.recall == {"recall@1": 1.0, "recall@10": 1.0, "recall@100": 1.0}
    assert headline(measured.recall, 1.0) is None
    single, batch = measured.single_ms, measured.batch_ms
    assert 0 < single.p50 <= single.p95 <= single.p99
    assert 0 < batch.p50 <= batch.p99


def test_recall_counts_ids_and_not_the_lack_of_them() -> None:
    found, nearest = np.array([[1, 2, -1], [4, 5, 6]]), np.array([[2, 3, -1], [6, 5, 4]])
    assert recall_at(found, nearest) == 0.75


def test_looking_harder_ends_where_the_codes_have_nothing_more_to_give() -> None:
    index = index_of("IVF64,PQ2x4")
    chosen = tune(index, held_out(), IndexConfig(recall_target=1.0, search_ms_budget=1e9))
    assert chosen["nprobe"] < 64


def test_a_known_setting_is_kept_while_it_reaches_the_target() -> None:
    config = IndexConfig(recall_target=0.9, search_ms_budget=1e9)
    index, queries = index_of("IVF64,Flat"), held_out()
    tuned = measure(index, queries, config)
    assert tuned.search_parameters["nprobe"] > 1
    thorough = {"nprobe": 64}
    assert measure(index, queries, config, known=thorough).search_parameters == thorough
    again = measure(index, queries, config, known={"nprobe": 1})
    assert again.search_parameters == tuned.search_parameters
    assert again.recall == tuned.recall


def test_recall_of_lists_and_of_graphs_is_that_of_as_many_asked_for() -> None:
    for factory in ("IVF64,SQ8", "HNSW8"):
        index, queries = index_of(factory), held_out()
        measured = measure(index, queries, IndexConfig(recall_target=0.6, search_ms_budget=1e9))
        for k in (1, 10, 100):
            _, found = index.search(queries.queries_QD, k)
            assert measured.recall[f"recall@{k}"] == recall_at(found, queries.nearest_QK[:, :k])
