import numpy as np
import pytest

from index.pilot import ROWS, code_recall, make_pilot, small
from tests.index.conftest import clusters


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        ("IVF4096,SQ8", "IVF64,SQ8"),
        ("PCAR96,IVF65536_HNSW32,SQ6", "PCAR96,IVF64,SQ6"),
        ("OPQ16_64,IVF4096,PQ16", "OPQ16_64,IVF64,PQ16"),
        ("HNSW32,SQ8", "IVF64,SQ8"),
        ("HNSW32", "IVF64,Flat"),
        ("SQ8", "IVF64,SQ8"),
    ],
)
def test_the_codes_stay_and_the_lists_become_few(factory: str, expected: str) -> None:
    assert small(factory, 64) == expected


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_more_bits_lose_less_and_whole_vectors_nothing(metric: str) -> None:
    pilot = make_pilot(clusters(3000, 32), metric)
    recalls = [code_recall(pilot, f"IVF4096,{code}") for code in ("SQ4", "SQ6", "SQ8", "Flat")]
    assert recalls == sorted(recalls)
    assert recalls[-1] == 1.0
    assert recalls[0] < 0.98


def test_directions_in_which_nothing_varies_can_be_left_out() -> None:
    """Why it is measured: the same string keeps all of one set, and little of another."""
    rng = np.random.default_rng(0)
    full_ND = clusters(3000, 32)
    flat_ND = np.ascontiguousarray(clusters(3000, 8) @ np.linalg.qr(rng.random((32, 8)))[0].T, "f4")
    found = [code_recall(make_pilot(x_ND, "cosine"), "PCAR8,IVF64,SQ8")
             for x_ND in (flat_ND, full_ND)]  # fmt: skip
    assert found[0] > 0.9
    assert found[1] < 0.7


def test_a_pilot_is_small_and_the_same_each_time() -> None:
    x_ND = np.random.default_rng(0).random((ROWS + 100, 4), np.float32)
    one, other = make_pilot(x_ND, "l2"), make_pilot(x_ND, "l2")
    assert len(one.rows_ND) == ROWS
    assert np.array_equal(one.queries_QD, other.queries_QD)
    assert np.array_equal(one.nearest_QK, other.nearest_QK)
    few = make_pilot(x_ND[:3], "l2")
    assert few.nearest_QK.shape == (3, 3)
