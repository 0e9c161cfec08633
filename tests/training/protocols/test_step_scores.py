"""training.protocols.step_scores: seconds of real samples against steps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.errors import UsageError
from extractors.tracks import Track
from pipeline.samples import VideoSample
from training.clips import Clip
from training.embedding import embed_sample, unit_rows
from training.localisation_metrics import Overlap
from training.protocols import step_scores
from training.protocols.step_files import AnnotatedVideo
from training.protocols.step_scores import (
    ScoringConfig,
    evaluate_localisation,
    score_seconds,
    second_inputs,
    window_around,
)

CPU = torch.device("cpu")


def test_windows_are_moved_inside_the_video() -> None:
    starts = [window_around(second, 8, 20).start for second in range(20)]
    assert starts == [0, 0, 0, 0, 0, *range(1, 12), 12, 12, 12, 12]
    assert all(window_around(second, 8, 20).end - start == 8 for second, start in enumerate(starts))
    assert window_around(7, 1, 20) == Clip(7, 8)
    assert window_around(2, 8, 5.5) == Clip(0, 5.5)  # all of a short video
    assert window_around(20, 1, 20.4) == Clip(19.4, 20.4)  # the last, begun second


def numbered(duration: int = 20) -> VideoSample:
    """Row i of the picture points to i; the sound of second s is s - 80 dB."""
    picture = np.eye(duration, 24, dtype=np.float32)
    sound = np.repeat(np.arange(duration, dtype=np.float32)[:, None] - 80, 40, axis=1)
    tracks = {
        "visual_2d": Track(picture, start=0.5, hop=1.0),
        "visual_3d": Track(np.ones((duration, 16), np.float32), start=0.5, hop=1.0),
        "audio": Track(sound.repeat(100, axis=0), start=0.005, hop=0.01),
    }
    return VideoSample("v", {"duration": float(duration)}, tracks)


def test_the_picture_of_a_second_and_eight_seconds_of_sound(make_run) -> None:
    run = make_run()
    inputs = list(second_inputs(run, numbered(), 20, ScoringConfig()))
    assert [clip.visual[:24].argmax() for clip in inputs] == list(range(20))
    heard = [(clip.spectrogram.min() + 80, clip.spectrogram.max() + 80) for clip in inputs]
    assert heard[0] == (0, 7)
    assert heard[10] == (6, 13)
    assert heard[19] == (12, 19)
    assert all(clip.spectrogram.shape == (40, 800) for clip in inputs)
    wide = list(second_inputs(run, numbered(), 20, ScoringConfig(visual_seconds=3)))
    assert np.flatnonzero(wide[5].visual[:24]).tolist() == [4, 5, 6]


def test_scores_are_dot_products_of_all_seconds(make_run, make_sample) -> None:
    run = make_run()
    sample = make_sample(0, duration=70.0)  # more seconds than a batch
    steps = unit_rows(np.random.default_rng(0).normal(size=(3, 16)))
    config = ScoringConfig()
    scores = score_seconds(run, sample, steps, 70, config, CPU)
    assert scores.shape == (70, 3)
    assert 1 < np.abs(scores).max() <= 20.001  # cosines over the temperature of 0.05
    silent = replace(sample, tracks={n: t for n, t in sample.tracks.items() if n != "audio"})
    video = score_seconds(run, silent, steps, 70, config, CPU)
    only = score_seconds(run, sample, steps, 70, replace(config, target="video"), CPU)
    np.testing.assert_allclose(video, only, atol=1e-5)
    raw = make_run(model__similarity="raw")
    embedded = embed_sample(raw.model, sample, [Clip(69, 70)], raw.config, CPU)
    by_hand = embedded.vectors["video"] @ steps.T
    last = score_seconds(raw, sample, steps, 70, replace(config, target="video"), CPU)[69]
    np.testing.assert_allclose(last, by_hand[0], rtol=1e-4, atol=1e-5)
    assert np.abs(scores - video).max() > 1e-3
    nothing = replace(sample, tracks={})
    assert not score_seconds(run, nothing, steps, 70, config, CPU).any()


@pytest.fixture
def annotated(tmp_path: Path, make_dataset, make_sample, make_run, monkeypatch):
    """Three videos of which two are annotated, and one annotation without a video. The scores of
    a second are what the test says of it, not the model's."""
    given: dict[str, np.ndarray] = {}
    dataset = make_dataset(tmp_path / "set", [make_sample(i, duration=6.0) for i in range(3)])
    monkeypatch.setattr(step_scores, "load_run", lambda run, device: make_run())
    monkeypatch.setattr(
        step_scores,
        "embed_captions",
        lambda run, names, *_: np.ones((len(names), 16), dtype=np.float32),
    )
    monkeypatch.setattr(step_scores, "score_seconds", lambda run, sample, *_: given[sample.key])
    for name, lines in {
        "1_video000": "1,0,2\n2,4,5\n",
        "1_video001": "2,2,3\n",
        "1_absent": "1,1,2\n",
    }.items():
        (tmp_path / f"{name}.csv").write_text(lines)
    videos = [
        AnnotatedVideo(key, "1", ("a", "b"), str(tmp_path / f"1_{key}.csv"))
        for key in ("video000", "video001", "absent")
    ]
    return dataset, videos, given


