"""FAISS: metrics, files, and the vectors of one part of an index, a bounded batch at a time.

N vectors, D dimension.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from extractors.errors import AbortError, UsageError
from index.config import Metric
from pipeline import storage

# From so many numbers in a batch of queries on FAISS multiplies matrices. Its own 128,000 leaves
# 256 queries of 256 dimensions to a loop that takes 16 times as long.
faiss.cvar.distance_compute_blas_threshold = 1024

CACHED_ROWS = 512
"""Scaled at once, in float64: more of them would not stay in the processor's cache."""


def unit_rows(x_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1, float32; a row of zeros stays zero and so scores 0 everywhere."""
    scaled_ND = np.empty(x_ND.shape, np.float32)
    for first in range(0, len(x_ND), CACHED_ROWS):
        rows = slice(first, first + CACHED_ROWS)
        exact_ND = x_ND[rows].astype(np.float64)
        norm_N1 = np.linalg.norm(exact_ND, axis=1, keepdims=True)
        scaled_ND[rows] = np.divide(exact_ND, norm_N1, out=exact_ND, where=norm_N1 > 0)
    return scaled_ND


def prepared(x_ND: NDArray[np.floating], metric: Metric) -> NDArray[np.float32]:
    """Vectors or queries as FAISS compares them: of unit length where the metric is cosine."""
    x_ND = np.ascontiguousarray(x_ND, np.float32)
    return unit_rows(x_ND) if metric == "cosine" else x_ND


def faiss_metric(metric: Metric) -> int:
    """FAISS's number of a metric; the cosine is the inner product of unit vectors."""
    return int(faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)


def empty_index(factory: str, dimension: int, metric: Metric) -> faiss.Index:
    """What the factory string describes, not trained, without vectors.

    Raises UsageError where FAISS does not know it.
    """
    try:
        return faiss.index_factory(dimension, factory, faiss_metric(metric))
    except RuntimeError as err:
        raise UsageError(
            f"index.factory = {factory!r}: FAISS refused it for dimension {dimension}: "
            f"{last_line(err)}; 'auto' and 'Flat' always work"
        ) from err


def write_faiss(index: faiss.Index, path: Path) -> None:
    """Writes an index to a local file."""
    faiss.write_index(index, str(path))


def read_faiss(url: str, *, mapped: bool = True) -> faiss.Index:
    """Reads an index: mapped into memory from a local disk, copied from elsewhere.

    `mapped=False` copies from a disk too, which is needed to add to it. Raises AbortError where
    it is not a FAISS index. Mapped pages are shared by all processes of a machine that serve the
    same index.
    """
    path = storage.local_path(url)
    try:
        if path is not None:
            # IO_FLAG_MMAP maps inverted lists only and copies Flat and HNSW; this one maps all
            return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
        return faiss.deserialize_index(np.frombuffer(storage.read_bytes(url), np.uint8))
    except RuntimeError as err:
        raise AbortError(f"{url}: not a FAISS index: {last_line(err)}") from err


@contextmanager
def faiss_threads(count: int | None) -> Iterator[None]:
    """FAISS's threads within the block, in this thread of Python; None leaves them."""
    before = faiss.omp_get_max_threads()
    if count is not None:
        faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def last_line(err: RuntimeError) -> str:
    """FAISS's errors open with a C++ signature and end with the reason."""
    return str(err).strip().splitlines()[-1].rpartition(": ")[2]
