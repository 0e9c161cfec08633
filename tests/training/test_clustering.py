"""training.clustering: k-means, its starts and its policies."""

import faiss
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from training.clustering import (
    SPLIT_STEP,
    Nearest,
    kmeans,
    minibatch_kmeans,
    nearest,
    plus_plus_rows,
    random_rows,
)


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


@pytest.mark.parametrize("spherical", [False, True])
def test_the_objective_is_faisss(spherical: bool) -> None:
    rows = blobs(2000, 16, 12).float()
    start = rows[:16]
    if spherical:
        rows, start = (torch.nn.functional.normalize(values) for values in (rows, start))
    theirs = faiss.Kmeans(12, 16, niter=100, spherical=spherical, max_points_per_centroid=2000)
    theirs.train(rows.numpy(), init_centroids=start.numpy().copy())
    ours = kmeans(rows, start, "spherical" if spherical else "euclidean", tolerance=0.0)
    expected = inertia(rows, torch.from_numpy(theirs.centroids))
    assert inertia(rows, ours.centroids_KD) == pytest.approx(expected, rel=0.01)


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


@pytest.mark.parametrize("metric", ["spherical", "cosine_mean", "euclidean"])
def test_nearest_against_plain_numpy(metric: str) -> None:
    rows, centroids = blobs(50).numpy(), blobs(57)[50:].numpy()
    centroids[3] = 0
    near = -((rows[:, None] - centroids[None]) ** 2).sum(2)
    if metric != "euclidean":
        lengths = np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(centroids, axis=1)
        near = rows @ centroids.T / np.maximum(lengths, 1e-12)
    best, labels = nearest(torch.tensor(rows), torch.tensor(centroids), metric)
    np.testing.assert_allclose(best.numpy(), near.max(1), atol=1e-12)
    assert labels.tolist() == near.argmax(1).tolist()


def test_labels_belong_to_the_returned_centroids() -> None:
    rows = blobs()
    result = kmeans(rows, rows[:8], max_iterations=2)
    assert result.labels_N.tolist() == nearest(rows, result.centroids_KD, "spherical")[1].tolist()


def empty_start() -> tuple[torch.Tensor, torch.Tensor]:
    """Two tight groups of rows, 20 and 21, and a third start that no row is nearest to."""
    rng = np.random.default_rng(0)
    centres = np.repeat([[5.0, 0.0], [0.0, 5.0]], [20, 21], axis=0)
    rows = centres + rng.normal(size=(41, 2))
    return torch.tensor(rows), torch.tensor([[5.0, 0.0], [0.0, 5.0], [-9.0, -9.0]]).double()


@pytest.mark.parametrize("policy", ["reseed", "split"])
def test_an_empty_cluster_is_filled(policy: str) -> None:
    rows, start = empty_start()
    result = kmeans(rows, start, "euclidean", policy)
    assert torch.bincount(result.labels_N, minlength=3).min() > 0
    kept = kmeans(rows, start, "euclidean", "keep")
    assert inertia(rows, result.centroids_KD) < inertia(rows, kept.centroids_KD)


def test_the_largest_cluster_is_split() -> None:
    rows, start = empty_start()
    centroids = kmeans(rows, start, "euclidean", "split", max_iterations=1).centroids_KD
    labels = nearest(rows, start, "euclidean")[1]
    means = torch.stack([rows[labels == k].mean(0) for k in (0, 1)])
    assert int((labels == 1).sum()) > int((labels == 0).sum())
    apart = torch.tensor([SPLIT_STEP, -SPLIT_STEP])
    torch.testing.assert_close(centroids[0], means[0])
    torch.testing.assert_close(centroids[2], means[1] * (1 + apart))
    torch.testing.assert_close(centroids[1], means[1] * (1 - apart))


def test_several_empty_clusters_split_what_is_largest_by_then() -> None:
    """40 rows at one place and 30 at another: 40 is halved first, then 30."""
    rows = torch.tensor([[1.0, 0.0]] * 40 + [[0.0, 1.0]] * 30)
    start = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [-1.0, -1.0]])
    centroids = kmeans(rows, start, "euclidean", "split", max_iterations=1).centroids_KD
    assert centroids[2].argmax() == 0
    assert centroids[3].argmax() == 1


