"""On-line k-means over the fused vectors of this step and of a queue of earlier ones.

Shapes: N rows, K clusters, D embedding, Q queue.
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from training.config import ClusteringConfig


@dataclass(frozen=True)
class Clustering:
    """A finished k-means."""

    centroids_KD: Tensor
    labels_N: Tensor
    """Nearest centroid of each row, against `centroids_KD`."""


@dataclass(frozen=True)
class Assignment:
    """What the clustering loss of a step needs, and what the log says of a refit."""

    centroids_KD: Tensor
    labels_N: Tensor
    statistics: dict[str, float]
    """After a refit: clusters_used, largest_cluster (share of the rows), labels_kept (NMI of the
    rows' labels before and after); else empty."""


def similarity(rows_ND: Tensor, centroids_KD: Tensor, metric: str) -> Tensor:
    """(N, K), larger is nearer: cosine, or minus the squared distance for 'euclidean'.

    The cosine with a zero vector is 0.
    """
    if metric != "euclidean":
        return normalize(rows_ND) @ normalize(centroids_KD).T
    square_N1, square_K = (rows_ND**2).sum(1, keepdim=True), (centroids_KD**2).sum(1)
    return 2 * rows_ND @ centroids_KD.T - square_N1 - square_K


def kmeans(
    rows_ND: Tensor,
    start_KD: Tensor,
    metric: str = "spherical",
    empty_clusters: str = "reseed",
    max_iterations: int = 100,
    tolerance: float = 1e-4,
) -> Clustering:
    """Lloyd's algorithm from given centroids; settings as in ClusteringConfig.

    Stops when the sum of squared centroid shifts is at most `tolerance`. Same rows and start give
    the same bits on one machine.
    """
    rows_ND = normalize(rows_ND) if metric == "spherical" else rows_ND
    centroids_KD = normalize(start_KD) if metric == "spherical" else start_KD
    for _ in range(max_iterations):
        similarity_NK = similarity(rows_ND, centroids_KD, metric)
        nearest_N, labels_N = similarity_NK.max(dim=1)
        # a product with the one-hot matrix: unlike index_add it has one order of summation
        member_NK = one_hot(labels_N, len(centroids_KD)).to(rows_ND.dtype)
        count_K1 = member_NK.sum(0)[:, None]
        means_KD = (member_NK.T @ rows_ND) / count_K1.clamp(min=1)
        empty_K = count_K1[:, 0] == 0
        if empty_clusters == "keep":
            means_KD[empty_K] = centroids_KD[empty_K]
        elif empty_clusters == "reseed":
            farthest = nearest_N.argsort(stable=True)[: int(empty_K.sum())]
            means_KD[empty_K.nonzero()[: len(farthest), 0]] = rows_ND[farthest]
        means_KD = normalize(means_KD) if metric == "spherical" else means_KD
        shift = float(((means_KD - centroids_KD) ** 2).sum())
        centroids_KD = means_KD
        if shift <= tolerance:
            break
    labels_N = similarity(rows_ND, centroids_KD, metric).argmax(dim=1)
    return Clustering(centroids_KD, labels_N)


class FeatureQueue(nn.Module):
    """A ring buffer of the newest rows: pushing overwrites the oldest and moves nothing."""

    rows_QD: Tensor
    pushed: Tensor

    def __init__(self, capacity: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows_QD", torch.zeros(capacity, dim))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        return min(int(self.pushed), len(self.rows_QD))

    def push(self, rows_ND: Tensor) -> None:
        """Appends rows; of more than the capacity the last ones stay."""
        capacity, start = len(self.rows_QD), int(self.pushed)
        kept_ND = rows_ND[max(0, len(rows_ND) - capacity) :]
        first = start + len(rows_ND) - len(kept_ND)
        slots_N = torch.arange(first, first + len(kept_ND), device=rows_ND.device)
        if len(kept_ND):
            self.rows_QD[slots_N % capacity] = kept_ND.detach().to(self.rows_QD.dtype)
        self.pushed += len(rows_ND)

    def filled(self) -> Tensor:
        """(len, D): the rows held, in the order of the slots, not of their age. A view."""
        return self.rows_QD[: len(self)]


class OnlineKmeans(nn.Module):
    """The clustering of a training run; everything it remembers is in its state dict.

    (MCN: k-means on the queue and the batch every `refit_steps` steps, warm-started.)
    """

    centroids_KD: Tensor
    started: Tensor

    def __init__(self, config: ClusteringConfig, clusters: int, dim: int) -> None:
        super().__init__()
        self.config = config
        self.queue = FeatureQueue(config.queue_rows, dim)
        self.register_buffer("centroids_KD", torch.zeros(clusters, dim))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def start_epoch(self) -> None:
        """Forgets the centroids unless they are kept; the queue stays (as released)."""
        if not self.config.keep_centroids:
            self.started.fill_(False)

    @torch.no_grad()
    def step(
        self, fused_ND: Tensor, queued_N: Tensor, step: int, rng: np.random.Generator
    ) -> Assignment | None:
        """Refits if it is time, labels the batch, then queues the rows marked in `queued_N`.

        `rng` draws the starting rows where there are no centroids yet. None until there are as
        many rows as clusters.
        """
        fused_ND = fused_ND.float()
        statistics: dict[str, float] = {}
        if step % self.config.refit_steps == 0 or not self.started:
            statistics = self._refit(self._pool(fused_ND), rng)
        labels_N = similarity(fused_ND, self.centroids_KD, self.config.metric).argmax(dim=1)
        self.queue.push(fused_ND[queued_N])
        if not self.started:
            return None
        return Assignment(self.centroids_KD.clone(), labels_N, statistics)

    def _pool(self, fused_ND: Tensor) -> Tensor:
        full = len(self.queue) == len(self.queue.rows_QD)
        if full or self.config.partial_queue:
            return torch.cat([fused_ND, self.queue.filled()])
        return fused_ND

    def _refit(self, rows_ND: Tensor, rng: np.random.Generator) -> dict[str, float]:
        config, clusters = self.config, len(self.centroids_KD)
        before_N = None
        if self.started:
            start_KD = self.centroids_KD
            before_N = similarity(rows_ND, start_KD, config.metric).argmax(dim=1)
        elif len(rows_ND) >= clusters:
            start_KD = rows_ND[rng.permutation(len(rows_ND))[:clusters]]
        else:
            return {}
        result = kmeans(
            rows_ND,
            start_KD,
            config.metric,
            config.empty_clusters,
            config.max_iterations,
            config.tolerance,
        )
        self.centroids_KD.copy_(result.centroids_KD)
        self.started.fill_(True)
        return _statistics(before_N, result.labels_N, clusters)


def _statistics(before_N: Tensor | None, labels_N: Tensor, clusters: int) -> dict[str, float]:
    count_K = torch.bincount(labels_N, minlength=clusters)
    statistics = {
        "clusters_used": float((count_K > 0).sum()),
        "largest_cluster": float(count_K.max() / count_K.sum()),
    }
    if before_N is not None:
        nmi = normalized_mutual_info_score(before_N.cpu().numpy(), labels_N.cpu().numpy())
        statistics["labels_kept"] = float(nmi)
    return statistics
