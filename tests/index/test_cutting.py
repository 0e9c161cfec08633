"""Segments, windows that overlap, and shots."""

from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from extractors.errors import UsageError
from extractors.tracks import Segment, Track
from index.config import IndexConfig
from index.cutting import index_clips
from pipeline.samples import VideoSample
from training.clips import Clip

RATE = 25
SHOTS = IndexConfig(clips="shots", window=4.0)


def video(
    duration: float = 10.0, *spoken: tuple[float, float], cuts: tuple[int, ...] | None = None
) -> VideoSample:
    """With a track of shots that end after the frames of `cuts`, where they are given."""
    segments = tuple(Segment(start, end, "words", "captions") for start, end in spoken)
    tracks = {}
    if cuts is not None:
        rows = np.zeros((round(duration * RATE), 1), np.float32)
        rows[list(cuts)] = 0.9
        tracks["shots"] = Track(rows, start=0.5 / RATE, hop=1 / RATE)
    meta = {"duration": duration, "tracks": {"visual_2d": {}, **{name: {} for name in tracks}}}
    return VideoSample("video", meta, tracks, segments)


def spans(clips: tuple[Clip, ...]) -> list[tuple[float, float]]:
    return [(pytest.approx(clip.start), pytest.approx(clip.end)) for clip in clips]


def test_segments_are_the_default_and_windows_where_nobody_speaks() -> None:
    config = IndexConfig(window=5.0)
    assert spans(index_clips(video(10.0, (1, 3), (4, 6)), config)) == [(1, 3), (4, 6)]
    assert spans(index_clips(video(10.0), config)) == [(0, 5), (5, 10)]


@pytest.mark.parametrize(
    ("duration", "overlap", "expected"),
    [
        (10.0, 0.0, [(0, 4), (4, 8), (8, 10)]),
        (9.0, 0.0, [(0, 4), (4, 9)]),  # a second is less than half of a step
        (10.0, 2.0, [(0, 4), (2, 6), (4, 8), (6, 10)]),
        (10.5, 2.0, [(0, 4), (2, 6), (4, 8), (6, 10.5)]),
        (11.0, 2.0, [(0, 4), (2, 6), (4, 8), (6, 10), (8, 11)]),
        (1.0, 2.0, [(0, 1)]),
        (0.0, 2.0, []),
    ],
)
def test_windows_overlap_and_end_with_the_video(
    duration: float, overlap: float, expected: list[tuple[float, float]]
) -> None:
    config = IndexConfig(clips="windows", window=4.0, overlap=overlap)
    assert spans(index_clips(video(duration, (0, 1)), config)) == expected


def test_every_second_of_a_video_is_in_a_window() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        window, duration = rng.uniform(1, 20), rng.uniform(0.1, 200)
        overlap = rng.uniform(0, 0.9) * window
        config = IndexConfig(clips="windows", window=window, overlap=overlap)
        clips = index_clips(video(duration), config)
        assert (clips[0].start, clips[-1].end) == (0.0, duration)
        for before, after in pairwise(clips):
            assert before.end - after.start == pytest.approx(overlap)


def test_shots_come_from_their_track_whoever_speaks() -> None:
    clips = index_clips(video(10.0, (0, 10), cuts=(49, 149)), SHOTS)
    assert spans(clips) == [(0, 2), (2, 6), (6, 10)]


def test_shots_end_with_the_video() -> None:
    whole = video(10.0, cuts=(49,))
    shorter = VideoSample("video", whole.meta | {"duration": 9.97}, whole.tracks)
    assert spans(index_clips(shorter, SHOTS)) == [(0, 2), (2, 9.97)]


def test_a_video_without_a_picture_has_windows_in_place_of_shots() -> None:
    sound = video(8.0)
    meta = sound.meta | {"tracks": {"audio": {}, "shots": {}}}  # the track is empty
    assert spans(index_clips(VideoSample("video", meta, {}), SHOTS)) == [(0, 4), (4, 8)]


def test_a_dataset_without_shots_is_refused() -> None:
    with pytest.raises(UsageError, match=r"video video has no track 'shots' \(it has visual_2d\)"):
        index_clips(video(8.0), SHOTS)


def test_a_track_of_something_else_is_refused() -> None:
    wide = video(8.0, cuts=(1,))
    wide.tracks["shots"] = Track(np.zeros((8, 512), np.float16), start=0.5, hop=1.0)
    with pytest.raises(UsageError, match="video video has 512 columns there"):
        index_clips(wide, SHOTS)


def test_windows_must_advance() -> None:
    with pytest.raises(ValidationError, match="must be less than window = 4"):
        IndexConfig(window=4.0, overlap=4.0)
