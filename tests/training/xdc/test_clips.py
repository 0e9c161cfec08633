"""Which clips are planned."""

from collections import Counter

import numpy as np
import pytest

from training.xdc.clips import ClipRef, clip_start, draw_clips, sound_start, uniform_clips


def draw(config, usable, sets=None, count=600, seed=1) -> list[ClipRef]:
    return draw_clips(np.array(usable), sets or {}, count, config, np.random.default_rng(seed))


def test_natural_sampling_takes_each_usable_video_equally_often(make_config) -> None:
    clips = draw(make_config(), [True, False, True, True], count=8)
    times = Counter(clip.video for clip in clips)
    assert set(times) == {0, 2, 3}
    assert sorted(times.values()) == [2, 3, 3]
    orders = [[clip.video for clip in clips[i : i + 3]] for i in (0, 3)]
    assert sorted(orders[0]) == sorted(orders[1]) == [0, 2, 3]


def test_clips_are_jittered_in_time_and_space_and_mirrored(make_config) -> None:
    clips = draw(make_config(), [True] * 3)
    for name in ("time", "top", "left"):
        shares = np.array([getattr(clip, name) for clip in clips])
        assert shares.min() >= 0
        assert shares.max() < 1
        # 600 draws: a mean of a uniform share is off by 0.012 as a rule
        assert shares.mean() == pytest.approx(0.5, abs=0.06)
        assert len(set(shares)) == 600
    assert sum(clip.flip for clip in clips) == pytest.approx(300, abs=70)
    assert not any(clip.flip for clip in draw(make_config(sampling__flip=False), [True] * 3))
    assert clips == draw(make_config(), [True] * 3)
    assert clips != draw(make_config(), [True] * 3, seed=2)


def test_balanced_sampling_takes_each_cluster_equally_often(make_config) -> None:
    """One label set has clusters of 8 and 1 (and one that is empty), the other of 3, 3 and 3;
    video 8 alone makes a quarter of the clips, of which half are the first set's."""
    first = np.array([0, 0, 0, 0, 0, 0, 0, 0, 2])
    second = np.array([0, 1, 2, 0, 1, 2, 0, 1, -1])
    clips = draw(make_config(sampling__over="clusters"), [True] * 9,
                 {"video": first, "audio": second}, count=4000)  # fmt: skip
    share = np.bincount([clip.video for clip in clips], minlength=9) / 4000
    assert share[8] == pytest.approx(0.25, abs=0.03)
    of_second = [share[second == cluster].sum() for cluster in range(3)]
    # a third of half the clips, and 3, 3 and 2 of 8 of the quarter that is the large cluster's
    np.testing.assert_allclose(of_second, [0.5 / 3 + 0.25 * n / 8 for n in (3, 3, 2)], atol=0.03)
    usable = [True] * 8 + [False]
    assert 8 not in {c.video for c in draw(make_config(sampling__over="clusters"), usable,
                                           {"video": first})}  # fmt: skip


def test_uniform_clips_are_in_the_middle_of_their_shares() -> None:
    assert uniform_clips(3, 1) == [ClipRef(3, 0.5, 0.5, 0.5, False)]
    assert [clip.time for clip in uniform_clips(0, 10)] == pytest.approx(np.arange(0.05, 1, 0.1))


def test_clips_lie_within_their_video() -> None:
    assert clip_start(0.0, 10.0, 2.0) == 0
    assert clip_start(1.0, 10.0, 2.0) == 8
    assert clip_start(0.7, 1.0, 2.0) == 0


@pytest.mark.parametrize(
    ("picture", "expected"), [(5.0, 4.5), (0.0, 0.0), (9.0, 8.0), (0.4, 0.0), (0.6, 0.1)]
)
def test_sound_is_around_the_pictures_middle(picture: float, expected: float) -> None:
    """A second of picture, two of sound, in a video of ten."""
    assert sound_start(picture, 1.0, 10.0, 2.0) == pytest.approx(expected)
    assert sound_start(picture, 1.0, 1.5, 2.0) == 0
