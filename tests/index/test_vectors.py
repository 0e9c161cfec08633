from pathlib import Path

import faiss
import numpy as np
import pytest

from extractors.errors import AbortError, UsageError
from index.construct import add_vectors, train_index
from index.vectors import prepared, read_faiss, unit_rows, write_faiss
from pipeline import storage


def vectors(count: int = 200, dim: int = 12) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)


def test_unit_rows_have_length_one_and_zero_rows_stay_zero() -> None:
    x_ND = vectors() * np.float32(1e-3)
    x_ND[3] = 0
    unit_ND = unit_rows(x_ND)
    assert unit_ND.dtype == np.float32
    norms_N = np.linalg.norm(unit_ND, axis=1)
    assert norms_N[3] == 0
    assert np.allclose(np.delete(norms_N, 3), 1, atol=1e-6)


def build_faiss(x_ND: np.ndarray, factory: str) -> faiss.Index:
    return add_vectors(train_index(factory, x_ND.shape[1], "dot", x_ND), [x_ND])


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "IVF4,Flat"])
def test_an_index_read_from_a_file_finds_what_the_one_in_memory_finds(
    tmp_path: Path, factory: str
) -> None:
    x_ND = vectors()
    built = build_faiss(x_ND, factory)
    write_faiss(built, tmp_path / "knn.index")
    read = read_faiss(str(tmp_path / "knn.index"))
    assert read.metric_type == faiss.METRIC_INNER_PRODUCT
    for mine, theirs in zip(read.search(x_ND[:9], 5), built.search(x_ND[:9], 5), strict=True):
        assert np.array_equal(mine, theirs)


def test_a_local_index_is_mapped_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "knn.index"
    write_faiss(build_faiss(vectors(), "Flat"), path)
    index = read_faiss(str(path))
    assert index.ntotal == 200
    assert str(path) in Path("/proc/self/maps").read_text()


def test_an_index_is_read_from_a_store_without_a_disk(tmp_path: Path) -> None:
    write_faiss(build_faiss(vectors(), "Flat"), tmp_path / "knn.index")
    storage.publish_bytes("memory://store/knn.index", (tmp_path / "knn.index").read_bytes())
    assert read_faiss("memory://store/knn.index").ntotal == 200


def test_the_same_vectors_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_faiss(build_faiss(vectors(), "IVF4,Flat"), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_wrong_factory_string_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"factory = 'Flatt'.*could not parse") as caught:
        build_faiss(vectors(), "Flatt")
    assert "\n" not in str(caught.value)
    assert "/project/" not in str(caught.value)


def test_more_lists_than_vectors_is_refused() -> None:
    with pytest.raises(UsageError, match=r"IVF512,Flat.*200 vectors"):
        build_faiss(vectors(), "IVF512,Flat")


def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "knn.index").write_bytes(b"garbage" * 20)
    with pytest.raises(AbortError, match="not a FAISS index") as caught:
        read_faiss(str(tmp_path / "knn.index"))
    assert "\n" not in str(caught.value)


def test_only_the_cosine_scales_vectors() -> None:
    x_ND = vectors(5)
    assert np.array_equal(prepared(x_ND, "cosine"), unit_rows(x_ND))
    assert np.array_equal(prepared(x_ND, "dot"), x_ND)
    assert np.array_equal(prepared(x_ND.astype(np.float64), "l2"), x_ND)
