"""FAISS: from vectors to an index in memory, to a file, and back.

N vectors, D dimension, Q queries, K neighbours.
"""

import time
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from extractors.errors import AbortError, UsageError
from pipeline import storage


def unit_rows(x_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1, float32; a row of zeros stays zero and so scores 0 everywhere."""
    norm_N1 = np.linalg.norm(x_ND.astype(np.float64), axis=1, keepdims=True)
    scaled_ND = np.divide(x_ND, norm_N1, out=np.zeros(x_ND.shape), where=norm_N1 > 0)
    return np.ascontiguousarray(scaled_ND, np.float32)


def build_faiss(vectors_ND: NDArray[np.float32], factory: str) -> faiss.Index:
    """An inner-product index of the vectors; FAISS id i is row i. The same vectors give the same
    bytes. Raises UsageError where FAISS does not know the factory string or refuses the vectors.
    """
    x_ND = np.ascontiguousarray(vectors_ND, np.float32)
    try:
        index = faiss.index_factory(x_ND.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(x_ND)
        index.add(x_ND)
    except RuntimeError as err:
        raise UsageError(
            f"factory = {factory!r}: FAISS refused it for {len(x_ND)} vectors of dimension "
            f"{x_ND.shape[1]}: {_last_line(err)}; 'Flat' always works"
        ) from err
    return index


def write_faiss(index: faiss.Index, path: Path) -> None:
    """Writes an index to a local file."""
    faiss.write_index(index, str(path))


def read_faiss(url: str) -> faiss.Index:
    """Reads an index: mapped into memory from a local disk, copied from elsewhere.

    Raises AbortError where it is not a FAISS index. Mapped pages are shared by all processes of
    a machine that serve the same index.
    """
    path = storage.local_path(url)
    try:
        if path is not None:
            # IO_FLAG_MMAP maps inverted lists only and copies Flat and HNSW; this one maps all
            return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        return faiss.deserialize_index(np.frombuffer(storage.read_bytes(url), np.uint8))
    except RuntimeError as err:
        raise AbortError(f"{url}: not a FAISS index: {_last_line(err)}") from err


def mean_search_ms(index: faiss.Index, queries_QD: NDArray[np.float32], k: int = 10) -> float:
    """Mean time of one search for one query, one at a time, in milliseconds."""
    begin = time.perf_counter()
    for query_D in queries_QD:
        index.search(query_D[None], k)
    return (time.perf_counter() - begin) * 1000 / max(1, len(queries_QD))


def _last_line(err: RuntimeError) -> str:
    """FAISS's errors open with a C++ signature and end with the reason."""
    return str(err).strip().splitlines()[-1].rpartition(": ")[2]
