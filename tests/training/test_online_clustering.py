"""training.online_clustering: the queue, refits, statistics, sets of clusters."""

from itertools import pairwise
from math import log

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from training.clustering import kmeans
from training.config import ClusteringConfig
from training.online_clustering import (
    ABSENT,
    FeatureQueue,
    OnlineClustering,
    OnlineKmeans,
    cluster_statistics,
)


def blobs(rows: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(8, 6)) * 2
    return torch.tensor(centres[rng.integers(8, size=rows)] + rng.normal(size=(rows, 6))).float()


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


def run(clustering: OnlineKmeans, rows: torch.Tensor, steps: range) -> list:
    """(centroids, labels, statistics) of each step."""
    every, seen = torch.ones(len(rows), dtype=torch.bool), []
    for step in steps:
        labels = clustering.step(rows + step, every, step, np.random.default_rng(0))
        seen.append((clustering.centroids_KD.clone(), labels, clustering.statistics))
    return seen


@pytest.mark.parametrize("start", ["random", "k-means++"])
@pytest.mark.parametrize("minibatch_rows", [None, 8])
def test_centroids_move_at_refits_only(start: str, minibatch_rows: int | None) -> None:
    clustering = online(start=start, minibatch_rows=minibatch_rows)
    results = run(clustering, blobs(20), range(5))
    moved = [not torch.equal(a, b) for (a, _, _), (b, _, _) in pairwise(results)]
    assert moved == [False, False, True, False]
    assert [bool(statistics) for *_, statistics in results] == [True, False, False, True, False]
    assert results[0][2]["clusters_used"] == 4
    assert 0 < results[3][2]["labels_kept"] <= 1


def test_the_two_starts_differ() -> None:
    a, b = (run(online(start=start), blobs(20), range(1)) for start in ("random", "k-means++"))
    assert not torch.equal(a[0][0], b[0][0])


def test_clustering_waits_for_as_many_rows_as_clusters() -> None:
    first, second = run(online(), blobs(3), range(2))
    assert first[1] is None  # three rows
    assert second[1] is not None  # three, and three of the queue


def test_the_official_clustering_ignores_a_queue_that_is_not_full() -> None:
    rows = blobs(20)
    official, ours = online(partial_queue=False, refit_steps=1), online(refit_steps=1)
    a, b = run(official, rows, range(2)), run(ours, rows, range(2))
    assert torch.equal(a[0][0], b[0][0])
    assert not torch.allclose(a[1][0], b[1][0])
    assert torch.equal(a[1][0], kmeans(rows + 1, a[0][0]).centroids_KD)
    assert len(official.queue) == 32
    full = kmeans(torch.cat([rows + 2, official.queue.filled()]), a[1][0])
    assert torch.equal(run(official, rows, range(2, 3))[0][0], full.centroids_KD)


@pytest.mark.parametrize("keep", [True, False])
def test_centroids_are_kept_over_epochs_or_not(keep: bool) -> None:
    clustering = online(keep_centroids=keep)
    run(clustering, blobs(20), range(2))
    clustering.start_epoch()
    assert bool(clustering.started) == keep
    assert len(clustering.queue) == 32


def test_everything_is_in_the_state_dict() -> None:
    rows = blobs(20)
    clustering, copy = online(), online()
    run(clustering, rows, range(4))
    copy.load_state_dict(clustering.state_dict())
    a, b = run(clustering, rows, range(4, 8)), run(copy, rows, range(4, 8))
    assert all(torch.equal(x, y) for (x, _, _), (y, _, _) in zip(a, b, strict=True))
    assert torch.equal(clustering.queue.rows_QD, copy.queue.rows_QD)


def test_only_marked_rows_enter_the_queue() -> None:
    clustering, rows = online(), blobs(20)
    marked = torch.arange(20) % 4 == 0
    clustering.step(rows, marked, 0, np.random.default_rng(0))
    assert torch.equal(clustering.queue.filled(), rows[marked])


def test_statistics_by_hand() -> None:
    """Sizes 3, 1, 0, 4 of 8 rows; two of the rows changed."""
    before, after = [0, 0, 0, 1, 3, 3, 1, 2], [0, 0, 0, 1, 3, 3, 3, 3]
    found = cluster_statistics(torch.tensor(before), torch.tensor(after), 4)
    entropy = -sum(s * log(s) for s in (3 / 8, 1 / 8, 4 / 8)) / log(4)
    assert found == pytest.approx(
        {
            "clusters_used": 3,
            "clusters_empty": 1,
            "smallest_cluster": 0,
            "median_cluster": 2 / 8,
            "largest_cluster": 4 / 8,
            "cluster_entropy": entropy,
            "labels_kept": normalized_mutual_info_score(before, after),
            "labels_changed": 2 / 8,
        }
    )
    assert "labels_kept" not in cluster_statistics(None, torch.tensor(after), 4)


def test_each_modality_has_clusters_of_its_own() -> None:
    config = ClusteringConfig(clusters=4, queue_rows=8, prediction="swapped")
    clustering = OnlineClustering(config, ("video", "text"), 4, 6)
    rows, everywhere = blobs(20), torch.ones(20, dtype=torch.bool)
    spoken = torch.arange(20) % 2 == 0
    found = clustering.step(
        {"video": rows, "text": rows.flip(0) * spoken[:, None]},
        {"video": everywhere, "text": spoken},
        everywhere,
        0,
        (1, 0, 0),
    )
    assert found["video"].labels_N.min() >= 0
    assert (found["text"].labels_N[~spoken] == ABSENT).all()
    assert (found["text"].labels_N[spoken] >= 0).all()
    assert not torch.equal(found["video"].centroids_KD, found["text"].centroids_KD)
    assert {"clusters_used_video", "clusters_used_text"} <= clustering.statistics().keys()
    queued = clustering.sets["text"].queue.filled()
    assert torch.equal(queued, (rows.flip(0)[spoken])[-8:][[6, 7, 0, 1, 2, 3, 4, 5]])


def test_sinkhorn_keeps_no_queue() -> None:
    clustering = OnlineClustering(ClusteringConfig(method="sinkhorn"), ("video", "text"), 4, 6)
    assert not clustering.state_dict()
    assert clustering.started
