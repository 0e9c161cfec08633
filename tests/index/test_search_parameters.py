import faiss
import numpy as np
import pytest

from extractors.errors import AbortError, UsageError
from index.construct import add_vectors, train_index
from index.search_parameters import apply_parameters, search_allowed, tunable_values
from index.vectors import faiss_metric
from tests.index.conftest import clusters

FILTERED = [
    *("Flat", "SQ8", "HNSW16", "HNSW16,SQ8", "IVF16,Flat", "IVF16,SQ8", "RR16,IVF16,Flat"),
    *("IVF16_HNSW8,Flat", "RR16,HNSW16"),
]


def built(factory: str, metric: str = "cosine") -> tuple[np.ndarray, faiss.Index]:
    x_ND = clusters(2000, 16)
    return x_ND, add_vectors(train_index(factory, 16, metric, x_ND), [x_ND])


@pytest.mark.parametrize("factory", FILTERED)
@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("share", [0.5, 0.02])
def test_a_filtered_search_finds_the_nearest_of_the_allowed(
    factory: str, metric: str, share: float
) -> None:
    x_ND, index = built(factory, metric)
    allowed_N = np.random.default_rng(3).random(len(x_ND)) < share
    queries_QD = clusters(30, 16, seed=0)[:30] + np.float32(0.01)
    _, ids_QK = search_allowed(index, queries_QD, 5, allowed_N)
    rows = np.flatnonzero(allowed_N)
    _, exact = faiss.knn(queries_QD, x_ND[rows], 5, metric=faiss_metric(metric))
    assert allowed_N[ids_QK[ids_QK >= 0]].all()
    found = [len(np.intersect1d(a, b)) / 5 for a, b in zip(ids_QK, rows[exact], strict=True)]
    # scalar codes of 8 bits swap near ties; IVF starts from one list of 16 here, times 1 / share
    assert np.mean(found) >= (0.5 if "IVF" in factory and share == 0.5 else 0.95)


def test_fewer_allowed_than_asked_gives_minus_one() -> None:
    x_ND, index = built("IVF16,Flat")
    allowed_N = np.zeros(len(x_ND), bool)
    _, ids_QK = search_allowed(index, x_ND[:2], 5, allowed_N)
    assert (ids_QK == -1).all()
    allowed_N[[7, 9]] = True
    _, ids_QK = search_allowed(index, x_ND[:2], 5, allowed_N)
    assert {*ids_QK[0].tolist()} == {7, 9, -1}


def test_an_index_that_cannot_be_filtered_says_so() -> None:
    x_ND, index = built("PQ2x4")
    with pytest.raises(UsageError, match="IndexPQ: FAISS cannot filter"):
        search_allowed(index, x_ND[:2], 5, np.arange(len(x_ND)) % 2 == 0)


def test_tuning_goes_from_fast_to_thorough() -> None:
    assert tunable_values(built("Flat")[1]) == []
    assert tunable_values(built("PCA8,IVF16,SQ8")[1])[0] == {"nprobe": 1}
    assert tunable_values(built("PCA8,IVF16,SQ8")[1])[-1] == {"nprobe": 16}
    assert tunable_values(built("HNSW8")[1])[0] == {"efSearch": 16}
    assert tunable_values(built("IVF16_HNSW8,Flat")[1])[-1] == {
        "nprobe": 16,
        "quantizer_efSearch": 64,
    }


def test_parameters_are_set_and_unknown_ones_refused() -> None:
    _, index = built("PCA8,IVF16_HNSW8,SQ8")
    apply_parameters(index, {"nprobe": 5, "quantizer_efSearch": 77})
    lists = faiss.extract_index_ivf(index)
    assert lists.nprobe == 5
    assert faiss.downcast_index(lists.quantizer).hnsw.efSearch == 77
    with pytest.raises(AbortError, match="speed = 9"):
        apply_parameters(index, {"speed": 9})
