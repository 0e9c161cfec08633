"""Pseudo-labels: k-means of every video's vector, of one modality or of both side by side.

Shapes: N videos of the set, M of them that are clustered, B of a block, D columns, K clusters.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import entropy
from sklearn.cluster import kmeans_plusplus
from sklearn.metrics import normalized_mutual_info_score

from extractors.errors import AbortError
from pipeline import storage
from training.offline_clustering import OfflineClustering, RowFiles, offline_kmeans, open_rows
from training.xdc.config import XdcClusteringConfig
from training.xdc.row_files import Float32, read_rows_at, row_width, writing_rows
from training.xdc.supervision import Modality
from training.xdc.video_set import Flags, Numbers, VideoSet

logger = logging.getLogger(__name__)

BLOCK_ROWS = 16_384
START_ROWS = 64
"""Rows for each cluster among which k-means++ looks for its start."""
PCA_ROWS = 2**18
"""Rows that the whitening is learned from, at most."""
SETS: dict[str, tuple[Modality, ...]] = {
    "video": ("video",),
    "audio": ("audio",),
    "joint": ("video", "audio"),
}
"""Whose vectors a label set clusters."""


@dataclass(frozen=True)
class PseudoLabels:
    """The clusters of one label set."""

    labels_N: Numbers
    """-1 for a video that lacks the modality, or is in a tiny cluster that is ignored."""
    clusters: int
    """k: labels are below it. Some may be empty."""


def cluster_set(
    name: str,
    features: Mapping[Modality, Path],
    videos: VideoSet,
    config: XdcClusteringConfig,
    seed: tuple[int, ...],
    folder: Path,
) -> PseudoLabels:
    """K-means of the label set `name` on the files of `embed_set`, started from `seed`.

    Only videos with all of its modalities are clustered. Memory is that of a block of rows and of
    k-means' sample (training.offline_clustering). Raises AbortError for fewer than two of them.
    """
    has_N = np.logical_and.reduce([videos.has(modality) for modality in SETS[name]])
    count = int(has_N.sum())
    if count < 2:
        raise AbortError(f"{videos.dataset}: {count} videos to cluster for the labels {name!r}")
    clusters = min(config.clusters, max(2, count // 2))
    prepared = folder / f"{name}_prepared.npy"
    prepare_rows([features[m] for m in SETS[name]], has_N, config, seed, prepared)
    rows = open_rows([prepared])
    start = int(np.random.default_rng(seed).integers(2**31 - 1))
    found = offline_kmeans(
        rows,
        clusters,
        start,
        spherical=False,
        iterations=config.kmeans_iterations,
        start_KD=_far_apart(rows, clusters, start) if config.start == "k-means++" else None,
    )
    labels_N: Numbers = np.full(len(videos), -1, np.int64)
    labels_N[has_N] = without_tiny(found, rows, config)
    prepared.unlink()
    return PseudoLabels(labels_N, clusters)


def plan_labels(videos: VideoSet) -> PseudoLabels:
    """The labels that the videos came with. Raises AbortError for fewer than two of them."""
    count = int(videos.label_N.max(initial=-1)) + 1
    if count < 2:
        raise AbortError(
            f"{videos.dataset}: {count} labels in its plan; `--method supervised` needs two (the "
            "column `label` of the list of videos)"
        )
    return PseudoLabels(videos.label_N, count)


def prepare_rows(
    sources: Sequence[Path],
    has_N: Flags,
    config: XdcClusteringConfig,
    seed: tuple[int, ...],
    target: Path,
) -> None:
    """Writes the (M, D) rows that are clustered: each source as `clustering.features` says, then
    side by side."""
    whitenings = [_whitening(source, has_N, config, seed) for source in sources]
    widths = [
        row_width(source) if white is None else white.d_out
        for source, white in zip(sources, whitenings, strict=True)
    ]
    with writing_rows(target, int(has_N.sum()), sum(widths)) as write:
        for rows in _blocks(len(has_N)):
            chosen = np.flatnonzero(has_N[rows.start : rows.stop]) + rows.start
            parts = [
                _prepared(read_rows_at(source, chosen), white, config)
                for source, white in zip(sources, whitenings, strict=True)
            ]
            write(np.concatenate(parts, axis=1))


def _far_apart(rows: RowFiles, clusters: int, seed: int) -> Float32:
    """(K, D) rows to start from, of a random sample."""
    wanted = min(len(rows), clusters * START_ROWS)
    sample = np.random.default_rng(seed).choice(len(rows), wanted, replace=False)
    found: Float32 = kmeans_plusplus(rows.take(sample), clusters, random_state=seed)[0]
    return np.ascontiguousarray(found, np.float32)


def without_tiny(found: OfflineClustering, rows: RowFiles, config: XdcClusteringConfig) -> Numbers:
    """(M,) labels after the policy for clusters of fewer than `min_cluster_videos`.

    Where all clusters are tiny they stay as they are.
    """
    labels_M: Numbers = found.labels_N.astype(np.int64)
    size_K = np.bincount(labels_M, minlength=len(found.centroids_KD))
    large_K = size_K >= config.min_cluster_videos
    tiny = np.flatnonzero(~large_K[labels_M])
    if not len(tiny) or not large_K.any():
        return labels_M
    if config.tiny_clusters == "ignore":
        labels_M[tiny] = -1
        return labels_M
    index = faiss.IndexFlatL2(rows.dim)
    index.add(np.ascontiguousarray(found.centroids_KD[large_K]))
    _, nearest = index.search(rows.take(tiny), 1)
    labels_M[tiny] = np.flatnonzero(large_K)[nearest[:, 0]]
    return labels_M


def cluster_statistics(
    name: str, made: PseudoLabels, before_N: Numbers | None, videos: VideoSet
) -> dict[str, float]:
    """What is logged of a label set.

    `NAME_clusters` that hold a video, `NAME_largest` and `NAME_smallest` of them in videos,
    `NAME_balance`: the entropy of the sizes over that of k equal ones; `NAME_nmi_last` against the
    last assignment and `NAME_nmi_label` against the plan's labels, where there are any.
    """
    labels_N = made.labels_N
    sizes = np.bincount(labels_N[labels_N >= 0], minlength=made.clusters)
    held = sizes[sizes > 0]
    found = {
        "clusters": float(len(held)),
        "largest": float(held.max()),
        "smallest": float(held.min()),
        "balance": float(entropy(sizes) / np.log(made.clusters)),
    }
    if before_N is not None:
        found["nmi_last"] = agreement(labels_N, before_N)
    if len(np.unique(videos.label_N[videos.label_N >= 0])) > 1:
        found["nmi_label"] = agreement(labels_N, videos.label_N)
    return {f"{name}_{key}": value for key, value in found.items()}


def agreement(one_N: Numbers, other_N: Numbers) -> float:
    """Normalised mutual information (arithmetic mean) over the videos that both know; 0 for none.

    Of successive assignments it is DeepCluster's measure of convergence.
    """
    both_N = (one_N >= 0) & (other_N >= 0)
    if not both_N.any():
        return 0.0
    return float(normalized_mutual_info_score(one_N[both_N], other_N[both_N]))


def publish_labels(
    run: str, iteration: int, videos: VideoSet, label_sets: Mapping[str, Numbers]
) -> None:
    """`<run>/pseudo_labels/000003.parquet`: key, held_out, and a column for each label set (null
    where a video has no label)."""
    columns: dict[str, pa.Array] = {
        "key": pa.array(videos.keys, pa.string()),
        "held_out": pa.array(videos.held_out_N),
    }
    for name, labels_N in label_sets.items():
        columns[name] = pa.array(labels_N, pa.int64(), mask=labels_N < 0)
    url = storage.join(run, "pseudo_labels", f"{iteration:06d}.parquet")
    with storage.publishing(url) as temporary:
        pq.write_table(pa.table(columns), temporary)


def _blocks(count: int) -> Iterator[range]:
    for first in range(0, count, BLOCK_ROWS):
        yield range(first, min(first + BLOCK_ROWS, count))


def _whitening(
    source: Path, has_N: Flags, config: XdcClusteringConfig, seed: tuple[int, ...]
) -> faiss.PCAMatrix | None:
    """Learned from at most PCA_ROWS random rows; None where the features are not whitened."""
    if config.features != "pca":
        return None
    chosen = np.flatnonzero(has_N)
    if len(chosen) > PCA_ROWS:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, PCA_ROWS, replace=False))
    dim = row_width(source)
    white = faiss.PCAMatrix(dim, min(config.pca_dim, dim, max(1, len(chosen) - 1)), -0.5)
    white.train(read_rows_at(source, chosen))
    return white


def _prepared(
    rows_BD: Float32, white: faiss.PCAMatrix | None, config: XdcClusteringConfig
) -> Float32:
    found = rows_BD
    if white is not None and len(found):
        found = white.apply(found)
    if config.features != "raw":
        found = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return found
