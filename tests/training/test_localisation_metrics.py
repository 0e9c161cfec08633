"""training.localisation_metrics against brute force and hand-worked cases."""

from itertools import combinations

import numpy as np
import pytest

from training.localisation_metrics import (
    FoundSteps,
    Overlap,
    covering_path,
    exactly_one_path,
    found_steps,
    macro_average_precision,
    macro_recall,
    mean_overlap,
    micro_recall,
    random_placement,
    runs,
    segment_overlap,
)


def placements(seconds: int, steps: int) -> list[tuple[int, ...]]:
    return list(combinations(range(seconds), steps))


def grid(text: str) -> np.ndarray:
    """One line a step, one sign a second: (T, K)."""
    return np.array([[sign == "x" for sign in line] for line in text.split()]).T


def test_exactly_one_path_is_the_best_of_all_on_300_cases() -> None:
    rng = np.random.default_rng(0)
    for case in range(300):
        T = int(rng.integers(1, 10))
        K = int(rng.integers(1, min(T, 5) + 1))
        scores = rng.normal(size=(T, K))
        if case % 3 == 0:
            scores = scores.round()  # with ties, of which any best one will do
        found = exactly_one_path(scores)
        assert (np.diff(found) > 0).all()
        best = max(scores[list(p), range(K)].sum() for p in placements(T, K))
        assert scores[found, range(K)].sum() == pytest.approx(best)


def test_covering_path_is_the_best_of_all_on_300_cases() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        T = int(rng.integers(1, 9))
        K = int(rng.integers(1, min(T, 4) + 1))
        scores = rng.normal(size=(T, K))
        found = covering_path(scores)
        assert (found[0], found[-1]) == (0, K - 1)
        assert set(np.diff(found)) <= {0, 1}
        every = [
            np.searchsorted(cut, range(T), side="right") for cut in combinations(range(1, T), K - 1)
        ]
        best = max(scores[range(T), steps].sum() for steps in every)
        assert scores[range(T), found].sum() == pytest.approx(best)


def test_a_hand_worked_path() -> None:
    # step 1 is likeliest at second 3, but then step 2 would have to do with second 4
    scores = np.array([[0, 0], [2, 0], [0, 9], [3, 1], [0, 2]])
    assert exactly_one_path(scores).tolist() == [1, 2]
    assert exactly_one_path(np.zeros((4, 2))).tolist() == [0, 1]  # the earliest of equals
    assert exactly_one_path(np.zeros((2, 2))).tolist() == [0, 1]  # steps may be adjacent
    assert covering_path(scores).tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("decode", [exactly_one_path, covering_path])
def test_fewer_seconds_than_steps_have_no_path(decode) -> None:
    with pytest.raises(ValueError, match="3 steps need as many seconds, got 2"):
        decode(np.zeros((2, 3)))


def test_a_long_video_of_many_steps() -> None:
    rng = np.random.default_rng(2)
    seconds = np.sort(rng.choice(2000, 40, replace=False))
    scores = rng.normal(size=(2000, 40)).astype(np.float32)
    scores[seconds, range(40)] += 20
    assert exactly_one_path(scores).tolist() == seconds.tolist()


def test_random_placement_counts_all_placements() -> None:
    for T, K in [(1, 1), (5, 1), (5, 2), (6, 4), (5, 5)]:
        counts = np.zeros((T, K))
        for placement in placements(T, K):
            counts[list(placement), range(K)] += 1
        np.testing.assert_allclose(random_placement(T, K), counts / counts[:, 0].sum(), atol=1e-12)
    np.testing.assert_allclose(random_placement(4000, 500).sum(axis=0), 1, rtol=1e-6)


def test_recall_counts_only_steps_that_occur() -> None:
    labels = grid(
        """
        xx...
        .....
        ...x.
        """
    )
    found = found_steps(labels, np.array([1, 2, 4]), "v", "task")
    # random: step 0 at 0, 1 or 2 with 6, 3, 1 of 10; step 2 at second 3 with 3 of 10
    assert found == FoundSteps("v", "task", 2, 1.0, pytest.approx(0.9 + 0.3))
    assert found_steps(labels, None, "v", "task") == FoundSteps("v", "task", 2, 0.0, 0.0)
    assert found_steps(np.zeros((5, 3), dtype=bool), np.array([0, 1, 2]), "v") is None


