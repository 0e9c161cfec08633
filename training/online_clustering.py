"""The clusters of a training run: k-means over this step's vectors and a queue of earlier ones.

Shapes: N clips of all ranks, K clusters, D embedding, Q queue.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor, nn

from training.clustering import (
    Clustering,
    kmeans,
    label,
    minibatch_kmeans,
    plus_plus_rows,
    random_rows,
)
from training.config import ClusteringConfig

FUSED = "fused"
"""Name of the clusters of the fused vector, beside those of 'video', 'audio' and 'text'."""
ABSENT = -1
"""Label of a clip that has no vector to be clustered."""


@dataclass(frozen=True)
class Assignment:
    """What the clustering loss of a step needs."""

    centroids_KD: Tensor
    labels_N: Tensor
    """ABSENT where the clip lacks the modality."""


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
    """One set of clusters; everything it remembers is in its state dict.

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
        self.statistics: dict[str, float] = {}
        """Of the last `step` if it was a refit, else empty; see `cluster_statistics`."""

    def start_epoch(self) -> None:
        """Forgets the centroids unless they are kept; the queue stays (as released)."""
        if not self.config.keep_centroids:
            self.started.fill_(False)

    @torch.no_grad()
    def step(
        self, rows_ND: Tensor, queued_N: Tensor, step: int, rng: np.random.Generator
    ) -> Tensor | None:
        """Refits if it is time, labels the rows, then queues those marked in `queued_N`.

        Labels (N,) are the nearest of `centroids_KD`. `rng` draws the starting rows where there
        are no centroids yet. None until there are as many rows as clusters.
        """
        rows_ND = rows_ND.to(self.centroids_KD.dtype)
        self.statistics = {}
        if step % self.config.refit_steps == 0 or not self.started:
            self._refit(self._pool(rows_ND), rng)
        labels_N = label(rows_ND, self.centroids_KD, self.config.metric)
        self.queue.push(rows_ND[queued_N])
        return labels_N if self.started else None

    def _pool(self, rows_ND: Tensor) -> Tensor:
        full = len(self.queue) == len(self.queue.rows_QD)
        if full or self.config.partial_queue:
            return torch.cat([rows_ND, self.queue.filled()])
        return rows_ND

    def _refit(self, rows_ND: Tensor, rng: np.random.Generator) -> None:
        config, clusters = self.config, len(self.centroids_KD)
        before_N = None
        if self.started:
            start_KD = self.centroids_KD
            before_N = label(rows_ND, start_KD, config.metric)
        elif len(rows_ND) < clusters:
            return
        elif config.start == "random":
            start_KD = random_rows(rows_ND, clusters, rng)
        else:
            start_KD = plus_plus_rows(rows_ND, clusters, rng, config.metric)
        result = _fit(rows_ND, start_KD, config, rng)
        self.centroids_KD.copy_(result.centroids_KD)
        self.started.fill_(True)
        self.statistics = cluster_statistics(before_N, result.labels_N, clusters)


def _fit(
    rows_ND: Tensor, start_KD: Tensor, config: ClusteringConfig, rng: np.random.Generator
) -> Clustering:
    metric, empty, iterations = config.metric, config.empty_clusters, config.max_iterations
    if config.minibatch_rows is None:
        return kmeans(rows_ND, start_KD, metric, empty, iterations, config.tolerance)
    return minibatch_kmeans(
        rows_ND, start_KD, rng, config.minibatch_rows, metric, empty, iterations
    )


def cluster_statistics(
    before_N: Tensor | None, labels_N: Tensor, clusters: int
) -> dict[str, float]:
    """What the log says of a refit.

    clusters_used and clusters_empty (numbers), smallest_cluster, median_cluster and
    largest_cluster (shares of the rows), cluster_entropy (of the sizes, over log k: 1 where all
    are alike); with labels from before also labels_kept (their NMI with those after) and
    labels_changed (share of the rows that went to another cluster).
    """
    count_K = torch.bincount(labels_N, minlength=clusters).cpu().numpy()
    share_K = count_K / count_K.sum()
    used_K = share_K[share_K > 0]
    statistics = {
        "clusters_used": float(len(used_K)),
        "clusters_empty": float(clusters - len(used_K)),
        "smallest_cluster": float(share_K.min()),
        "median_cluster": float(np.median(share_K)),
        "largest_cluster": float(share_K.max()),
        "cluster_entropy": float(-(used_K * np.log(used_K)).sum() / np.log(clusters)),
    }
    if before_N is not None:
        nmi = normalized_mutual_info_score(before_N.cpu().numpy(), labels_N.cpu().numpy())
        statistics["labels_kept"] = float(nmi)
        statistics["labels_changed"] = float((before_N != labels_N).float().mean())
    return statistics


class OnlineClustering(nn.Module):
    """The run's sets of clusters: of the fused vector, or one a modality; none under sinkhorn."""

    def __init__(
        self, config: ClusteringConfig, modalities: tuple[str, ...], clusters: int, dim: int
    ) -> None:
        super().__init__()
        sets = (FUSED,) if config.prediction == "joint" else modalities
        if config.method == "sinkhorn":
            sets = ()
        self.config = config
        self.sets = nn.ModuleDict({name: OnlineKmeans(config, clusters, dim) for name in sets})

    @property
    def started(self) -> bool:
        """Whether every set has centroids."""
        return all(bool(part.started) for _, part in self._parts())

    def start_epoch(self) -> None:
        """See OnlineKmeans."""
        for _, part in self._parts():
            part.start_epoch()

    def step(
        self,
        vectors: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        queued_N: Tensor,
        step: int,
        seed: tuple[int, ...],
    ) -> dict[str, Assignment]:
        """Assignments by set, of the clips that have the vector; without those not started.

        All ranks call it with all ranks' clips and come to the same. Randomness is drawn from
        `seed` and the set's number.
        """
        found = {}
        for number, (name, part) in enumerate(self._parts()):
            there_N = present[name]
            rng = np.random.default_rng((*seed, number))
            labels = part.step(vectors[name][there_N], queued_N[there_N], step, rng)
            if labels is not None:
                labels_N = torch.full_like(there_N, ABSENT, dtype=torch.int64)
                labels_N[there_N] = labels
                # a copy: a later refit changes the centroids in place
                found[name] = Assignment(part.centroids_KD.clone(), labels_N)
        return found

    def statistics(self) -> dict[str, float]:
        """Of the last step's refits; with several sets, by `statistic_set`. Else empty."""
        alone = FUSED in self.sets
        return {
            what if alone else f"{what}_{name}": value
            for name, part in self._parts()
            for what, value in part.statistics.items()
        }

    def _parts(self) -> Iterator[tuple[str, OnlineKmeans]]:
        for name, part in self.sets.items():
            assert isinstance(part, OnlineKmeans)
            yield name, part
