"""Retrieval metrics that ties cannot inflate.

Shapes: Q queries, N candidates, C clips, V videos.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom, rankdata

RECALL_AT = (1, 5, 10)

FORMS = {
    "clip": "caption → clip",
    "video": "caption → video, by any of its clips",
    "caption_average": "all captions → video, mean of their scores",
    "video_vote": "all captions → video, vote over top videos",
    "clip_vote": "all captions → video, vote over top clips",
}
"""The five forms of `full_video_retrieval`, in the order of MCN's evaluation."""


@dataclass(frozen=True)
class Retrieval:
    """How well queries find their one right candidate, beside what chance would give."""

    recall: dict[int, float]
    """R@k, a share of `queries` from 0 to 1."""
    median_rank: float
    """MedR; 1 is perfect. Over the queries that have a rank: `queries - missing`."""
    queries: int
    """The denominator of R@k."""
    candidates: int
    missing: int = 0
    """Of `queries`, those that lack the query's modality or the target's and count as misses."""

    @property
    def chance_recall(self) -> dict[int, float]:
        """R@k of a random order: min(1, k / candidates) of the queries that are not missing."""
        ranked = (self.queries - self.missing) / self.queries
        return {k: ranked * min(1.0, k / self.candidates) for k in self.recall}

    @property
    def chance_median_rank(self) -> float:
        """Mean rank of a random order, (candidates + 1) / 2."""
        return (self.candidates + 1) / 2


@dataclass(frozen=True)
class Recall:
    """R@k where several candidates may be right, beside chance."""

    recall: dict[int, float]
    """The share of queries with a right one among the first k, from 0 to 1."""
    chance: dict[int, float]
    """The same for a random order."""
    queries: int
    candidates: int