def at(*seconds: int) -> np.ndarray:
    """Scores of six seconds that put step k at seconds[k]."""
    scores = np.zeros((6, len(seconds)), dtype=np.float32)
    scores[list(seconds), range(len(seconds))] = 1
    return scores


def test_recall_and_overlap_by_hand(annotated, tmp_path: Path) -> None:
    dataset, videos, given = annotated
    given |= {"video000": at(1, 5), "video001": at(0, 2)}
    found = evaluate_localisation("run", dataset, videos, probs=str(tmp_path / "probs"))
    assert (found.videos, found.absent, found.too_short, found.steps) == (2, 1, 0, 3)
    # video000: a is found, b is a second late; video001: b is found, a does not occur
    assert found.recall_per_video == pytest.approx((1 / 2 + 1) / 2)
    assert found.recall_per_task == pytest.approx(2 / 3)
    assert found.tasks == {"1": found.recall_per_video}
    # of the 15 placements of two steps: a at 0 or 1 in 9, b at 4 in 4; b at 2 in 2
    assert found.chance_per_video == pytest.approx(((9 + 4) / 15 / 2 + 2 / 15) / 2)
    assert found.chance_per_task == pytest.approx((9 + 4 + 2) / 15 / 3)
    # one second: a [1,2) of [0,2), b [5,6) of [4,5); b [2,3) of [2,3)
    assert found.one_second == Overlap(
        pytest.approx((1 / 4 + 1) / 2), pytest.approx((1 / 2 + 1) / 2)
    )
    lines = (tmp_path / "probs" / "video001.probs").read_text().splitlines()
    assert len(lines) == 6
    assert np.exp(np.array(lines[2].split(), dtype=float)).sum() == pytest.approx(1, abs=1e-5)


def test_log_softmax_decides_by_what_sets_steps_apart(annotated) -> None:
    """Second 1 fits both steps well, second 4 fits b alone."""
    dataset, videos, given = annotated
    scores = np.zeros((6, 2), dtype=np.float32)
    scores[0], scores[1], scores[4] = (8, 0), (9, 9), (0, 7)
    given |= {"video000": scores}
    plain = evaluate_localisation("run", dataset, videos[:1])
    softmax = evaluate_localisation("run", dataset, videos[:1], ScoringConfig(log_softmax=True))
    assert plain.recall_per_video == 0.5  # a at 0, b at 1
    assert softmax.recall_per_video == 1.0  # a at 0, b at 4


def test_videos_shorter_than_their_steps_are_all_misses(annotated) -> None:
    dataset, videos, given = annotated
    given |= {"video000": at(1, 4), "video001": np.zeros((6, 7), dtype=np.float32)}
    videos[1] = replace(videos[1], steps=tuple("abcdefg"))
    found = evaluate_localisation("run", dataset, videos)
    assert (found.videos, found.too_short) == (2, 1)
    assert found.recall_per_video == pytest.approx((1 + 0) / 2)
    assert found.one_second.iod == pytest.approx((1 + 0) / 2)


def test_nothing_to_measure_is_an_error(annotated) -> None:
    dataset, videos, _ = annotated
    with pytest.raises(UsageError, match="holds 0 of the 1 annotated videos"):
        evaluate_localisation("run", dataset, videos[2:])
