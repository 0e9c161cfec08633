"""How well clusters agree with labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix


@dataclass(frozen=True)
class ClusterAgreement:
    """Clusters against labels; all from 0 (ARI from -0.5) to 1."""

    nmi: float
    """Mutual information over the arithmetic mean of the entropies."""
    ari: float
    """Adjusted Rand index; 0 is chance."""
    purity: float
    """Share of items whose label is the most frequent one of their cluster."""
    accuracy: float
    """Share of items right under the best one-to-one match of clusters to labels (Hungarian)."""


def cluster_agreement(
    labels: Sequence[str] | NDArray[np.generic], clusters: NDArray[np.integer]
) -> ClusterAgreement:
    """Compares one cluster an item with one label an item."""
    table = contingency_matrix(labels, clusters)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return ClusterAgreement(
        nmi=float(normalized_mutual_info_score(labels, clusters)),
        ari=float(adjusted_rand_score(labels, clusters)),
        purity=float(table.max(axis=0).sum() / table.sum()),
        accuracy=float(table[rows, columns].sum() / table.sum()),
    )
