"""Retrieval metrics that ties cannot inflate.

Shapes: Q queries, N candidates.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class Retrieval:
    """How well queries find their one right candidate, beside what chance would give."""

    recall: dict[int, float]
    """R@k, a share from 0 to 1."""
    median_rank: float
    """MedR; 1 is perfect."""
    queries: int
    candidates: int

    @property
    def chance_recall(self) -> dict[int, float]:
        """R@k of a random order: min(1, k / candidates)."""
        return {k: min(1.0, k / self.candidates) for k in self.recall}

    @property
    def chance_median_rank(self) -> float:
        """Mean rank of a random order, (candidates + 1) / 2."""
        return (self.candidates + 1) / 2


def score_ranks(
    scores_QN: NDArray[np.floating], right_Q: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(Q,), (Q,): how many candidates score above the right one, and how many others equal it."""
    own_Q1 = np.take_along_axis(scores_QN, right_Q[:, None], axis=1)
    above_Q = (scores_QN > own_Q1).sum(axis=1)
    tied_Q = (scores_QN == own_Q1).sum(axis=1) - 1
    return above_Q, tied_Q


def retrieval_metrics(
    above_Q: NDArray[np.integer], tied_Q: NDArray[np.integer], candidates: int
) -> Retrieval:
    """R@k and MedR from `score_ranks`.

    rank = 1 + above + tied / 2, the mean rank over ties; MedR is its median. R@k is the mean
    probability that the right one is among the first k when ties are broken at random,
    clip((k - above) / (tied + 1), 0, 1): without ties the usual count, for a constant score
    matrix exactly chance.
    """
    rank_Q = 1 + above_Q + tied_Q / 2
    recall = {k: float(np.clip((k - above_Q) / (tied_Q + 1), 0, 1).mean()) for k in RECALL_AT}
    return Retrieval(recall, float(np.median(rank_Q)), len(above_Q), candidates)
