"""training.clips: which intervals are used and what lies in them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from extractors.errors import AbortError
from extractors.tracks import Segment, Track
from pipeline.samples import VideoSample
from training.clips import (
    Clip,
    TrackDims,
    clip_inputs,
    draw_clips,
    grow_clip,
    text_offsets,
    video_clips,
)
from training.config import SamplingConfig, TrainConfig

DIMS = TrackDims((24, 16), 40, 20)

MakeSample = Callable[..., VideoSample]
MakeConfig = Callable[..., TrainConfig]


def spoken(make_sample: MakeSample, *spans: tuple[float, float], duration: float = 20.0):
    sample = make_sample(0, duration=duration, segments=len(spans))
    return replace(sample, segments=tuple(Segment(a, b, "", "asr") for a, b in spans))


SPANS = [(0.0, 2.0), (3.0, 5.0), (6.0, 7.0), (9.0, 14.0)]


@pytest.mark.parametrize(
    ("index", "min_time", "expected"),
    [
        (1, 1.0, (3.0, 5.0)),  # long enough by itself
        (1, 2.0, (3.0, 5.0)),  # exactly long enough
        (1, 4.0, (3.0, 7.0)),  # next gives 4 s, previous 5 s
        (2, 3.0, (3.0, 7.0)),  # previous gives 4 s, next 8 s
        (2, 6.0, (0.0, 7.0)),  # previous to [3, 7), then previous 7 s against next 11 s
        (0, 4.0, (0.0, 5.0)),  # at the left border only the next is left
        (3, 6.0, (6.0, 14.0)),  # at the right border only the previous is left
        (0, 99.0, (0.0, 14.0)),  # nothing left to add
    ],
)
def test_clips_grow_by_the_nearer_neighbour(index, min_time, expected) -> None:
    assert grow_clip(SPANS, index, min_time) == Clip(*expected)


def test_growth_prefers_the_previous_on_a_tie() -> None:
    assert grow_clip([(0.0, 1.0), (2.0, 3.0), (4.0, 5.0)], 1, 2.0) == Clip(0.0, 3.0)


def test_clips_of_a_video_with_speech_are_its_segments(make_sample: MakeSample) -> None:
    sample = spoken(make_sample, (4, 6), (1, 3), (4, 6), (5, 5), (19, 25), (30, 31))
    assert video_clips(sample, 5.0) == (Clip(1, 3), Clip(4, 6), Clip(19, 20))


@pytest.mark.parametrize(
    ("duration", "ends"),
    [(6.0, [6]), (10.0, [5, 10]), (12.0, [5, 12]), (12.5, [5, 10, 12.5]), (2.0, [2])],
)
def test_clips_of_a_video_without_speech_are_windows(
    make_sample: MakeSample, duration: float, ends: list[float]
) -> None:
    clips = video_clips(make_sample(0, duration=duration, segments=0), 5.0)
    assert [clip.end for clip in clips] == ends
    assert [clip.start for clip in clips] == [0.0, *ends[:-1]]


def test_drawn_clips_are_grown_segments_once_each(make_sample: MakeSample) -> None:
    sample = spoken(make_sample, *SPANS)
    config = SamplingConfig(clips_per_video=200, min_time=4.0)
    expected = {grow_clip(SPANS, i, 4.0) for i in range(4)}
    drawn = draw_clips(sample, config, np.random.default_rng(0))
    assert len(drawn) == len(expected)
    assert set(drawn) == expected
    official = config.model_copy(update={"deduplicate": False})
    repeated = draw_clips(sample, official, np.random.default_rng(0))
    assert len(repeated) == 200
    assert tuple(dict.fromkeys(repeated)) == drawn


@pytest.mark.parametrize("segments", [0, 3])
def test_windows_are_drawn_where_there_is_no_speech(make_sample: MakeSample, segments) -> None:
    config = SamplingConfig(clips_per_video=500, min_time=3.5, random_windows=segments > 0)
    sample = make_sample(0, duration=6.0, segments=segments)
    drawn = draw_clips(sample, config, np.random.default_rng(0))
    assert sorted(drawn) == [Clip(0.0, 3.5), Clip(1.0, 4.5), Clip(2.0, 5.5)]
    short = make_sample(0, duration=2.0, segments=0)
    assert draw_clips(short, config, np.random.default_rng(0)) == (Clip(0.0, 2.0),)


def test_inputs_are_pooled_per_track(make_sample: MakeSample, make_config: MakeConfig) -> None:
    rows = np.array([[1, 0], [3, 1], [0, 4], [9, 9]], dtype=np.float16)
    sample = replace(
        make_sample(0),
        tracks={
            "a": Track(rows, start=0.5, hop=1.0),
            "b": Track(-rows, start=0.5, hop=1.0),
        },
    )
    config = SamplingConfig(visual_tracks=("a", "b"))
    inputs = clip_inputs(sample, Clip(1.0, 3.0), config, TrackDims((2, 2), 40, 20))
    expected = [
        3 / 5,
        4 / 5,
        0.0,
        -1.0,
    ]  # max of rows 1 and 2 is (3, 4), of their negatives (0, -1)
    np.testing.assert_allclose(inputs.visual, expected, rtol=1e-6)
    assert inputs.visual.dtype == np.float32


def test_sound_starts_with_the_file_and_is_cut(make_sample: MakeSample) -> None:
    sample = make_sample(0)
    audio = sample.tracks["audio"].rows
    inputs = clip_inputs(sample, Clip(0.0, 2.0), SamplingConfig(audio_frames=1000), DIMS)
    np.testing.assert_array_equal(inputs.spectrogram, audio[:200].T.astype(np.float32))
    inputs = clip_inputs(sample, Clip(1.0, 6.0), SamplingConfig(audio_frames=100), DIMS)
    np.testing.assert_array_equal(inputs.spectrogram, audio[100:200].T.astype(np.float32))


def test_text_is_that_of_the_segments_in_the_clip(make_sample: MakeSample) -> None:
    sample = spoken(make_sample, (9, 14), (0, 2), (3, 5))  # not in the order of time
    inputs = clip_inputs(sample, Clip(0.0, 5.0), SamplingConfig(), DIMS)
    np.testing.assert_array_equal(inputs.text, sample.text[[1, 2]].astype(np.float32))
    first = clip_inputs(sample, Clip(0.0, 5.0), SamplingConfig(max_text_rows=1), DIMS)
    np.testing.assert_array_equal(first.text, sample.text[[1]].astype(np.float32))


def test_missing_tracks_are_said_to_be_missing(make_sample: MakeSample) -> None:
    whole = make_sample(0)
    silent = make_sample(0, sound=False, picture=False, segments=0)
    inputs = clip_inputs(silent, Clip(0, 6), SamplingConfig(), DIMS)
    assert inputs.present == {"video": False, "audio": False, "text": False}
    assert (inputs.visual.shape, inputs.spectrogram.shape) == ((40,), (40, 0))
    assert inputs.text.shape == (0, 20)
    half = replace(whole, tracks={"visual_3d": whole.tracks["visual_3d"]})
    inputs = clip_inputs(half, Clip(0, 6), SamplingConfig(), DIMS)
    assert inputs.present == {"video": True, "audio": False, "text": True}
    assert inputs.visual_parts.tolist() == [False, True]
    assert not inputs.visual[:24].any()
    np.testing.assert_allclose(np.linalg.norm(inputs.visual[24:]), 1, rtol=1e-6)


def test_a_track_of_another_width_is_refused(make_sample: MakeSample) -> None:
    with pytest.raises(AbortError, match="video000: track visual_2d has 24 columns, expected 23"):
        clip_inputs(make_sample(0), Clip(0, 6), SamplingConfig(), TrackDims((23, 16), 40, 20))


def test_a_clip_lasts() -> None:
    with pytest.raises(ValueError, match="ends after it starts"):
        Clip(2.0, 2.0)


def word_sample(make_sample: MakeSample) -> VideoSample:
    """Three segments of 2, 0 and 3 words."""
    sample = make_sample(0, segments=3)
    words = np.arange(1, 5 * 20 + 1, dtype=np.float16).reshape(5, 20)
    return replace(sample, text=words, text_offsets=np.array([0, 2, 2, 5]))


def test_words_of_a_clip_are_its_segments_words(make_sample: MakeSample) -> None:
    sample = word_sample(make_sample)
    words = np.arange(1, 5 * 20 + 1, dtype=np.float32).reshape(5, 20)
    assert list(text_offsets(sample)) == [0, 2, 2, 5]
    config = SamplingConfig(max_text_rows=4)
    assert np.array_equal(clip_inputs(sample, Clip(0, 6), config, DIMS).text, words[:4])
    assert np.array_equal(clip_inputs(sample, Clip(3, 6), config, DIMS).text, words[2:])
    silent = clip_inputs(sample, Clip(2.5, 3.5), config, DIMS)
    assert silent.text.shape == (0, 20)
    assert not silent.present["text"]


@pytest.mark.parametrize("offsets", [None, [0, 2, 5], [0, 2, 2, 4], [1, 2, 2, 5]])
def test_text_that_does_not_fit_the_segments_is_refused(
    make_sample: MakeSample, offsets: list[int] | None
) -> None:
    sample = word_sample(make_sample)
    with pytest.raises(AbortError, match=r"text of shape \(5, 20\) for 3 segments"):
        text_offsets(replace(sample, text_offsets=None if offsets is None else np.array(offsets)))
