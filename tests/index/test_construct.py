import subprocess
import sys

import faiss
import numpy as np
import pytest

from extractors.errors import UsageError
from index.construct import (
    add_vectors,
    can_merge,
    fill_index,
    has_graph,
    list_lengths,
    merge_part,
    reserve_lists,
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


FILLED = [
    *("Flat", "SQ8", "IVF8,Flat", "IVF8,SQ4", "RR16,IVF8,SQ6", "PCAR8,IVF8,SQ8", "HNSW8"),
    *("IVF8_HNSW8,SQ8", "IVF8,PQ2x4", "IVF8,PQ4x4fs", "IVF8,PQ2x4,RFlat", "RR16,IVF8,RaBitQ4"),
]


@pytest.mark.parametrize("factory", FILLED)
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_filling_what_was_counted_gives_the_bytes_of_growing(factory: str, metric: str) -> None:
    x_ND = clusters(1500, 16)
    trained = train_index(factory, 16, metric, x_ND[:800])
    parts = [x_ND[:500], x_ND[500:500], x_ND[500:1100], x_ND[1100:]]
    grown = add_vectors(faiss.clone_index(trained), parts)
    filled = fill_index(faiss.clone_index(trained), lambda: parts)
    assert filled.ntotal == 1500
    assert content(filled) == content(grown)


def test_nothing_to_add_leaves_an_index_empty() -> None:
    trained = train_index("IVF8,Flat", 16, "dot", clusters(800, 16))
    assert fill_index(trained, lambda: []).ntotal == 0


GROWS = """
import sys
import faiss
import numpy as np
from index.construct import add_vectors, fill_index, train_index

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

batches = [np.random.default_rng(i).random((4000, 256), np.float32) for i in range(3)]
index = train_index("IVF8,Flat", 256, "dot", batches[0])
fill_index(index, lambda: batches[:1]) if sys.argv[1] == "fill" else None
index.reset()
before = resident()
many = lambda: (batches[i % 3] for i in range(40))
index = fill_index(index, many) if sys.argv[1] == "fill" else add_vectors(index, many())
print((resident() - before) / (160_000 * 1032))
"""


def test_filling_takes_no_more_memory_than_the_vectors() -> None:
    """In a process of its own; a tenth for the batches and what FAISS keeps beside."""
    command = [sys.executable, "-c", GROWS, "fill"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.1


def test_lists_are_reserved_without_being_filled() -> None:
    index = train_index("PCA8,IVF8,SQ8", 16, "l2", clusters(800, 16))
    reserve_lists(index, np.full(8, 100))
    lengths = list_lengths(index)
    assert lengths is not None
    assert lengths.tolist() == [0] * 8
    assert list_lengths(train_index("Flat", 16, "l2", clusters(9, 16))) is None


def test_a_pca_keeps_the_order_of_inner_products() -> None:
    """FAISS takes the mean off, which is not the same for all vectors of a set that lies aside."""
    x_ND = clusters(2000, 16) + np.float32(0.5)
    index = add_vectors(train_index("PCAR16,IVF1,Flat", 16, "dot", x_ND), [x_ND])
    _, found_QK = index.search(x_ND[:50], 5)
    _, exact_QK = faiss.knn(x_ND[:50], x_ND, 5, metric=faiss.METRIC_INNER_PRODUCT)
    # all 16 directions are kept: what differs is rounding
    assert np.mean(found_QK == exact_QK) > 0.98


@pytest.mark.parametrize("code", ["SQ4", "SQ6"])
def test_outliers_do_not_widen_the_steps_of_codes(code: str) -> None:
    x_ND = clusters(4000, 16)
    x_ND[::500] *= 30
    index = train_index(f"IVF1,{code}", 16, "l2", x_ND)
    theirs = faiss.index_factory(16, f"IVF1,{code}", faiss.METRIC_L2)
    theirs.train(x_ND)
    errors = []
    for made in (index, theirs):
        add_vectors(made, [x_ND])
        made.make_direct_map()
        ours_ND = made.reconstruct_n(0, len(x_ND))
        errors.append(np.median(((ours_ND - x_ND) ** 2).sum(axis=1)))
    assert errors[0] < 0.5 * errors[1]


def test_centres_that_are_known_are_taken() -> None:
    x_ND = clusters(800, 16)
    one = train_index("IVF8,Flat", 16, "dot", x_ND)
    centres_LD = faiss.downcast_index(one.quantizer).reconstruct_n(0, 8)
    other = train_index("IVF8,SQ8", 16, "dot", x_ND, centres_LD)
    assert content(train_index("IVF8,SQ8", 16, "dot", x_ND)) == content(other)
