"""Accuracy of videos and of their clips, split by split.

Shapes: N clips, V videos, L labels, * any.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extractors.errors import UsageError


@dataclass(frozen=True)
class SplitScore:
    """One measure on one split."""

    split: str
    accuracy: float
    """Share of test videos right; those of a label that no training video has are wrong."""
    clip_accuracy: float | None
    """Share of test clips right, each by itself; None where only videos are compared."""
    chance: float
    """Of guessing: 1 / labels of the training videos, or what a random order of them would give."""
    majority: float
    """Share of test videos of the label that most training videos have."""
    classes: int
    """Labels of the training videos."""
    train_videos: int
    train_clips: int
    test_videos: int
    test_clips: int
    c: float | None = None
    """The C that was used."""


@dataclass(frozen=True)
class ScoreRow:
    """One measure of one kind of features, over all splits."""

    features: str
    """A track, or an encoder."""
    measure: str
    """The classifier, or `nearest k`: whether the label is among those of the k nearest."""
    accuracy: float
    """The mean over the splits."""
    deviation: float
    """The standard deviation over the splits; 0 for one."""
    splits: tuple[SplitScore, ...]


def score_row(features: str, measure: str, splits: Sequence[SplitScore]) -> ScoreRow:
    """A measure's splits and their mean."""
    values = [split.accuracy for split in splits]
    return ScoreRow(features, measure, float(np.mean(values)), float(np.std(values)), tuple(splits))


def mean_of_videos(rows: NDArray[np.floating], video_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """(V, *) from (N, *): the mean over each video's clips; every video has one at least."""
    sums = np.zeros((int(video_N.max()) + 1, *rows.shape[1:]))
    np.add.at(sums, video_N, rows)
    return sums / np.bincount(video_N).reshape(-1, *[1] * (rows.ndim - 1))


def score_clips(
    scores_NL: NDArray[np.floating],
    names_L: NDArray[np.str_],
    label_V: NDArray[np.str_],
    video_N: NDArray[np.int64],
) -> tuple[float, float]:
    """Accuracy of videos, by the mean of their clips' scores, and of clips."""
    found_V = names_L[mean_of_videos(scores_NL, video_N).argmax(axis=1)]
    found_N = names_L[scores_NL.argmax(axis=1)]
    return float((found_V == label_V).mean()), float((found_N == label_V[video_N]).mean())


def majority_share(train_V: NDArray[np.str_], test_V: NDArray[np.str_]) -> float:
    """Accuracy of always answering the training videos' most common label."""
    values, counts = np.unique(train_V, return_counts=True)
    return float((test_V == values[counts.argmax()]).mean())


def draw_training(
    label_V: NDArray[np.str_], train_V: NDArray[np.bool_], count: int | None, seed: int
) -> NDArray[np.bool_]:
    """(V,) `count` of the training videos, equally many of each label as far as there are; None:
    all. Raises UsageError where there are fewer, or fewer than two labels are among them."""
    available = int(train_V.sum())
    if count is not None and count > available:
        raise UsageError(f"{count} labels wanted, {available} training videos are there")
    rng = np.random.default_rng((seed, 2))
    turn_V = np.full(len(label_V), len(label_V))
    for label in np.unique(label_V[train_V]):
        own = rng.permutation(np.flatnonzero(train_V & (label_V == label)))
        turn_V[own] = np.arange(len(own))  # the first of each label, then the second …
    order = np.lexsort((rng.permutation(len(label_V)), turn_V))
    chosen_V: NDArray[np.bool_] = np.zeros(len(label_V), np.bool_)
    chosen_V[order[: available if count is None else count]] = True
    if len(np.unique(label_V[chosen_V])) < 2:
        raise UsageError("the training videos have one label only, nothing to learn")
    return chosen_V
