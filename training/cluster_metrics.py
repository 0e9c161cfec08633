"""How well clusters agree with labels.

Tables are (labels, clusters) counts of items.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import entropy
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    normalized_mutual_info_score,
)
from sklearn.metrics.cluster import contingency_matrix


@dataclass(frozen=True)
class ClusterAgreement:
    """Clusters against labels; 1 is perfect, but for the entropy, where 0 is."""

    nmi: float
    """Mutual information over the arithmetic mean of the entropies, 0 to 1."""
    ami: float
    """The same corrected for chance: (MI - E[MI]) / (mean of the entropies - E[MI]), at most 1;
    0 is chance. NMI grows with the number of clusters, this does not."""
    ari: float
    """Adjusted Rand index; 0 is chance."""
    purity: float
    """Share of items whose label is the most frequent one of their cluster."""
    accuracy: float
    """Share of items right under the best one-to-one match of clusters to labels (Hungarian)."""
    entropy: float
    """Entropy of the labels in a cluster, in nats, the mean over the non-empty clusters
    (SeLaVi's clustering metrics); 0 where every cluster holds one label."""
    mean_purity: float
    """Share of a cluster's most frequent label, the mean over the non-empty clusters: small
    clusters weigh as much as large ones (SeLaVi's mean max purity)."""


def cluster_agreement(
    labels: Sequence[str] | NDArray[np.generic], clusters: NDArray[np.integer]
) -> ClusterAgreement:
    """Compares one cluster an item with one label an item."""
    table = contingency_matrix(labels, clusters)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return ClusterAgreement(
        nmi=float(normalized_mutual_info_score(labels, clusters)),
        ami=float(adjusted_mutual_info_score(labels, clusters)),
        ari=float(adjusted_rand_score(labels, clusters)),
        purity=float(table.max(axis=0).sum() / table.sum()),
        accuracy=float(table[rows, columns].sum() / table.sum()),
        entropy=float(entropy(table, axis=0).mean()),
        mean_purity=float((table.max(axis=0) / table.sum(axis=0)).mean()),
    )
