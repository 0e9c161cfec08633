"""K-means: Lloyd's algorithm and its mini-batch form, their starts, what becomes of empty clusters.

With several ranks all hold the same rows and call together; each assigns its share of them, sums
and counts are added up, and all come to the same clusters: those of one process but for rounding.
Shapes: N rows, B rows of this rank, K clusters, D embedding.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize, one_hot

from training.distributed import gather_rows, own_share, sum_over_ranks

SPLIT_STEP = 1 / 1024
"""By how much of themselves the columns of a split centroid move, up and down in turn (FAISS)."""


@dataclass(frozen=True)
class Clustering:
    """A finished k-means."""

    centroids_KD: Tensor
    labels_N: Tensor
    """Nearest centroid of each row, against `centroids_KD`."""


def nearest(rows_ND: Tensor, centroids_KD: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """How near each row's nearest centroid is, (N,), and which it is, (N,).

    Larger is nearer: the cosine, or minus the squared distance for 'euclidean'. The cosine with a
    zero vector is 0. Of equally near centroids the first.
    """
    return Nearest(rows_ND, metric, len(centroids_KD)).find(centroids_KD)


class Nearest:
    """`nearest` of the same rows again and again: centroids that have not moved since the last call
    are not compared anew. What comparing all of them gives, but for the last bits of a product of
    some columns; holds (N, K) numbers."""

    def __init__(self, rows_ND: Tensor, metric: str, clusters: int) -> None:
        self._rows_ND, self._cosine = rows_ND, metric != "euclidean"
        self._length_N = rows_ND.norm(dim=1)
        self._near_NK = rows_ND.new_empty(len(rows_ND), clusters)
        self._centroids_KD = rows_ND.new_full((clusters, rows_ND.shape[1]), torch.nan)

    def find(self, centroids_KD: Tensor) -> tuple[Tensor, Tensor]:
        """As `nearest`."""
        moved = (centroids_KD != self._centroids_KD).any(dim=1).nonzero()[:, 0]
        self._centroids_KD = centroids_KD.clone()
        if len(moved) > len(centroids_KD) // 2:  # all at once costs less than by columns
            self._compare(centroids_KD, self._near_NK)
        elif len(moved):
            near_NJ = self._near_NK.new_empty(len(self._rows_ND), len(moved))
            self._near_NK[:, moved] = self._compare(centroids_KD[moved], near_NJ)
        best_N, labels_N = self._near_NK.max(dim=1)
        if self._cosine:
            return best_N / self._length_N.clamp(min=1e-12), labels_N
        return 2 * best_N - self._length_N**2, labels_N

    def _compare(self, centroids_JD: Tensor, near_NJ: Tensor) -> Tensor:
        """Into `near_NJ`, up to what a row has in common with all centroids: its own length."""
        if self._cosine:
            return torch.mm(self._rows_ND, normalize(centroids_JD).T, out=near_NJ)
        torch.mm(self._rows_ND, centroids_JD.T, out=near_NJ)
        return near_NJ.sub_((centroids_JD**2).sum(1) / 2)


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
    the same bits on one machine. Holds the rows, once more if spherical, and (N, K) numbers.
    """
    rows_ND, centroids_KD = _for_metric(rows_ND, metric), _for_metric(start_KD, metric)
    own_BD = rows_ND[own_share(len(rows_ND))]
    search = Nearest(own_BD, metric, len(centroids_KD))
    for _ in range(max_iterations):
        best_B, labels_B = search.find(centroids_KD)
        sums_KD, count_K = _sums(own_BD, labels_B, len(centroids_KD))
        means_KD = sums_KD / count_K.clamp(min=1)[:, None]
        means_KD = _refill(means_KD, centroids_KD, count_K, rows_ND, best_B, empty_clusters)
        means_KD = _for_metric(means_KD, metric)
        shift = float(((means_KD - centroids_KD) ** 2).sum())
        centroids_KD = means_KD
        if shift <= tolerance:
            break
    return Clustering(centroids_KD, gather_rows(search.find(centroids_KD)[1])[0])


def minibatch_kmeans(
    rows_ND: Tensor,
    start_KD: Tensor,
    rng: np.random.Generator,
    batch_rows: int,
    metric: str = "spherical",
    empty_clusters: str = "reseed",
    iterations: int = 100,
) -> Clustering:
    """Mini-batch k-means (Sculley 2010): each iteration moves the centroids by some rows alone.

    A centroid is the mean of all rows that were ever assigned to it. Clusters that are empty of
    all rows at the end are refilled once. Same rows, start and `rng` give the same bits.
    """
    rows_ND, centroids_KD = _for_metric(rows_ND, metric), _for_metric(start_KD, metric)
    seen_K = rows_ND.new_zeros(len(start_KD))
    for _ in range(iterations):
        drawn = torch.from_numpy(rng.integers(len(rows_ND), size=min(batch_rows, len(rows_ND))))
        own_BD = rows_ND[drawn.to(rows_ND.device)]
        own_BD = own_BD[own_share(len(own_BD))]
        _, labels_B = nearest(own_BD, centroids_KD, metric)
        sums_KD, count_K = _sums(own_BD, labels_B, len(centroids_KD))
        seen_K += count_K
        step_KD = (sums_KD - count_K[:, None] * centroids_KD) / seen_K.clamp(min=1)[:, None]
        centroids_KD = _for_metric(centroids_KD + step_KD, metric)
    own_BD = rows_ND[own_share(len(rows_ND))]
    best_B, labels_B = nearest(own_BD, centroids_KD, metric)
    _, count_K = _sums(own_BD, labels_B, len(centroids_KD))
    centroids_KD = _refill(
        centroids_KD.clone(), centroids_KD, count_K, rows_ND, best_B, empty_clusters
    )
    centroids_KD = _for_metric(centroids_KD, metric)
    return Clustering(centroids_KD, label(rows_ND, centroids_KD, metric))


