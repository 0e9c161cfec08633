"""training.clustering: k-means, its policies, the queue."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from training.clustering import FeatureQueue, OnlineKmeans, kmeans, similarity
from training.config import ClusteringConfig


def blobs(rows: int = 300, clusters: int = 8, dim: int = 6) -> torch.Tensor:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(clusters, dim)) * 2
    return torch.tensor(centres[rng.integers(clusters, size=rows)] + rng.normal(size=(rows, dim)))


def inertia(rows, centroids) -> float:
    return float((((rows[:, None] - centroids[None]) ** 2).sum(2)).min(1).values.sum())


def test_the_objective_is_scikit_learns() -> None:
    rows = blobs()
    start = rows[:8]
    ours = kmeans(rows, start, "euclidean", tolerance=0.0)
    theirs = KMeans(8, init=start.numpy(), n_init=1, tol=0.0).fit(rows.numpy())
    assert inertia(rows, ours.centroids_KD) == pytest.approx(theirs.inertia_, rel=0.01)
    assert np.mean(ours.labels_N.numpy() == theirs.labels_) > 0.99


@pytest.mark.parametrize("metric", ["spherical", "cosine_mean"])
def test_cosine_kmeans_against_plain_numpy(metric: str) -> None:
    rows = blobs(120, 5).numpy()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    members = unit if metric == "spherical" else rows
    centroids = members[:5]
    for _ in range(100):
        directions = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
        labels = (unit @ directions.T).argmax(1)
        centroids = np.stack([members[labels == k].mean(0) for k in range(5)])
        if metric == "spherical":
            centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    result = kmeans(torch.tensor(rows), torch.tensor(rows[:5]), metric, tolerance=0.0)
    np.testing.assert_allclose(result.centroids_KD.numpy(), centroids, atol=1e-9)


def test_labels_belong_to_the_returned_centroids() -> None:
    rows = blobs()
    result = kmeans(rows, rows[:8], max_iterations=2)
    nearest = similarity(rows, result.centroids_KD, "spherical").argmax(1)
    assert result.labels_N.tolist() == nearest.tolist()


def empty_start() -> tuple[torch.Tensor, torch.Tensor]:
    """Two tight groups of rows, and a third start that no row is nearest to."""
    rng = np.random.default_rng(0)
    centres = np.repeat([[5.0, 0.0], [0.0, 5.0]], 20, axis=0)
    rows = centres + rng.normal(size=(40, 2))
    return torch.tensor(rows), torch.tensor([[5.0, 0.0], [0.0, 5.0], [-9.0, -9.0]]).double()


def test_an_empty_cluster_is_reseeded() -> None:
    rows, start = empty_start()
    result = kmeans(rows, start, "euclidean", "reseed")
    assert torch.bincount(result.labels_N, minlength=3).min() > 0
    kept = kmeans(rows, start, "euclidean", "keep")
    assert inertia(rows, result.centroids_KD) < inertia(rows, kept.centroids_KD)


def test_an_empty_cluster_stays_or_becomes_zero() -> None:
    rows, start = empty_start()
    assert kmeans(rows, start, "euclidean", "keep").centroids_KD[2].tolist() == [-9.0, -9.0]
    assert kmeans(rows, start, "cosine_mean", "zero").centroids_KD[2].tolist() == [0.0, 0.0]


def test_the_queue_is_a_ring() -> None:
    queue = FeatureQueue(5, 1)
    assert queue.filled().shape == (0, 1)
    numbers = torch.arange(20.0)[:, None]
    queue.push(numbers[:3])
    assert queue.filled()[:, 0].tolist() == [0, 1, 2]
    storage = queue.rows_QD.data_ptr()
    queue.push(numbers[3:7])
    assert queue.filled()[:, 0].tolist() == [5, 6, 2, 3, 4]  # slots, the oldest overwritten
    assert queue.rows_QD.data_ptr() == storage
    queue.push(numbers[7:20])  # more than it holds: the last five
    assert sorted(queue.filled()[:, 0].tolist()) == [15, 16, 17, 18, 19]
    queue.push(torch.tensor([[99.0]]))  # replaces the oldest
    assert sorted(queue.filled()[:, 0].tolist()) == [16, 17, 18, 19, 99]


def test_a_queue_of_no_rows_holds_none() -> None:
    queue = FeatureQueue(0, 2)
    queue.push(torch.ones(3, 2))
    assert queue.filled().shape == (0, 2)


def online(**changes: object) -> OnlineKmeans:
    settings = {"clusters": 4, "queue_rows": 32, "refit_steps": 3} | changes
    return OnlineKmeans(ClusteringConfig.model_validate(settings), 4, 6)


def run(clustering: OnlineKmeans, rows: torch.Tensor, steps: range):
    every = torch.ones(len(rows), dtype=torch.bool)
    return [clustering.step(rows + step, every, step, np.random.default_rng(0)) for step in steps]


def test_centroids_move_at_refits_only() -> None:
    rows = blobs(20).float()
    results = run(online(), rows, range(5))
    moved = [not torch.equal(a.centroids_KD, b.centroids_KD) for a, b in pairwise(results)]
    assert moved == [False, False, True, False]
    assert [bool(result.statistics) for result in results] == [True, False, False, True, False]
    assert results[0].statistics["clusters_used"] == 4
    assert 0 < results[3].statistics["labels_kept"] <= 1


def test_clustering_waits_for_as_many_rows_as_clusters() -> None:
    rows = blobs(3).float()
    first, second = run(online(), rows, range(2))
    assert first is None  # three rows
    assert second is not None  # three, and three of the queue


def test_the_official_clustering_ignores_a_queue_that_is_not_full() -> None:
    rows = blobs(20).float()
    official, ours = online(partial_queue=False, refit_steps=1), online(refit_steps=1)
    a, b = run(official, rows, range(3)), run(ours, rows, range(3))
    assert torch.equal(a[0].centroids_KD, b[0].centroids_KD)
    assert not torch.allclose(a[1].centroids_KD, b[1].centroids_KD)
    alone = kmeans(rows + 1, a[0].centroids_KD)
    assert torch.equal(a[1].centroids_KD, alone.centroids_KD)
    full = kmeans(torch.cat([rows + 2, official.queue.filled()]), a[1].centroids_KD)
    assert len(official.queue) == 32
    assert a[2].centroids_KD.shape == full.centroids_KD.shape


@pytest.mark.parametrize("keep", [True, False])
def test_centroids_are_kept_over_epochs_or_not(keep: bool) -> None:
    clustering = online(keep_centroids=keep)
    run(clustering, blobs(20).float(), range(2))
    clustering.start_epoch()
    assert bool(clustering.started) == keep
    assert len(clustering.queue) == 32


def test_everything_is_in_the_state_dict() -> None:
    rows = blobs(20).float()
    clustering, copy = online(), online()
    run(clustering, rows, range(4))
    copy.load_state_dict(clustering.state_dict())
    a, b = run(clustering, rows, range(4, 8)), run(copy, rows, range(4, 8))
    assert all(torch.equal(x.centroids_KD, y.centroids_KD) for x, y in zip(a, b, strict=True))
    assert torch.equal(clustering.queue.rows_QD, copy.queue.rows_QD)


def test_only_marked_rows_enter_the_queue() -> None:
    clustering, rows = online(), blobs(20).float()
    marked = torch.arange(20) % 4 == 0
    clustering.step(rows, marked, 0, np.random.default_rng(0))
    assert torch.equal(clustering.queue.filled(), rows[marked])
