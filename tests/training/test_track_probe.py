"""training.track_probe: what is linear is found, nothing else is, and C is chosen on training."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extractors.config import LogMelConfig, MeanColourConfig
from extractors.errors import UsageError
from extractors.tracks import Track
from pipeline.config import ExtractConfig
from pipeline.dataset import write_dataset_card
from pipeline.samples import VideoSample
from training import track_probe
from training.probe_config import ProbeConfig
from training.protocols.split_tables import SplitTable, dataset_splits
from training.track_probe import (
    ClipRows,
    choose_c,
    evaluate_tracks,
    group_folds,
    uniform_rows,
)

LABELS, COLUMNS, PER_LABEL = 3, 4, 16
FAST = ProbeConfig(c=(0.1,))


def make_video(number: int) -> VideoSample:
    """`colour` tells the label in every row, weakly; `noise` tells nothing. Video 0 has no sound
    and video 1 two rows."""
    rng = np.random.default_rng((3, number))
    rows = 2 if number == 1 else 12
    centre = 1.2 * np.eye(COLUMNS)[number % LABELS]
    tracks = {
        "colour": Track(
            (centre + rng.normal(size=(rows, COLUMNS))).astype(np.float16), start=0.5, hop=1.0
        ),
        "noise": Track(rng.normal(size=(20, COLUMNS)).astype(np.float16), start=0.5, hop=1.0),
    }
    if number == 0:
        del tracks["noise"]
    meta = {
        "uri": f"{number}.mp4",
        "duration": 12.0,
        "label": f"label{number % LABELS}",
        "split": "train" if number < LABELS * PER_LABEL // 2 else "test",
        "tracks": {name: {"start": t.start, "hop": t.hop} for name, t in tracks.items()},
    }
    return VideoSample(f"video{number:03d}", meta, tracks)


@pytest.fixture(scope="module")
def labelled(make_dataset: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("labelled") / "set"
    dataset = make_dataset(folder, [make_video(i) for i in range(LABELS * PER_LABEL)])
    tracks = {"colour": MeanColourConfig(), "noise": LogMelConfig()}
    write_dataset_card(dataset, ExtractConfig(extractors=tracks, speech=None, text=None))
    return dataset


def table(halves: int = 2, extra: int = 0) -> SplitTable:
    """Each half of the videos is tested once; `extra` videos are not in the dataset."""
    count = LABELS * PER_LABEL + extra
    keys = tuple(f"video{i:03d}" for i in range(count))
    labels = np.array([f"label{i % LABELS}" for i in range(count)])
    half = np.arange(count) // LABELS % 2
    parts = {str(i + 1): np.where(half == i, "test", "train") for i in range(halves)}
    return SplitTable(keys, labels, np.array(keys), parts)


def test_every_track_and_measure_over_all_splits(labelled: str) -> None:
    found = evaluate_tracks(labelled, table(extra=2), config=FAST)
    assert (found.labelled, found.absent) == (50, 2)
    assert found.without == {"colour": 0, "noise": 1}
    assert set(found.fingerprints) == {"colour", "noise"}
    named = {(row.features, row.measure): row for row in found.rows}
    measures = ("logistic", "svm", "nearest 1", "nearest 5", "nearest 10")
    assert list(named) == [(track, name) for track in ("colour", "noise") for name in measures]
    for (track, measure), row in named.items():
        assert [split.split for split in row.splits] == ["1", "2"]
        assert row.accuracy == pytest.approx(np.mean([s.accuracy for s in row.splits]))
        first = row.splits[0]
        clips = (24 * 10 - 8) if track == "colour" else 23 * 10
        assert (first.classes, first.train_videos) == (3, 24)
        assert (first.test_videos, first.test_clips) == (24 if track == "colour" else 23, clips)
        if measure in ("logistic", "svm"):
            assert (first.chance, first.c) == (1 / 3, 0.1)
            assert first.clip_accuracy is not None
        else:
            assert first.clip_accuracy is None
    for measure in ("logistic", "svm"):
        split = named["colour", measure].splits[0]
        assert split.accuracy > 0.9
        assert split.clip_accuracy is not None
        assert split.clip_accuracy < split.accuracy  # the mean over ten clips helps
        assert named["noise", measure].accuracy < 0.6
    nearest = named["noise", "nearest 1"]
    assert nearest.accuracy < 0.6
    assert nearest.splits[0].chance == pytest.approx(1 / 3, abs=0.01)
    assert named["colour", "nearest 1"].accuracy > 0.8
    assert named["colour", "nearest 10"].splits[0].chance > 0.9


def test_the_same_again_and_what_changes_it(labelled: str) -> None:
    first = evaluate_tracks(labelled, table(), ["colour"], FAST)
    assert evaluate_tracks(labelled, table(), ["colour"], FAST) == first
    features = evaluate_tracks(labelled, table(), ["colour"], replace(FAST, average="features"))
    assert features.rows[0].splits[0].train_clips == 24
    assert features.rows[0].splits[0].accuracy == features.rows[0].splits[0].clip_accuracy > 0.9
    every = evaluate_tracks(labelled, table(), ["colour"], replace(FAST, clips=0))
    assert every.rows[0].splits[0].test_clips == 23 * 12 + 2
    few = evaluate_tracks(labelled, table(), ["colour"], replace(FAST, labels=6))
    assert few.rows[0].splits[0].train_videos == 6
    assert few.rows[0].accuracy < first.rows[0].accuracy


def test_the_split_that_the_dataset_holds(labelled: str, monkeypatch) -> None:
    """Its parquets here have no labels: they stand in for them as extraction writes them."""
    rows = [make_video(i) for i in range(LABELS * PER_LABEL)]
    told = [{"key": v.key} | {name: v.meta[name] for name in ("label", "split")} for v in rows]
    monkeypatch.setattr("training.protocols.split_tables.read_all_rows", lambda dataset: told)
    (row, *_) = evaluate_tracks(labelled, dataset_splits(labelled), ["colour"], FAST).rows
    assert [split.split for split in row.splits] == ["split"]
    assert row.deviation == 0.0
    assert row.accuracy > 0.9


def test_uniform_rows() -> None:
    rows = np.arange(12)[:, None]
    assert uniform_rows(rows, 3)[:, 0].tolist() == [2, 6, 10]
    assert uniform_rows(rows, 1)[:, 0].tolist() == [6]
    for count in (0, 12, 20):
        assert uniform_rows(rows, count) is rows


def two_labels(seed: int, flipped: int) -> ClipRows:
    """60 videos of one clip in 40 columns, of which one tells the label; some labels are wrong."""
    rng = np.random.default_rng(seed)
    label = np.arange(60) % 2
    rows = rng.normal(size=(60, 40)).astype(np.float32)
    rows[:, 0] += 3 * label
    label[:flipped] = 1 - label[:flipped]
    names = np.array(["cat", "dog"])[label]
    return ClipRows(rows, np.arange(60), names, np.arange(60).astype(str))


def test_c_is_chosen_by_held_out_training_videos() -> None:
    config = ProbeConfig(c=(1e-6, 0.003, 100.0))
    train = two_labels(0, flipped=8)
    assert choose_c("svm", train, config) == 0.003  # one learns nothing, one the wrong labels
    assert choose_c("svm", train, replace(config, c=(100.0,))) == 100.0
    same = replace(config, c=(3.0, 0.2))  # what is easy is right with any: the lowest
    assert choose_c("svm", replace(train, rows_ND=train.label_V[:, None] == "cat"), same) == 0.2


def test_c_is_not_chosen_by_copies_of_what_was_learned() -> None:
    """Groups of two equal videos with random labels: apart, any C would look perfect."""
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(40, 60)), 2, axis=0).astype(np.float32)
    label = np.repeat(np.array(["cat", "dog"])[rng.integers(0, 2, 40)], 2)
    group = np.repeat(np.arange(40), 2).astype(str)
    together = ClipRows(rows, np.arange(80), label, group)
    config, seen = ProbeConfig(c=(0.01, 10.0)), []
    original = track_probe._fit_and_score

    def noted(classifier, c, train, test):
        accuracy = original(classifier, c, train, test)
        seen.append(accuracy[0])
        return accuracy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(track_probe, "_fit_and_score", noted)
        choose_c("svm", together, config)
        assert np.mean(seen) < 0.65
        seen.clear()
        choose_c("svm", replace(together, group_V=np.arange(80).astype(str)), config)
        assert np.mean(seen) > 0.7  # two of three copies are learned from


def test_parts_are_of_whole_groups_and_of_every_label() -> None:
    label = np.repeat(["a", "b", "c"], [12, 6, 2])
    group = np.array([f"{name}{i // 2}" for i, name in enumerate(label)])
    fold = group_folds(label, group, 3, seed=0)
    for name in np.unique(group):
        assert len(set(fold[group == name])) == 1
    for name in "ab":
        assert set(fold[label == name]) == {0, 1, 2}
    assert (np.bincount(fold) >= 6).all()


def test_wrong_use_is_refused(labelled: str) -> None:
    with pytest.raises(UsageError, match="no track 'mel'; there are: colour, noise"):
        evaluate_tracks(labelled, table(), ["mel"], FAST)
    other = replace(table(), keys=tuple(f"x{i}" for i in range(LABELS * PER_LABEL)))
    with pytest.raises(UsageError, match="holds none of the 48 labelled videos, as x0"):
        evaluate_tracks(labelled, other, config=FAST)
    with pytest.raises(UsageError, match="60 labels wanted, 24 training videos"):
        evaluate_tracks(labelled, table(), ["colour"], replace(FAST, labels=60))
    lonely = replace(table(), parts={"1": np.array(["test"] + ["train"] * 47)})  # a silent one
    with pytest.raises(UsageError, match="split 1: no video to test has track noise"):
        evaluate_tracks(labelled, lonely, ["noise"], FAST)


def test_a_missing_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a dataset"):
        evaluate_tracks(str(tmp_path), table(), config=FAST)
