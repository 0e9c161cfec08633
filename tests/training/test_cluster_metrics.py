"""training.cluster_metrics on a hand-worked case."""

import math
from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

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
    # clusters of cat 3, dog 0; cat 1, dog 2; dog 2
    assert agreement.mean_purity == pytest.approx((1 + 2 / 3 + 1) / 3)
    mixed = -(1 / 3 * math.log(1 / 3) + 2 / 3 * math.log(2 / 3))
    assert agreement.entropy == pytest.approx(mixed / 3)


def test_ami_corrects_for_the_mean_over_all_permutations() -> None:
    """The chance it corrects for, by brute force over the 20 ways to place two labels of three."""
    labels, clusters = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 2, 2])
    placed = [list(chosen) for chosen in combinations(range(6), 3)]
    informations = []
    for chosen in placed:
        shuffled = np.zeros(6, dtype=int)
        shuffled[chosen] = 1
        informations.append(mutual_info_score(shuffled, clusters))
    mean_entropy = (math.log(2) + math.log(3)) / 2
    expected = np.mean(informations)
    ami = (mutual_info_score(labels, clusters) - expected) / (mean_entropy - expected)
    assert cluster_agreement(labels, clusters).ami == pytest.approx(ami)


def test_names_of_clusters_do_not_matter() -> None:
    agreement = cluster_agreement(["a", "a", "b", "c"], np.array([7, 7, 0, 3]))
    perfect = dict.fromkeys(("nmi", "ami", "ari", "purity", "accuracy", "mean_purity"), 1.0)
    assert vars(agreement) == perfect | {"entropy": 0.0}


def test_one_cluster_says_nothing() -> None:
    agreement = cluster_agreement(["a", "a", "b", "b"], np.zeros(4, dtype=int))
    assert (agreement.nmi, agreement.ami, agreement.ari) == (0.0, 0.0, 0.0)
    assert agreement.entropy == pytest.approx(math.log(2))
    assert (agreement.purity, agreement.accuracy) == (0.5, 0.5)
