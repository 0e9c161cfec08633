"""training.cluster_metrics on a hand-worked case."""

import math

import numpy as np
import pytest

from training.cluster_metrics import cluster_agreement


def test_a_hand_worked_case() -> None:
    labels = ["cat"] * 4 + ["dog"] * 4
    clusters = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    # table: cat 3 1 0, dog 0 2 2
    agreement = cluster_agreement(labels, clusters)
    assert agreement.purity == pytest.approx((3 + 2 + 2) / 8)
    assert agreement.accuracy == pytest.approx((3 + 2) / 8)  # one cluster goes without a label
    entropy_labels = math.log(2)
    entropy_clusters = -(2 * 3 / 8 * math.log(3 / 8) + 2 / 8 * math.log(2 / 8))
    information = sum(
        n / 8 * math.log(n / 8 / (row / 8 * column / 8))
        for n, row, column in [(3, 4, 3), (1, 4, 3), (2, 4, 3), (2, 4, 2)]
    )
    nmi = information / ((entropy_labels + entropy_clusters) / 2)
    assert agreement.nmi == pytest.approx(nmi)
    pairs, together_labels, together_clusters = 28, 12, 7
    both = 3 + 0 + 1 + 1  # pairs of one label in one cluster
    expected = together_labels * together_clusters / pairs
    ari = (both - expected) / ((together_labels + together_clusters) / 2 - expected)
    assert agreement.ari == pytest.approx(ari)


def test_names_of_clusters_do_not_matter() -> None:
    agreement = cluster_agreement(["a", "a", "b", "c"], np.array([7, 7, 0, 3]))
    assert vars(agreement) == {"nmi": 1.0, "ari": 1.0, "purity": 1.0, "accuracy": 1.0}


def test_one_cluster_says_nothing() -> None:
    agreement = cluster_agreement(["a", "a", "b", "b"], np.zeros(4, dtype=int))
    assert (agreement.nmi, agreement.ari) == (0.0, 0.0)
    assert (agreement.purity, agreement.accuracy) == (0.5, 0.5)
