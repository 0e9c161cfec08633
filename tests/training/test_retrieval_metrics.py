"""training.retrieval_metrics on hand-worked cases."""

from itertools import permutations

import numpy as np
import pytest

from training.retrieval_metrics import (
    FORMS,
    Retrieval,
    full_video_retrieval,
    merge_recalls,
    recall_of_sets,
    retrieval_metrics,
    score_ranks,
)


def metrics_of(scores, right=None) -> Retrieval:
    scores = np.array(scores, dtype=float)
    right = np.arange(len(scores)) if right is None else np.array(right)
    return retrieval_metrics(*score_ranks(scores, right), scores.shape[1])


def test_ranks_without_ties() -> None:
    scores = np.zeros((3, 12))
    scores[:, :] = np.arange(12)  # candidate 11 is best
    metrics = metrics_of(scores, [11, 8, 3])  # ranks 1, 4, 9
    assert metrics.recall == {1: 1 / 3, 5: 2 / 3, 10: 1.0}
    assert metrics.median_rank == 4
    assert (metrics.queries, metrics.candidates) == (3, 12)


def test_a_constant_score_matrix_is_chance() -> None:
    metrics = metrics_of(np.ones((100, 100)))
    assert metrics.recall == pytest.approx({1: 0.01, 5: 0.05, 10: 0.1})
    assert metrics.recall == pytest.approx(metrics.chance_recall)
    assert metrics.median_rank == 50.5 == metrics.chance_median_rank


def test_ties_count_by_their_odds() -> None:
    # one above, the right one tied with two others: ranks 2, 3 or 4, mean 3
    metrics = metrics_of([[5, 5, 5, 9, 1, 0, 0, 0]])
    assert metrics.median_rank == 3
    assert metrics.recall == {1: 0.0, 5: 1.0, 10: 1.0}
    # five tied at the top: the first with odds 1/5
    assert metrics_of([[5, 5, 5, 5, 5, 1]]).recall[1] == pytest.approx(0.2)


def test_coarse_scores_do_not_inflate() -> None:
    rng = np.random.default_rng(0)
    metrics = metrics_of(rng.random((400, 400)).round(1))
    assert metrics.recall[10] == pytest.approx(10 / 400, abs=0.02)


def test_chance_never_exceeds_one() -> None:
    assert metrics_of(np.eye(3)).chance_recall == {1: 1 / 3, 5: 1.0, 10: 1.0}


def test_missing_queries_are_misses_of_recall_but_not_of_the_median() -> None:
    """MSR-VTT in small: four of five queries have a rank, the denominator is five."""
    above, tied = np.array([0, 0, 4, 20]), np.zeros(4, dtype=int)
    metrics = retrieval_metrics(above, tied, candidates=40, missing=1)
    assert metrics.recall == pytest.approx({1: 2 / 5, 5: 3 / 5, 10: 3 / 5})
    assert metrics.median_rank == 3  # of 1, 1, 5, 21
    assert (metrics.queries, metrics.missing) == (5, 1)
    assert metrics.chance_recall == pytest.approx({1: 0.8 / 40, 5: 0.8 * 5 / 40, 10: 0.8 / 4})


