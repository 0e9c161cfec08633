"""training.retrieval_metrics on hand-worked cases."""

import numpy as np
import pytest

from training.retrieval_metrics import Retrieval, retrieval_metrics, score_ranks


def metrics_of(scores, right=None) -> Retrieval:
    scores = np.array(scores, dtype=float)
    right = np.arange(len(scores)) if right is None else np.array(right)
    return retrieval_metrics(*score_ranks(scores, right), scores.shape[1])


def test_ranks_without_ties() -> None:
    scores = np.zeros((3, 12))
    scores[:, :] = np.arange(12)  # candidate 11 is best
    metrics = metrics_of(scores, [11, 8, 3])  # ranks 1, 4, 9
    assert metrics.recall == {1: 1 / 3, 5: 2 / 3, 10: 1.0}
    assert metrics.median_rank == 4
    assert (metrics.queries, metrics.candidates) == (3, 12)


def test_a_constant_score_matrix_is_chance() -> None:
    metrics = metrics_of(np.ones((100, 100)))
    assert metrics.recall == pytest.approx({1: 0.01, 5: 0.05, 10: 0.1})
    assert metrics.recall == pytest.approx(metrics.chance_recall)
    assert metrics.median_rank == 50.5 == metrics.chance_median_rank


def test_ties_count_by_their_odds() -> None:
    # one above, the right one tied with two others: ranks 2, 3 or 4, mean 3
    metrics = metrics_of([[5, 5, 5, 9, 1, 0, 0, 0]])
    assert metrics.median_rank == 3
    assert metrics.recall == {1: 0.0, 5: 1.0, 10: 1.0}
    # five tied at the top: the first with odds 1/5
    assert metrics_of([[5, 5, 5, 5, 5, 1]]).recall[1] == pytest.approx(0.2)


def test_coarse_scores_do_not_inflate() -> None:
    rng = np.random.default_rng(0)
    metrics = metrics_of(rng.random((400, 400)).round(1))
    assert metrics.recall[10] == pytest.approx(10 / 400, abs=0.02)


def test_chance_never_exceeds_one() -> None:
    assert metrics_of(np.eye(3)).chance_recall == {1: 1 / 3, 5: 1.0, 10: 1.0}