def score_ranks(
    scores_QN: NDArray[np.floating], right_Q: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(Q,), (Q,): how many candidates score above the right one, and how many others equal it."""
    own_Q1 = np.take_along_axis(scores_QN, right_Q[:, None], axis=1)
    above_Q = (scores_QN > own_Q1).sum(axis=1)
    tied_Q = (scores_QN == own_Q1).sum(axis=1) - 1
    return above_Q, tied_Q


def retrieval_metrics(
    above_Q: NDArray[np.integer], tied_Q: NDArray[np.integer], candidates: int, missing: int = 0
) -> Retrieval:
    """R@k and MedR from `score_ranks`.

    rank = 1 + above + tied / 2, the mean rank over ties; MedR is its median. R@k is the mean
    probability that the right one is among the first k when ties are broken at random,
    clip((k - above) / (tied + 1), 0, 1): without ties the usual count, for a constant score
    matrix exactly chance. `missing` more queries count as misses of R@k, as the 32 videos
    without sound do in MSR-VTT's 1000 (MCN released code); MedR leaves them out.
    """
    rank_Q = 1 + above_Q + tied_Q / 2
    queries = len(above_Q) + missing
    recall = {
        k: float(np.clip((k - above_Q) / (tied_Q + 1), 0, 1).sum() / queries) for k in RECALL_AT
    }
    return Retrieval(recall, float(np.median(rank_Q)), queries, candidates, missing)


def recall_of_sets(
    scores_QN: NDArray[np.floating], right_QN: NDArray[np.bool_], at: Sequence[int] = RECALL_AT
) -> Recall:
    """R@k where a query is answered by any of its right candidates.

    Ties are broken at random, in expectation: with m right and w wrong candidates at the best
    right score and j places left for them, the query is a hit with probability
    1 - C(w, j) / C(m + w, j). A query without a right candidate is a miss. Chance is
    1 - C(N - n, k) / C(N, k) for n right ones of N, the mean over the queries.
    """
    best_Q1 = np.where(right_QN, scores_QN, -np.inf).max(axis=1, keepdims=True)
    tied_QN = scores_QN == best_Q1
    above_Q = (scores_QN > best_Q1).sum(axis=1)
    right_Q = (tied_QN & right_QN).sum(axis=1)
    tied_Q = np.maximum(tied_QN.sum(axis=1), 1)  # none is tied where none is right
    all_right_Q = right_QN.sum(axis=1)
    candidates = scores_QN.shape[1]
    recall, chance = {}, {}
    for k in at:
        places_Q = np.clip(k - above_Q, 0, tied_Q)
        recall[k] = float((1 - _none_drawn(tied_Q, right_Q, places_Q)).mean())
        drawn_Q = np.full(len(scores_QN), min(k, candidates))
        chance[k] = float((1 - _none_drawn(candidates, all_right_Q, drawn_Q)).mean())
    return Recall(recall, chance, len(scores_QN), candidates)


def merge_recalls(parts: Sequence[Recall]) -> Recall:
    """Of different queries over the same candidates; at least one part."""
    weights = [part.queries for part in parts]
    first = parts[0]
    return Recall(
        {k: float(np.average([part.recall[k] for part in parts], weights=weights))
         for k in first.recall},
        {k: float(np.average([part.chance[k] for part in parts], weights=weights))
         for k in first.chance},
        sum(weights),
        first.candidates,
    )  # fmt: skip


def full_video_retrieval(
    scores_CC: NDArray[np.floating], videos: Sequence[str]
) -> dict[str, Recall]:
    """The five forms of retrieval of whole videos by the captions of their clips, see `FORMS`.

    scores_CC[i, j] compares caption i with clip j; `videos[i]` is the video that clip and caption
    i come from. From MCN's released evaluation on YouCook2, in its order:

    - clip: caption i is to find clip i.
    - video: caption i is answered by any clip of its video among the first k clips.
    - caption_average: a caption's score of a video is the maximum over the video's clips; the
      mean over the captions of a video ranks the videos.
    - video_vote: each caption votes for its first k videos by that score, and the k videos with
      most votes are the answer. A video without a vote is none.
    - clip_vote: each caption votes for the videos of its first k clips, a vote a clip.

    Where scores tie, a vote is shared in equal parts among those that tie at place k, and equal
    numbers of votes are ordered at random, in expectation. The chance of the votes is k / V, for
    clip_vote an upper bound of it.
    """
    names, video_C = np.unique(np.array(videos), return_inverse=True)
    of_CV = np.eye(len(names), dtype=bool)[video_C]
    video_scores_CV = np.stack([scores_CC[:, of_C].max(axis=1) for of_C in of_CV.T], axis=1)
    average_VV = (of_CV.T / of_CV.sum(axis=0)[:, None]) @ video_scores_CV
    return {
        "clip": recall_of_sets(scores_CC, np.eye(len(videos), dtype=bool)),
        "video": recall_of_sets(scores_CC, of_CV[:, video_C]),
        "caption_average": recall_of_sets(average_VV, np.eye(len(names), dtype=bool)),
        "video_vote": _vote(video_scores_CV, of_CV, np.eye(len(names), dtype=bool)),
        "clip_vote": _vote(scores_CC, of_CV, of_CV),
    }


def _vote(
    scores_CN: NDArray[np.floating], of_CV: NDArray[np.bool_], owner_NV: NDArray[np.bool_]
) -> Recall:
    """R@k of the videos with most votes; `owner_NV` says which video a candidate stands for."""
    above_CN = rankdata(-scores_CN, method="min", axis=1) - 1
    last_CN = rankdata(-scores_CN, method="max", axis=1)
    count = of_CV.shape[1]
    recall = {}
    for k in RECALL_AT:
        votes_CN = np.clip((k - above_CN) / (last_CN - above_CN), 0, 1)
        # rounded, for equal sums of shares to be equal
        votes_VV = (of_CV.T.astype(float) @ votes_CN @ owner_NV).round(9)
        above_V, tied_V = score_ranks(votes_VV, np.arange(count))
        hit_V = np.clip((k - above_V) / (tied_V + 1), 0, 1) * (np.diag(votes_VV) > 0)
        recall[k] = float(hit_V.mean())
    chance = {k: min(1.0, k / count) for k in RECALL_AT}
    return Recall(recall, chance, count, count)


def _none_drawn(
    total: int | NDArray[np.integer],
    right_Q: NDArray[np.integer],
    drawn_Q: NDArray[np.integer],
) -> NDArray[np.float64]:
    """(Q,): the probability that `drawn` of `total`, of which `right` are right, hold none."""
    none_Q: NDArray[np.float64] = hypergeom.pmf(0, total, right_Q, drawn_Q)
    return none_Q