def random_rows(rows_ND: Tensor, clusters: int, rng: np.random.Generator) -> Tensor:
    """(K, D): so many rows, drawn without replacement."""
    return rows_ND[torch.from_numpy(rng.permutation(len(rows_ND))[:clusters])]


def plus_plus_rows(
    rows_ND: Tensor, clusters: int, rng: np.random.Generator, metric: str = "spherical"
) -> Tensor:
    """(K, D): the first row at random, each further one with a probability proportional to its
    squared distance from the nearest one so far (Arthur and Vassilvitskii 2007).

    Distances of cosine metrics are those of unit rows. Rows at no distance from the others are
    drawn where nothing else is left.
    """
    points_ND = rows_ND if metric == "euclidean" else normalize(rows_ND)
    chosen = [int(rng.integers(len(rows_ND)))]
    distance_N = torch.full((len(rows_ND),), torch.inf, device=rows_ND.device)
    while len(chosen) < clusters:
        newest_D = points_ND[chosen[-1]]
        squared_N = (points_ND**2).sum(1) - 2 * points_ND @ newest_D + (newest_D**2).sum()
        distance_N = torch.minimum(distance_N, squared_N.clamp(min=0).float())
        distance_N[chosen] = 0
        summed_N = np.cumsum(distance_N.double().cpu().numpy())
        if summed_N[-1] > 0:
            drawn = int(np.searchsorted(summed_N, rng.random() * summed_N[-1], side="right"))
        else:
            drawn = int(rng.choice(np.setdiff1d(np.arange(len(rows_ND)), chosen)))
        chosen.append(drawn)
    return rows_ND[chosen]


def label(rows_ND: Tensor, centroids_KD: Tensor, metric: str) -> Tensor:
    """(N,): the nearest centroid of each row, each rank having looked at its share."""
    _, labels_B = nearest(rows_ND[own_share(len(rows_ND))], centroids_KD, metric)
    return gather_rows(labels_B)[0]


def _for_metric(rows_ND: Tensor, metric: str) -> Tensor:
    return normalize(rows_ND) if metric == "spherical" else rows_ND


def _sums(own_BD: Tensor, labels_B: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Of this rank's rows; over all ranks, the sum of each cluster's rows, (K, D), and their
    number, (K,)."""
    count_K = torch.bincount(labels_B, minlength=clusters)
    if own_BD.is_cuda:  # a fixed order of summation, which index_add_ has not there
        sums_KD = one_hot(labels_B, clusters).to(own_BD.dtype).T @ own_BD
    else:  # a cluster is a bag of rows; the sums of index_add_ in half of its time
        by_label_B, first_K = labels_B.argsort(stable=True), count_K.cumsum(0) - count_K
        sums_KD = embedding_bag(by_label_B, own_BD, first_K, mode="sum")
    both = sum_over_ranks(torch.cat([sums_KD, count_K[:, None].to(own_BD.dtype)], dim=1))
    return both[:, :-1], both[:, -1]


def _refill(
    means_KD: Tensor,
    before_KD: Tensor,
    count_K: Tensor,
    rows_ND: Tensor,
    best_B: Tensor,
    empty_clusters: str,
) -> Tensor:
    """The means with those of empty clusters replaced, as the policy says."""
    empty_K = count_K == 0
    if not bool(empty_K.any()):
        return means_KD
    if empty_clusters == "zero":
        means_KD[empty_K] = 0
    elif empty_clusters == "keep":
        means_KD[empty_K] = before_KD[empty_K]
    elif empty_clusters == "split":
        _split_largest(means_KD, count_K.clone())
    else:
        farthest = gather_rows(best_B)[0].argsort(stable=True)[: int(empty_K.sum())]
        means_KD[empty_K.nonzero()[: len(farthest), 0]] = rows_ND[farthest]
    return means_KD


def _split_largest(means_KD: Tensor, count_K: Tensor) -> None:
    """Every empty cluster becomes one half of the largest one, which may be split again."""
    apart_D = torch.full_like(means_KD[0], SPLIT_STEP)
    apart_D[1::2] *= -1
    for empty in (count_K == 0).nonzero()[:, 0].tolist():
        largest = int(count_K.argmax())
        means_KD[empty] = means_KD[largest] * (1 + apart_D)
        means_KD[largest] *= 1 - apart_D
        count_K[empty] = count_K[largest] / 2
        count_K[largest] /= 2