def test_macro_and_micro_recall_differ() -> None:
    videos = [
        FoundSteps("a", "tea", 1, 1, 0.5),
        FoundSteps("b", "tea", 4, 1, 1.0),
        FoundSteps("c", "egg", 2, 1, 0.2),
    ]
    assert macro_recall(videos) == pytest.approx(((1 + 1 / 4) / 2 + 1 / 2) / 2)
    assert micro_recall(videos) == pytest.approx((2 / 5 + 1 / 2) / 2)
    assert macro_recall(videos, chance=True) == pytest.approx(((0.5 + 0.25) / 2 + 0.1) / 2)
    assert micro_recall(videos, chance=True) == pytest.approx((1.5 / 5 + 0.1) / 2)
    without_tasks = [FoundSteps("a", "", 1, 1, 0), FoundSteps("b", "", 4, 1, 0)]
    assert macro_recall(without_tasks) == pytest.approx((1 + 1 / 4) / 2)


def test_overlap_by_hand() -> None:
    labels = grid("xxxx...... .....xx.x.")
    found = grid("..xxxx.... .xx.....xx")
    # step 0: [0,4) and [2,6): 2 shared, 6 in the union, 4 detected
    overlap = segment_overlap(labels, found)
    # step 1's true segments: [5,7): nothing; [8,9): [8,10) shares 1 of 2, 1 of 2 detected
    assert overlap.iou == pytest.approx((2 / 6 + 0 + 1 / 2) / 3)
    assert overlap.iod == pytest.approx((2 / 4 + 0 + 1 / 2) / 3)


def test_the_best_segment_counts_for_each_measure_apart() -> None:
    labels = grid("xxxx....")
    found = grid("x.xxxxxx")
    overlap = segment_overlap(labels, found)
    assert overlap == Overlap(iou=pytest.approx(2 / 8), iod=1.0)  # [0,1) detects nothing else
    assert segment_overlap(labels, labels) == Overlap(1.0, 1.0)
    assert segment_overlap(labels, ~labels) == Overlap(0.0, 0.0)
    assert segment_overlap(labels, np.zeros_like(labels)) == Overlap(0.0, 0.0)
    assert segment_overlap(np.zeros_like(labels), labels) is None
    assert mean_overlap([Overlap(0.5, 1.0), Overlap(0.0, 0.5)]) == Overlap(0.25, 0.75)


def test_runs() -> None:
    assert runs(np.array([1, 1, 0, 1, 0, 0, 1], dtype=bool)) == [(0, 2), (3, 4), (6, 7)]
    assert runs(np.zeros(3, dtype=bool)) == []


def test_macro_average_precision_by_hand() -> None:
    """Task a, two videos. Step 0 lies at the seconds ranked 1 and 3: (1/1 + 2/3) / 2 = 5/6; step 1
    at the one ranked 2: 1/2; step 2 occurs nowhere and does not count. Task b: 1. Task c: nothing.
    """
    scores = np.array([[0.9, 0.1, 5.0], [0.8, 0.7, 5.0]])
    more = np.array([[0.5, 0.6, 5.0], [0.1, 0.2, 5.0]])
    labels = grid("x. .. ..")
    more_labels = grid("x. x. ..")
    found = macro_average_precision(
        [
            ("a", scores, labels),
            ("b", np.array([[1.0], [0.0]]), np.array([[True], [False]])),
            ("a", more, more_labels),
            ("c", np.zeros((3, 1)), np.zeros((3, 1), bool)),
        ]
    )
    assert found == pytest.approx(((5 / 6 + 1 / 2) / 2 + 1) / 2)
    with pytest.raises(ValueError, match="no step"):
        macro_average_precision([("c", np.zeros((3, 1)), np.zeros((3, 1), bool))])
