import faiss
import pytest

from extractors.errors import UsageError
from index.construct import (
    add_vectors,
    can_merge,
    has_graph,
    merge_part,
    train_index,
    training_rows,
)
from tests.index.conftest import clusters

MERGEABLE = [
    *("Flat", "SQ8", "IVF8,Flat", "IVF8,SQ8", "PCA8,IVF8,SQ8", "IVF8_HNSW8,Flat"),
    "IVF8,PQ2x4",
]
IN_ONE_PIECE = ["HNSW8", "HNSW8,SQ8", "PCA8,HNSW8", "IVF8,PQ2x4,RFlat"]


def content(index: faiss.Index) -> bytes:
    return faiss.serialize_index(index).tobytes()


@pytest.mark.parametrize("factory", MERGEABLE)
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_merged_parts_are_the_bytes_of_one_piece(factory: str, metric: str) -> None:
    x_ND = clusters(1500, 16)
    trained = train_index(factory, 16, metric, x_ND[:800])
    whole = add_vectors(faiss.clone_index(trained), [x_ND[:500], x_ND[500:]])
    merged = faiss.clone_index(trained)
    for rows in (x_ND[:500], x_ND[500:500], x_ND[500:1100], x_ND[1100:]):
        merge_part(merged, add_vectors(faiss.clone_index(trained), [rows]))
    assert can_merge(trained)
    assert content(merged) == content(whole)


@pytest.mark.parametrize("factory", IN_ONE_PIECE)
def test_graphs_and_refined_codes_are_built_in_one_piece(factory: str) -> None:
    assert not can_merge(train_index(factory, 16, "dot", clusters(300, 16)))


def test_a_graph_over_the_lists_is_no_graph_over_the_vectors() -> None:
    assert not has_graph(train_index("IVF8_HNSW8,Flat", 16, "dot", clusters(400, 16)))


@pytest.mark.parametrize("factory", ["HNSW8", "IVF8_HNSW8,SQ8", "PCA8,IVF8,Flat"])
@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_the_number_of_threads_and_of_batches_do_not_change_the_bytes(
    factory: str, metric: str
) -> None:
    x_ND = clusters(1200, 16)
    made = []
    for threads, step in ((1, 1200), (2, 1200), (2, 1200 if factory == "HNSW8" else 7)):
        faiss.omp_set_num_threads(threads)
        index = train_index(factory, 16, metric, x_ND)
        rows = range(0, len(x_ND), step)
        made.append(content(add_vectors(index, (x_ND[i : i + step] for i in rows))))
        assert faiss.omp_get_max_threads() == threads
    assert made[0] == made[1] == made[2]


def test_our_training_of_lists_finds_what_faiss_own_finds() -> None:
    x_ND = clusters(2000, 16)
    ours = train_index("IVF16,Flat", 16, "l2", x_ND)
    theirs = faiss.index_factory(16, "IVF16,Flat", faiss.METRIC_L2)
    theirs.train(x_ND)
    for index in (ours, theirs):
        index.add(x_ND)
    assert content(ours) == content(theirs)


def test_what_needs_no_training_takes_no_sample() -> None:
    assert training_rows("Flat", 10**6, 16, "dot") == training_rows("HNSW8", 10**6, 16, "dot") == 0
    assert training_rows("IVF4096,Flat", 10**6, 16, "dot") == 64 * 4096
    assert training_rows("SQ8", 10**6, 16, "dot") == 65_536
    assert training_rows("IVF4096,Flat", 5000, 16, "dot") == 5000


def test_more_lists_than_vectors_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"IVF512,Flat.*200 vectors of dimension 16") as caught:
        train_index("IVF512,Flat", 16, "dot", clusters(200, 16))
    assert "\n" not in str(caught.value)
