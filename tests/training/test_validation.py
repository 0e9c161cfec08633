"""training.validation: videos that are not trained on, measured epoch by epoch."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from extractors.errors import AbortError, UsageError
from training import checkpoints
from training.config import TrainConfig
from training.evaluation import evaluate_retrieval
from training.loop import train
from training.sampling import open_training_set
from training.validation import load_validation_clips, validate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, make_dataset, make_sample) -> str:
    """16 videos to train on, 8 to validate on by two names, 4 to test on, 4 of another split."""
    splits = ["train"] * 16 + ["validation"] * 4 + ["val"] * 4 + ["test"] * 4 + ["unused"] * 4
    videos = [make_sample(i, split=split) for i, split in enumerate(splits)]
    return make_dataset(tmp_path_factory.mktemp("validation") / "set", videos)


@pytest.fixture(scope="module")
def run(dataset: str, tmp_path_factory, make_config) -> str:
    """Four epochs, a checkpoint every other one."""
    folder = str(tmp_path_factory.mktemp("validation") / "run")
    config = make_config(
        epochs=4, checkpoint_epochs=2, checkpoint_steps=1000, sampling__split="train"
    )
    train(dataset, folder, config, CPU)
    return folder


def test_splits_are_kept_apart(dataset: str, make_config) -> None:
    def keys(**changes: object) -> tuple[list[int], list[int]]:
        found = open_training_set(dataset, make_config(**changes).sampling)
        trained = [int(video.key.removeprefix("video")) for video in found.videos]
        return trained, [int(video.key.removeprefix("video")) for video in found.validation]

    assert keys() == ([*range(16), *range(28, 32)], list(range(16, 24)))
    assert keys(sampling__split="train") == (list(range(16)), list(range(16, 24)))
    assert keys(sampling__split="val") == (list(range(20, 24)), list(range(16, 20)))
    with pytest.raises(
        AbortError, match=r"of a split 'all'; splits of .*: test, train, unused, val,"
    ):
        keys(sampling__split="all")


def test_every_checkpoint_of_an_epoch_is_measured(run: str) -> None:
    lines = (Path(run) / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "validation_recall" in row]
    assert [(row["step"], row["epoch"]) for row in rows] == [(8, 1), (16, 3)]
    card = checkpoints.read_card(run)
    assert card is not None
    assert card["metrics"]["validation_recall"] == rows[-1]["validation_recall"]
    best = max(rows, key=lambda row: row["validation_recall"])  # of equals the first
    assert card["best"] == {
        "checkpoint": f"step_{best['step']:08d}.pt",
        "step": best["step"],
        "measure": "validation_recall",
        "value": best["validation_recall"],
    }


def test_a_finished_run_may_choose_the_best(dataset: str, run: str) -> None:
    card = checkpoints.read_card(run)
    assert card is not None
    config = TrainConfig.model_validate(card["config"])
    for which in ("best", "last"):
        train(dataset, run, config.model_copy(update={"use_checkpoint": which}), CPU)
        changed = checkpoints.read_card(run)
        assert changed == {**card, "config": {**card["config"], "use_checkpoint": which}}
        assert f"use_checkpoint: {which}" in (Path(run) / "config.yaml").read_text()


def test_it_is_the_recall_of_evaluation(
    tmp_path: Path, make_config, make_dataset, make_sample
) -> None:
    """A run's last figures against `evaluate_retrieval` of its last checkpoint."""
    videos = [make_sample(i, split="train" if i < 16 else "validation") for i in range(24)]
    source = make_dataset(tmp_path / "set", videos)
    metrics = train(source, str(tmp_path / "run"), make_config(), CPU)
    rows = evaluate_retrieval(str(tmp_path / "run"), source, "validation", window=2.0)
    assert len(rows) == 7
    for row in rows:
        expected = sum(row.metrics.recall.values()) / 3
        found = metrics[f"validation_recall_{row.query}_to_{row.target}"]
        assert found == pytest.approx(expected, abs=1e-9)


def test_only_so_many_clips_are_kept(dataset: str, make_config) -> None:
    config = make_config(validation_clips=5)
    training_set = open_training_set(dataset, config.sampling)
    assert len(load_validation_clips(training_set, config)) == 5
    assert len(load_validation_clips(training_set, make_config())) == 16  # two segments a video


def test_measuring_changes_nothing(dataset: str, run: str) -> None:
    loaded = checkpoints.load_run(run, CPU)
    loaded.model.train()
    clips = load_validation_clips(open_training_set(dataset, loaded.config.sampling), loaded.config)
    before, rng = deepcopy(loaded.model.state_dict()), torch.get_rng_state()
    first = validate(loaded.model, clips, loaded.config, CPU)
    assert validate(loaded.model, clips, loaded.config, CPU) == first
    assert loaded.model.training
    assert torch.equal(torch.get_rng_state(), rng)
    after = loaded.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert validate(loaded.model, [], loaded.config, CPU) == {}


def test_the_best_needs_to_be_kept(dataset: str, tmp_path: Path, make_config) -> None:
    config = make_config(use_checkpoint="best", keep_best=False)
    with pytest.raises(UsageError, match="no best checkpoint is kept"):
        train(dataset, str(tmp_path / "run"), config, CPU)
