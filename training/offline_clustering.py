"""K-means over more rows than memory holds, read from .npy files in blocks.

FAISS trains the start on a sample and finds the nearest centroid of every row; the sums of Lloyd's
algorithm are ours, so that the whole set counts and only one block of it is in memory.
Shapes: N rows in all, B rows of a block, K clusters, D columns.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from extractors.errors import AbortError

Float32 = NDArray[np.float32]

BLOCK_BYTES = 64 * 2**20
"""Of the rows read at once, in float32."""


@dataclass(frozen=True)
class RowFiles:
    """Rows in the order of the files, each a (n, D) .npy array of floats."""

    paths: tuple[Path, ...]
    lengths: tuple[int, ...]
    dim: int

    def __len__(self) -> int:
        return sum(self.lengths)

    def blocks(self, spherical: bool = False) -> Iterator[Float32]:
        """(B, D) float32, all rows in order; unit rows if `spherical`."""
        for stored_BD in self._stored():
            yield _prepared(stored_BD, spherical)

    def take(self, index_N: NDArray[np.integer], spherical: bool = False) -> Float32:
        """The rows of these numbers, in rising order, as float32. Reads all blocks."""
        parts, first = [], 0
        for stored_BD in self._stored():
            last = first + len(stored_BD)
            inside = np.sort(index_N[(index_N >= first) & (index_N < last)]) - first
            if len(inside):
                parts.append(_prepared(stored_BD[inside], spherical))
            first = last
        return np.concatenate(parts)

    def _stored(self) -> Iterator[NDArray[np.floating]]:
        """Blocks as they lie in the files. A file is mapped anew for each, so that pages that
        were read do not stay in this process."""
        size = max(1, BLOCK_BYTES // (4 * self.dim))
        for path, length in zip(self.paths, self.lengths, strict=True):
            for first in range(0, length, size):
                stored = np.load(path, mmap_mode="r", allow_pickle=False)
                yield stored[first : first + size]


@dataclass(frozen=True)
class OfflineClustering:
    """A finished off-line k-means."""

    centroids_KD: Float32
    """Of unit length if spherical."""
    labels_N: NDArray[np.int32]
    """Nearest centroid of each row, against `centroids_KD`."""
    objective: float
    """Sum over rows of the squared distance to the nearest centroid."""
    iterations: int
    """Passes over all rows that moved the centroids."""


def open_rows(paths: Sequence[Path]) -> RowFiles:
    """Looks at the headers alone. Raises AbortError for files that are no (n, D) floats, or of
    different D, or without any row."""
    shapes = []
    for path in paths:
        try:
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as err:
            raise AbortError(f"{path}: not a .npy array ({err})") from err
        if stored.ndim != 2 or stored.dtype.kind != "f":
            raise AbortError(
                f"{path}: {stored.dtype} of shape {stored.shape}, expected floats of shape (n, D)"
            )
        shapes.append(stored.shape)
    widths = {shape[1] for shape in shapes}
    if len(widths) != 1 or not sum(shape[0] for shape in shapes):
        raise AbortError(
            f"{', '.join(map(str, paths[:3]))}: {sum(shape[0] for shape in shapes)} rows of widths "
            f"{sorted(widths)}; k-means needs rows of one width"
        )
    return RowFiles(tuple(paths), tuple(shape[0] for shape in shapes), widths.pop())


def offline_kmeans(
    rows: RowFiles,
    clusters: int,
    seed: int,
    *,
    spherical: bool = True,
    iterations: int = 10,
    tolerance: float = 1e-4,
    rows_per_cluster: int = 256,
    start_KD: Float32 | None = None,
    on_iteration: Callable[[int, float], None] = lambda number, objective: None,
) -> OfflineClustering:
    """K-means of all rows; the memory is that of a sample, a block and the labels (4 N bytes).

    The start is FAISS's k-means on `rows_per_cluster` * k random rows (or `start_KD`); then up to
    `iterations` passes of Lloyd's algorithm over all rows, stopped when a pass lowers the objective
    by less than the share `tolerance`. Empty clusters are split off the largest ones, as in FAISS.
    Same files, seed and threads give the same result. Raises AbortError for fewer rows than
    clusters.
    """
    if len(rows) < clusters:
        raise AbortError(f"{rows.paths[0]}: {len(rows)} rows for {clusters} clusters; lower k")
    centroids_KD = start_KD
    if centroids_KD is None:
        centroids_KD = _sample_start(rows, clusters, seed, spherical, rows_per_cluster)
    before, done = np.inf, 0
    for _ in range(iterations):
        sums_KD = np.zeros((clusters, rows.dim))
        count_K = np.zeros(clusters, np.int64)
        objective = 0.0
        for block_BD, labels_B, distance_B in _assigned(rows, centroids_KD, spherical):
            sums_KD += _cluster_sums(block_BD, labels_B, clusters)
            count_K += np.bincount(labels_B, minlength=clusters)
            objective += float(distance_B.sum(dtype=np.float64))
        done += 1
        centroids_KD = _means(sums_KD, count_K, spherical)
        on_iteration(done, objective)
        if before - objective <= tolerance * objective:
            break
        before = objective
    labels, objective = [], 0.0
    for _, labels_B, distance_B in _assigned(rows, centroids_KD, spherical):
        labels.append(labels_B.astype(np.int32))
        objective += float(distance_B.sum(dtype=np.float64))
    return OfflineClustering(centroids_KD, np.concatenate(labels), objective, done)


def _prepared(stored: NDArray[np.floating], spherical: bool) -> Float32:
    block_BD: Float32 = np.ascontiguousarray(stored, dtype=np.float32)
    if not spherical:
        return block_BD
    if np.shares_memory(block_BD, stored):  # normalised in place: not in the file
        block_BD = block_BD.copy()
    faiss.normalize_L2(block_BD)
    return block_BD


def _sample_start(
    rows: RowFiles, clusters: int, seed: int, spherical: bool, rows_per_cluster: int
) -> Float32:
    wanted = min(len(rows), clusters * rows_per_cluster)
    drawn = np.random.default_rng(seed).choice(len(rows), size=wanted, replace=False)
    sample_BD = rows.take(drawn, spherical)
    trained = faiss.Kmeans(
        rows.dim,
        clusters,
        niter=20,
        seed=seed,
        spherical=spherical,
        min_points_per_centroid=1,
        max_points_per_centroid=max(1, rows_per_cluster),
    )
    trained.train(sample_BD)
    centroids_KD: Float32 = trained.centroids.astype(np.float32)
    return centroids_KD


def _assigned(
    rows: RowFiles, centroids_KD: Float32, spherical: bool
) -> Iterator[tuple[Float32, NDArray[np.int64], Float32]]:
    """Each block, the nearest centroid of its rows, and the squared distance to it."""
    index = faiss.IndexFlatL2(rows.dim)
    index.add(centroids_KD)
    for block_BD in rows.blocks(spherical):
        distance_B1, labels_B1 = index.search(block_BD, 1)
        yield block_BD, labels_B1[:, 0], np.maximum(distance_B1[:, 0], 0)


def _cluster_sums(
    block_BD: Float32, labels_B: NDArray[np.int64], clusters: int
) -> NDArray[np.float64]:
    """(K, D) sums of the rows of each cluster: a sparse product, with no copy of the block."""
    order_B = np.argsort(labels_B, kind="stable")
    ends_K = np.cumsum(np.bincount(labels_B, minlength=clusters))
    ones_B = np.ones(len(labels_B), np.float32)
    member_KB = csr_array(
        (ones_B, order_B, np.concatenate([[0], ends_K])), shape=(clusters, len(labels_B))
    )
    sums_KD: NDArray[np.float64] = (member_KB @ block_BD).astype(np.float64)
    return sums_KD


def _means(sums_KD: NDArray[np.float64], count_K: NDArray[np.int64], spherical: bool) -> Float32:
    means_KD: Float32 = (sums_KD / np.maximum(count_K, 1)[:, None]).astype(np.float32)
    counts, apart_D = count_K.astype(float), np.full(means_KD.shape[1], 1 / 1024, np.float32)
    apart_D[1::2] *= -1
    for empty in np.flatnonzero(count_K == 0):
        largest = int(counts.argmax())
        means_KD[empty] = means_KD[largest] * (1 + apart_D)
        means_KD[largest] *= 1 - apart_D
        counts[largest] /= 2
        counts[empty] = counts[largest]
    if spherical:
        faiss.normalize_L2(means_KD)
    return means_KD