def test_an_empty_cluster_stays_or_becomes_zero() -> None:
    rows, start = empty_start()
    assert kmeans(rows, start, "euclidean", "keep").centroids_KD[2].tolist() == [-9.0, -9.0]
    assert kmeans(rows, start, "cosine_mean", "zero").centroids_KD[2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("metric", ["spherical", "euclidean"])
def test_plus_plus_starts_far_apart(metric: str) -> None:
    """In eight groups far from each other it finds all eight; random rows seldom do."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.eye(8) * 50, 25, axis=0)
    rows = torch.tensor(groups + rng.normal(size=(200, 8)) * 0.1)
    found = {"plus": 0, "random": 0}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        far, drawn = plus_plus_rows(rows, 8, rng, metric), random_rows(rows, 8, rng)
        found["plus"] += len(set(far.argmax(1).tolist())) == 8
        found["random"] += len(set(drawn.argmax(1).tolist())) == 8
    assert found["plus"] == 20
    assert found["random"] < 5


def test_plus_plus_of_equal_rows_still_draws_different_ones() -> None:
    rows = torch.ones(6, 3)
    assert plus_plus_rows(rows, 6, np.random.default_rng(0)).shape == (6, 3)
    rows[4] = 2.0
    both = plus_plus_rows(rows, 2, np.random.default_rng(0), "euclidean")
    assert sorted(both[:, 0].tolist()) == [1.0, 2.0]


def test_random_rows_are_different_rows() -> None:
    rows = torch.arange(10.0)[:, None]
    assert len(set(random_rows(rows, 10, np.random.default_rng(0))[:, 0].tolist())) == 10


@pytest.mark.parametrize("metric", ["euclidean", "spherical"])
def test_minibatches_come_near_the_full_objective(metric: str) -> None:
    """Within 5 %: sklearn's own MiniBatchKMeans is 1 to 3 % off on such blobs."""
    rows = blobs(3000, 8)
    if metric == "spherical":
        rows = torch.nn.functional.normalize(rows)
    start = plus_plus_rows(rows, 8, np.random.default_rng(2), metric)
    full = kmeans(rows, start, metric)
    mini = minibatch_kmeans(rows, start, np.random.default_rng(0), 256, metric)
    expected = inertia(rows, full.centroids_KD)
    assert inertia(rows, mini.centroids_KD) == pytest.approx(expected, rel=0.05)
    assert inertia(rows, mini.centroids_KD) < inertia(rows, start)


def test_a_minibatch_of_one_round_is_the_mean_of_its_rows() -> None:
    rows, rng = blobs(40), np.random.default_rng(3)
    drawn = rows[torch.from_numpy(np.random.default_rng(3).integers(40, size=10))]
    start = rows[:3]
    labels = nearest(drawn, start, "euclidean")[1]
    result = minibatch_kmeans(rows, start, rng, 10, "euclidean", "keep", iterations=1)
    for k in range(3):
        expected = drawn[labels == k].mean(0) if (labels == k).any() else start[k]
        torch.testing.assert_close(result.centroids_KD[k], expected)


def test_minibatches_refill_empty_clusters() -> None:
    rows, start = empty_start()
    rng = np.random.default_rng(0)
    result = minibatch_kmeans(rows, start, rng, 16, "euclidean", "split", iterations=5)
    assert torch.bincount(result.labels_N, minlength=3).min() > 0


@pytest.mark.parametrize("metric", ["spherical", "cosine_mean", "euclidean"])
def test_comparing_what_moved_alone_gives_what_comparing_all_gives(metric: str) -> None:
    rng = np.random.default_rng(3)
    rows_ND = torch.tensor(rng.normal(size=(200, 8)))
    centroids_KD = torch.tensor(rng.normal(size=(12, 8)))
    search = Nearest(rows_ND, metric, 12)
    for moved in (range(12), [3, 7], [], [0], range(2, 11)):
        for number in moved:
            centroids_KD[number] = torch.tensor(rng.normal(size=8))  # in place, as a caller may
        best_N, labels_N = search.find(centroids_KD)
        expected_N, nearest_N = nearest(rows_ND, centroids_KD, metric)
        assert torch.equal(labels_N, nearest_N)
        torch.testing.assert_close(best_N, expected_N, rtol=1e-12, atol=1e-12)  # float64
