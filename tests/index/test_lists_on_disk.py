"""Parts joined on disk are the bytes that FAISS writes of them in memory."""

from functools import partial
from pathlib import Path

import faiss
import numpy as np
import pytest

from index.construct import add_vectors, train_index
from index.lists_on_disk import can_merge_on_disk, merge_on_disk
from index.vectors import read_faiss, write_faiss

DIMENSION = 32
FACTORIES = [
    "IVF16,Flat", "IVF16,SQ8", "IVF16,RaBitQ", "IVF16_HNSW8,SQ8", "PCAR16,IVF16,SQ6",
    "RR32,IVF16,SQ4", "OPQ8_16,IVF16,PQ8x4", "IVF2000,SQ8",
]  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5000, DIMENSION)).astype(np.float32)


@pytest.mark.parametrize("factory", FACTORIES)
def test_the_bytes_are_those_of_an_index_in_memory(
    factory: str, rows: np.ndarray, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trained = train_index(factory, DIMENSION, "cosine", rows)
    capfd.readouterr()  # k-means warns of few points
    pieces = np.split(rows, [1, 1800, 1800, 4100])  # a part may have no vectors
    paths = []
    for number, piece_ND in enumerate(pieces):
        paths.append(tmp_path / f"{number}.index")
        write_faiss(add_vectors(faiss.clone_index(trained), [piece_ND]), paths[-1])
    merged, expected = tmp_path / "merged.index", tmp_path / "expected.index"
    merge_on_disk(merged, trained, [partial(read_faiss, str(path)) for path in paths])
    write_faiss(add_vectors(faiss.clone_index(trained), [rows]), expected)
    assert merged.read_bytes() == expected.read_bytes()


def test_few_vectors_in_many_lists(rows: np.ndarray, tmp_path: Path) -> None:
    """FAISS writes the lengths of the lists that are used alone, where they are few."""
    trained = train_index("IVF128,SQ8", DIMENSION, "cosine", rows)
    part, path = add_vectors(faiss.clone_index(trained), [rows[:9]]), tmp_path / "merged.index"
    merge_on_disk(path, trained, [lambda: part])
    assert path.read_bytes() == faiss.serialize_index(part).tobytes()


@pytest.mark.parametrize("factory", ["Flat", "HNSW8,Flat", "IVF16,PQ16x4fs", "IVF16,SQ8,RFlat"])
def test_what_is_no_plain_lists_is_not_joined_on_disk(factory: str, rows: np.ndarray) -> None:
    trained = train_index(factory, DIMENSION, "cosine", rows)
    assert not can_merge_on_disk(trained)