def test_any_right_candidate_answers() -> None:
    scores = np.array([[9.0, 8, 7, 6], [9, 8, 7, 6], [9, 8, 7, 6]])
    right = np.array([[0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=bool)
    found = recall_of_sets(scores, right, at=(1, 2, 4))
    assert found.recall == pytest.approx({1: 0, 2: 1 / 3, 4: 2 / 3})
    # two right of four: C(2,1)/C(4,1) and C(2,2)/C(4,2) draws hold none; one of four: 3/4, 1/2
    expected = {1: (1 / 2 + 1 / 4 + 0) / 3, 2: (5 / 6 + 1 / 2 + 0) / 3, 4: 2 / 3}
    assert found.chance == pytest.approx(expected)
    assert (found.queries, found.candidates) == (3, 4)


def test_ties_among_several_right_ones_count_by_their_odds() -> None:
    """Against all orders that sort the scores."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = rng.integers(0, 3, size=6).astype(float)
        right = rng.random(6) < 0.4
        right[rng.integers(6)] = True
        for k in (1, 2, 3, 5):
            orders = [o for o in permutations(range(6)) if (np.diff(scores[list(o)]) <= 0).all()]
            hits = np.mean([right[list(order[:k])].any() for order in orders])
            found = recall_of_sets(scores[None], right[None], at=(k,))
            assert found.recall[k] == pytest.approx(hits)


def test_one_right_candidate_gives_the_usual_recall() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 9, size=(30, 30)).astype(float)
    sets = recall_of_sets(scores, np.eye(30, dtype=bool))
    assert sets.recall == pytest.approx(metrics_of(scores).recall)
    assert sets.chance == pytest.approx(metrics_of(scores).chance_recall)


def test_blocks_of_queries_merge_to_the_whole() -> None:
    rng = np.random.default_rng(2)
    scores, right = rng.normal(size=(23, 40)), rng.random((23, 40)) < 0.1
    parts = [recall_of_sets(scores[rows], right[rows]) for rows in (slice(0, 16), slice(16, 23))]
    whole, merged = recall_of_sets(scores, right), merge_recalls(parts)
    assert merged.recall == pytest.approx(whole.recall)
    assert merged.chance == pytest.approx(whole.chance)
    assert (merged.queries, merged.candidates) == (23, 40)


# three videos: x has clips 0 and 1, y has 2 and 3, z has 4
VIDEOS = ["x", "x", "y", "y", "z"]
SCORES = np.array(
    [
        [5.0, 9, 4, 3, 1],  # x0: clips 1 0 2 3 4; videos x y z
        [2, 3, 8, 7, 1],  # x1: clips 2 3 1 0 4; videos y x z
        [1, 2, 9, 3, 8],  # y2: clips 2 4 3 1 0; videos y z x
        [7, 1, 2, 6, 5],  # y3: clips 0 3 4 2 1; videos x y z
        [1, 3, 2, 4, 9],  # z4: clips 4 3 1 2 0; videos z y x
    ]
)


def test_the_five_forms_of_full_video_retrieval() -> None:
    forms = full_video_retrieval(SCORES, VIDEOS)
    assert list(forms) == list(FORMS)
    # ranks of the own clip: 2, 3, 1, 2, 1
    assert forms["clip"].recall == pytest.approx({1: 2 / 5, 5: 1, 10: 1})
    # first clip's video: x (right), y (wrong), y (right), x (wrong), z (right)
    assert forms["video"].recall == pytest.approx({1: 3 / 5, 5: 1, 10: 1})
    # x: x 6.0, y 6.0, z 1.0; y: x 4.5, y 7.5, z 6.5; z: z is best
    assert forms["caption_average"].recall == pytest.approx({1: (1 / 2 + 1 + 1) / 3, 5: 1, 10: 1})
    # votes for the first video. x: one for x, one for y; y: one for y, one for x; z: z
    assert forms["video_vote"].recall[1] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    # votes for the first clip's video: the same
    assert forms["clip_vote"].recall[1] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert (forms["clip"].candidates, forms["clip_vote"].candidates) == (5, 3)
    assert forms["video"].chance[1] == pytest.approx((4 * 2 / 5 + 1 / 5) / 5)


def test_votes_are_counted_clip_by_clip() -> None:
    """With k = 5 all six clips but one vote; the one of video b left out decides."""
    videos = ["a", "b", "b", "b", "c", "c"]
    scores = np.tile(np.array([6.0, 5, 4, 0, 3, 2]), (6, 1))
    forms = full_video_retrieval(scores, videos)
    assert forms["clip_vote"].recall[1] == pytest.approx(1 / 3)  # all vote for a
    assert forms["clip_vote"].recall[5] == 1  # a 1, b 2, c 2 votes a caption: all have some
    assert forms["video_vote"].recall == pytest.approx({1: 1 / 3, 5: 1, 10: 1})


def test_a_video_without_votes_is_no_answer() -> None:
    """12 videos of one clip, all captions want clip 0: k = 5 gives votes to clips 0 to 4."""
    scores = np.tile(-np.arange(12.0), (12, 1))
    forms = full_video_retrieval(scores, [str(i).zfill(2) for i in range(12)])
    for form in ("video_vote", "clip_vote"):
        assert forms[form].recall == pytest.approx({1: 1 / 12, 5: 5 / 12, 10: 10 / 12})


def test_constant_scores_are_chance_in_every_form() -> None:
    forms = full_video_retrieval(np.ones((24, 24)), [str(i % 12).zfill(2) for i in range(24)])
    for name, found in forms.items():
        assert found.recall == pytest.approx(found.chance), name
