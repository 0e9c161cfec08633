"""training.loop: it learns, stops, goes on, and says what it did."""

import functools
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from extractors.errors import AbortError, UsageError
from training.checkpoints import load_state, read_card
from training.config import TrainConfig
from training.loop import TrainProgress, train

CPU = torch.device("cpu")

MakeConfig = Callable[..., TrainConfig]


class StopError(Exception):
    """Stands for a killed process."""


def stop_at(step: int) -> Callable[[TrainProgress], None]:
    def on_progress(progress: TrainProgress) -> None:
        if progress.step == step:
            raise StopError

    return on_progress


def equal(a: object, b: object) -> bool:
    """Bit for bit, through nested dicts and lists."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def final_state(run: Path) -> dict:
    card = read_card(str(run))
    assert card is not None
    return load_state(str(run), card, CPU)


def rows(run: Path) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k != "clips_per_second"} for line in lines
    ]


@pytest.fixture(scope="module")
def uninterrupted(dataset: str, make_config: MakeConfig, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("loop") / "run"
    train(dataset, str(run), make_config(), CPU)
    return run


def test_a_run_leaves_what_it_should(uninterrupted: Path, dataset: str, make_config) -> None:
    names = sorted(path.name for path in uninterrupted.iterdir())
    assert names == ["card.json", "checkpoints", "config.yaml", "metrics.jsonl", "tensorboard"]
    assert [path.name for path in (uninterrupted / "checkpoints").iterdir()] == ["step_00000008.pt"]
    card = json.loads((uninterrupted / "card.json").read_text())
    assert card["finished"] is True
    assert (card["step"], card["total_steps"], card["epoch"]) == (8, 8, 2)
    assert card["dims"] == {"visual": [24, 16], "audio": 40, "text": 20}
    assert card["videos"] == 16
    assert card["config"] == make_config().model_dump(mode="json")
    assert [row["step"] for row in rows(uninterrupted)] == list(range(1, 9))
    last = rows(uninterrupted)[4:]
    for name, value in card["metrics"].items():
        assert value == pytest.approx(np.mean([row[name] for row in last]))


def test_tensorboard_shows_the_losses(uninterrupted: Path) -> None:
    events = EventAccumulator(str(uninterrupted / "tensorboard")).Reload()
    logged = {event.step: event.value for event in events.Scalars("train/loss")}
    assert logged == pytest.approx({row["step"]: row["loss"] for row in rows(uninterrupted)})


@pytest.mark.parametrize("steps", [(1,), (3,), (4,), (5, 7)])
def test_resuming_is_bit_for_bit(
    uninterrupted: Path, dataset: str, make_config, tmp_path: Path, steps: tuple[int, ...]
) -> None:
    """Checkpoints are at 2, 4, 6, 8: stops lie before the first, between, and on one."""
    run = tmp_path / "run"
    for step in steps:
        with pytest.raises(StopError):
            train(dataset, str(run), make_config(), CPU, stop_at(step))
        torch.manual_seed(step)  # another process would not be in the same state
    metrics = train(dataset, str(run), make_config(), CPU)
    assert equal(final_state(run), final_state(uninterrupted))
    assert rows(run) == rows(uninterrupted)
    assert metrics == json.loads((uninterrupted / "card.json").read_text())["metrics"]


def test_settings_that_change_no_number_may_change(
    uninterrupted: Path, dataset: str, make_config, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(StopError):
        train(dataset, str(run), make_config(), CPU, stop_at(3))
    train(dataset, str(run), make_config(sampling__cache_megabytes=0, checkpoint_steps=3), CPU)
    assert equal(final_state(run)["model"], final_state(uninterrupted)["model"])


def test_a_finished_run_is_left_alone(
    uninterrupted: Path, dataset: str, make_config, caplog: pytest.LogCaptureFixture
) -> None:
    before = (uninterrupted / "card.json").stat().st_mtime_ns
    steps: list[int] = []
    with caplog.at_level(logging.INFO):
        metrics = train(
            dataset, str(uninterrupted), make_config(), CPU, lambda p: steps.append(p.step)
        )
    assert steps == []
    assert "finished after 8 steps" in caplog.text
    assert metrics == json.loads((uninterrupted / "card.json").read_text())["metrics"]
    assert (uninterrupted / "card.json").stat().st_mtime_ns == before


def test_other_settings_or_data_are_refused(
    uninterrupted: Path, dataset: str, make_config, make_dataset, make_sample, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"train.optimiser.lr was 0.001 and is now 0.01"):
        train(dataset, str(uninterrupted), make_config(optimiser__lr=0.01), CPU)
    other = make_dataset(tmp_path / "other", [make_sample(i) for i in range(4)])
    with pytest.raises(UsageError, match="was trained on dataset"):
        train(other, str(uninterrupted), make_config(), CPU)


def test_six_videos_train(
    tmp_path: Path, make_dataset, make_sample, make_config, caplog: pytest.LogCaptureFixture
) -> None:
    six = make_dataset(tmp_path / "six", [make_sample(i) for i in range(6)])
    config = make_config(
        sampling__batch_videos=128, clustering__clusters=256, sampling__clips_per_video=32
    )
    progress: list[TrainProgress] = []
    with caplog.at_level(logging.INFO):
        train(six, str(tmp_path / "run"), config, CPU, progress.append)
    said = [record.message for record in caplog.records if "training videos" in record.message]
    assert said == [
        "6 training videos: batches of 6 videos (configured: 128), k-means with 3 clusters "
        "(configured: 256)"
    ]
    assert [p.step for p in progress] == [1, 2]
    assert all(np.isfinite(list(p.losses.values())).all() for p in progress)
    assert "clustering" in progress[0].losses


def test_progress_is_reported(dataset: str, tmp_path: Path, make_config) -> None:
    seen: list[TrainProgress] = []
    config = make_config(epochs=5)
    train(dataset, str(tmp_path / "run"), config, CPU, seen.append)
    assert [p.step for p in seen] == list(range(1, 21))
    assert {p.total_steps for p in seen} == {20}
    assert [p.lr for p in seen][:3] == pytest.approx([0.0005, 0.001, 0.001])
    assert all(p.clips_per_second > 0 for p in seen)
    weights = {"clustering": 1.0, "reconstruction": 1.0}
    for p in seen:
        parts = sum(weights.get(k, 1.0) * v for k, v in p.losses.items() if k != "loss")
        assert p.losses["loss"] == pytest.approx(parts, rel=1e-5)


def test_a_loss_that_is_not_finite_stops_and_names_the_videos(
    tmp_path: Path, make_dataset, make_sample, make_config
) -> None:
    videos = [make_sample(i) for i in range(4)]
    videos[2].tracks["visual_2d"].rows[:] = np.nan
    broken = make_dataset(tmp_path / "broken", videos)
    with pytest.raises(AbortError, match=r"step 1: the loss is nan.*video002"):
        train(broken, str(tmp_path / "run"), make_config(), CPU)
    assert read_card(str(tmp_path / "run")) is None


OFFICIAL = {
    "sampling__deduplicate": False,
    "sampling__padding_decibel": 0.0,
    "model__mask_padding": False,
    "model__similarity": "raw",
    "loss__ignore_overlaps": False,
    "loss__detach_targets": False,
    "clustering__metric": "cosine_mean",
    "clustering__empty_clusters": "zero",
    "clustering__keep_centroids": False,
    "clustering__partial_queue": False,
}


@pytest.fixture(scope="module")
def official(dataset: str, make_config, tmp_path_factory) -> Callable[..., dict[str, float]]:
    """Trains with the official settings but those named, which are mended."""

    @functools.cache
    def run(*mended: str) -> dict[str, float]:
        settings = {k: v for k, v in OFFICIAL.items() if k not in mended}
        # eight clusters of some eight clips: several run empty
        config = make_config(clustering__clusters=8, sampling__audio_frames=600, **settings)
        return train(dataset, str(tmp_path_factory.mktemp("official") / "run"), config, CPU)

    return run


def test_the_official_behaviour_trains(official: Callable[..., dict[str, float]]) -> None:
    metrics = official()
    assert all(np.isfinite(list(metrics.values())))


@pytest.mark.parametrize("setting", OFFICIAL)
def test_no_mended_setting_is_idle(official: Callable[..., dict[str, float]], setting) -> None:
    assert official(setting) != official()


@pytest.mark.parametrize(
    "changes",
    [
        {"loss__clustering_weight": 0.0},
        {"loss__reconstruction_weight": 0.0},
        {"loss__clustering_on": "fused"},
        {"model__learn_temperature": True},
        {"optimiser__name": "adamw", "optimiser__max_gradient_norm": 0.1},
        {"clustering__metric": "euclidean", "clustering__queue_rows": 0},
        {"sampling__random_windows": True},
        {"sampling__visual_tracks": ["visual_2d"]},
    ],
)
def test_options_train(dataset: str, tmp_path: Path, make_config, changes: dict) -> None:
    metrics = train(dataset, str(tmp_path / "run"), make_config(epochs=1, **changes), CPU)
    assert ("clustering" in metrics) == ("loss__clustering_weight" not in changes)
    assert ("reconstruction" in metrics) == ("loss__reconstruction_weight" not in changes)


def test_datasets_without_speech_or_sound_train(
    tmp_path: Path, make_dataset, make_sample, make_config
) -> None:
    for name, lacking in (("mute", {"segments": 0}), ("silent", {"sound": False})):
        videos = [make_sample(i, **lacking) for i in range(6)]
        lacking_set = make_dataset(tmp_path / name, videos)
        metrics = train(lacking_set, str(tmp_path / f"run_{name}"), make_config(), CPU)
        pairs = [key for key in metrics if key.startswith("mms")]
        assert pairs == (["mms_audio_video"] if name == "mute" else ["mms_text_video"])
