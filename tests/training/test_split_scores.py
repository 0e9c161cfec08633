"""training.split_scores on numbers that can be worked out."""

import numpy as np
import pytest

from extractors.errors import UsageError
from training.split_scores import (
    SplitScore,
    draw_training,
    majority_share,
    mean_of_videos,
    score_clips,
    score_row,
)

VIDEO = np.array([0, 0, 0, 1, 2])


def test_the_mean_over_a_videos_clips() -> None:
    rows = np.array([[1, 0], [2, 0], [6, 3], [4, 4], [5, 5]], dtype=float)
    assert mean_of_videos(rows, VIDEO).tolist() == [[3, 1], [4, 4], [5, 5]]
    assert mean_of_videos(rows[:, 0], VIDEO).tolist() == [3, 4, 5]


def test_a_video_is_the_mean_of_its_clips_scores() -> None:
    scores = np.array([[0.4, 0.6], [0.4, 0.6], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]])
    names, labels = np.array(["cat", "dog"]), np.array(["cat", "dog", "cow"])
    videos, clips = score_clips(scores, names, labels, VIDEO)
    assert videos == pytest.approx(2 / 3)  # the cat by one sure clip; the cow nobody knows
    assert clips == pytest.approx(2 / 5)


def test_majority_of_the_training_videos() -> None:
    assert majority_share(np.array(["a", "b", "b"]), np.array(["b", "a", "a", "c"])) == 0.25


def test_mean_and_deviation_over_splits() -> None:
    def split(name: str, accuracy: float) -> SplitScore:
        return SplitScore(name, accuracy, None, 0.5, 0.5, 2, 4, 4, 4, 4)

    row = score_row("audio", "svm", [split("1", 0.5), split("2", 0.9)])
    assert (row.accuracy, row.deviation) == (pytest.approx(0.7), pytest.approx(0.2))
    assert [part.split for part in row.splits] == ["1", "2"]


def test_few_labels_are_equally_many_of_each() -> None:
    labels = np.array(["a"] * 10 + ["b"] * 6 + ["c"] * 2)
    train = np.ones(18, bool)
    train[0] = False
    for count, wanted in ((3, [1, 1, 1]), (6, [2, 2, 2]), (10, [4, 4, 2]), (17, [9, 6, 2])):
        chosen = draw_training(labels, train, count, seed=0)
        assert not chosen[0]
        assert [int((chosen & (labels == name)).sum()) for name in "abc"] == wanted
    assert (draw_training(labels, train, None, seed=0) == train).all()
    drawn = [tuple(draw_training(labels, train, 3, seed)) for seed in range(5)]
    assert len(set(drawn)) > 1
    assert drawn[0] == tuple(draw_training(labels, train, 3, 0))


def test_what_cannot_be_drawn_is_refused() -> None:
    labels, train = np.array(["a", "a", "b"]), np.array([True, True, False])
    with pytest.raises(UsageError, match="3 labels wanted, 2 training videos"):
        draw_training(labels, train, 3, seed=0)
    with pytest.raises(UsageError, match="one label only"):
        draw_training(labels, train, None, seed=0)
