"""Steps of a task in a video: decoding an ordered list of steps, recall, IoU and IoD.

Shapes: T seconds, K steps in their canonical order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from sklearn.metrics import average_precision_score


@dataclass(frozen=True)
class FoundSteps:
    """What the decoded steps of one video hit."""

    video: str
    task: str
    """Empty where the dataset has no tasks."""
    steps: int
    """Steps that occur in the video, at least 1."""
    hits: float
    """Of them, those whose decoded second lies in the step."""
    chance: float
    """`hits` to expect of a random placement in the right order."""


@dataclass(frozen=True)
class Overlap:
    """How decoded segments cover the true ones; means, from 0 to 1."""

    iou: float
    """Intersection over union."""
    iod: float
    """Intersection over the length of the detected segment."""


def exactly_one_path(scores_TK: NDArray[np.floating]) -> NDArray[np.int64]:
    """(K,): one second a step, strictly increasing, of the largest sum of scores.

    The decoding of CrossTask (Zhukov et al., CVPR 2019) with exactly one second a step and
    background at no cost: steps may be adjacent, every step gets a second whether it occurs or
    not. Of equal paths the earliest. Raises ValueError where T < K: there is none.
    """
    T, K = scores_TK.shape
    if T < K:
        raise ValueError(f"{K} steps need as many seconds, got {T}")
    # best_KT[k, t]: steps 0..k, the last at second t or before
    total_KT = np.full((K, T), -np.inf)
    before_T = np.zeros(T)
    for k in range(K):
        total_KT[k] = before_T + scores_TK[:, k]
        best_T = np.maximum.accumulate(total_KT[k])
        before_T = np.concatenate([[-np.inf], best_T[:-1]])
    seconds_K = np.zeros(K, dtype=np.int64)
    end = T
    for k in reversed(range(K)):
        seconds_K[k] = end = int(total_KT[k, :end].argmax())
    return seconds_K


def covering_path(scores_TK: NDArray[np.floating]) -> NDArray[np.int64]:
    """(T,): a step for every second, in order, each at least once, of the largest sum of scores.

    The Viterbi alignment of a transcript without background and without a length model. Raises
    ValueError where T < K.
    """
    T, K = scores_TK.shape
    if T < K:
        raise ValueError(f"{K} steps need as many seconds, got {T}")
    best_K = np.full(K, -np.inf)
    best_K[0] = scores_TK[0, 0]
    entered_TK = np.zeros((T, K), dtype=bool)
    for t in range(1, T):
        from_before_K = np.concatenate([[-np.inf], best_K[:-1]])
        entered_TK[t] = from_before_K > best_K
        best_K = np.maximum(best_K, from_before_K) + scores_TK[t]
    steps_T = np.zeros(T, dtype=np.int64)
    k = K - 1
    for t in reversed(range(T)):
        steps_T[t] = k
        k -= int(entered_TK[t, k])
    return steps_T


def found_steps(
    labels_TK: NDArray[np.bool_], seconds_K: NDArray[np.integer] | None, video: str, task: str = ""
) -> FoundSteps | None:
    """Compares the decoded second of each step with where the step truly is.

    `seconds_K` None says that the video is shorter than its list of steps, so that no decoding
    exists: all its steps count as missed, chance included. None where no step occurs.
    """
    occurs_K = labels_TK.any(axis=0)
    steps = int(occurs_K.sum())
    if not steps:
        return None
    if seconds_K is None:
        return FoundSteps(video, task, steps, 0.0, 0.0)
    hits = float(labels_TK[seconds_K, np.arange(len(seconds_K))].sum())
    chance = float((labels_TK * random_placement(*labels_TK.shape)).sum())
    return FoundSteps(video, task, steps, hits, chance)


def random_placement(seconds: int, steps: int) -> NDArray[np.float64]:
    """(T, K): the probability that step k is at second t, all ordered placements alike.

    C(t, k) C(T - 1 - t, K - 1 - k) / C(T, K): k steps lie before t, the others after it.
    """
    t_TK, k_TK = np.indices((seconds, steps)).astype(float)
    before_TK = _log_choose(t_TK, k_TK)
    after_TK = _log_choose(seconds - 1 - t_TK, steps - 1 - k_TK)
    all_ways = _log_choose(np.array(float(seconds)), np.array(float(steps)))
    chance_TK: NDArray[np.float64] = np.exp(before_TK + after_TK - all_ways)
    return chance_TK


def macro_recall(videos: Iterable[FoundSteps], chance: bool = False) -> float:
    """Per video hits / steps; mean over the videos of a task; mean over the tasks.

    The form of the HowTo100M and MCN evaluations. Without tasks it is the mean over videos.
    """
    shares: dict[str, list[float]] = {}
    for video in videos:
        hits = video.chance if chance else video.hits
        shares.setdefault(video.task, []).append(hits / video.steps)
    return float(np.mean([np.mean(share) for share in shares.values()]))


def micro_recall(videos: Iterable[FoundSteps], chance: bool = False) -> float:
    """Per task the sum of hits / the sum of steps over its videos; mean over the tasks.

    The form of CrossTask's own evaluation (Zhukov et al., CVPR 2019).
    """
    hits: dict[str, float] = {}
    steps: dict[str, int] = {}
    for video in videos:
        hits[video.task] = hits.get(video.task, 0) + (video.chance if chance else video.hits)
        steps[video.task] = steps.get(video.task, 0) + video.steps
    return float(np.mean([hits[task] / steps[task] for task in steps]))


def macro_average_precision(
    videos: Iterable[tuple[str, NDArray[np.floating], NDArray[np.bool_]]],
) -> float:
    """CrossTask mAP, from (task, scores (T, K), labels (T, K)) of each video; no decoding.

    For each step of a task the seconds of all its videos are ranked by the step's raw score: the
    average precision is the mean, over the seconds that lie in the step, of the precision at their
    rank (tied scores at the rank of the last). Mean over the steps of a task that occur, then over
    the tasks in which any does (printed beside the recall by the HowTo100M and MCN evaluations).
    Raises ValueError where no step of any task occurs.
    """
    by_task: dict[str, list[tuple[NDArray[np.floating], NDArray[np.bool_]]]] = {}
    for task, scores_TK, labels_TK in videos:
        by_task.setdefault(task, []).append((scores_TK, labels_TK))
    means = []
    for parts in by_task.values():
        scores_TK, labels_TK = (np.concatenate(part) for part in zip(*parts, strict=True))
        occurring = np.flatnonzero(labels_TK.any(axis=0))
        if len(occurring):
            found = [average_precision_score(labels_TK[:, k], scores_TK[:, k]) for k in occurring]
            means.append(float(np.mean(found)))
    if not means:
        raise ValueError("no step of any task occurs in these videos")
    return float(np.mean(means))


def segment_overlap(labels_TK: NDArray[np.bool_], found_TK: NDArray[np.bool_]) -> Overlap | None:
    """IoU and IoD of one video, the mean over its true segments; None where it has none.

    A segment is a run of seconds of one step. For a true segment g the best detected segment p of
    the same step counts: IoU = |g∩p| / |g∪p|, IoD = |g∩p| / |p|, the two maxima taken apart; 0
    where the step is not detected. Background is left out. The definition in use on
    MiningYouTube (as in the TCFPN code); the metric's original script is not public.
    """
    ious, iods = [], []
    for k in range(labels_TK.shape[1]):
        found = runs(found_TK[:, k])
        for start, end in runs(labels_TK[:, k]):
            shared = [max(0, min(end, b) - max(start, a)) for a, b in found]
            lengths = [b - a for a, b in found]
            unions = [end - start + n - s for n, s in zip(lengths, shared, strict=True)]
            ious.append(max((s / u for s, u in zip(shared, unions, strict=True)), default=0.0))
            iods.append(max((s / n for s, n in zip(shared, lengths, strict=True)), default=0.0))
    return Overlap(float(np.mean(ious)), float(np.mean(iods))) if ious else None


def mean_overlap(videos: Sequence[Overlap]) -> Overlap:
    """Mean over videos; at least one."""
    return Overlap(
        float(np.mean([video.iou for video in videos])),
        float(np.mean([video.iod for video in videos])),
    )


def runs(mask_T: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Half-open intervals [start, end) in which the mask is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask_T.astype(bool), [False]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _log_choose(n: NDArray[np.floating], k: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logarithm of n over k; -inf where k > n, since gammaln is infinite at 0, -1, -2 …"""
    log: NDArray[np.float64] = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return log
