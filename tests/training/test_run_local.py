"""training.run_local: several processes make the run of one, and survive being killed."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from extractors.errors import AbortError, UsageError
from training.checkpoints import load_state, read_card
from training.config import TrainConfig
from training.loop import TrainProgress, train
from training.run_local import check_gpus, is_reporter, share_of_cores, train_local

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


def final_state(run: Path) -> dict:
    card = read_card(str(run))
    assert card is not None
    assert card["finished"]
    return load_state(str(run), card, CPU)


def rows(run: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "clips_per_second"} for line in lines]


def tensors(tree: dict, prefix: str = "") -> dict[str, object]:
    """The leaves of a state by their path."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= tensors(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def assert_close(a: Path, b: Path, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Two runs that added the same numbers in another order.

    One rounding of float32 is 6e-8; over these steps the ranks' sums were seen to differ by 1e-6
    of a loss and 1e-6 of a weight. A term of the wrong weight moves a loss by 1e-2 and Adam's
    steps, of 1e-3 each, by as much as they are.
    """
    for row_a, row_b in zip(rows(a), rows(b), strict=True):
        assert row_a == pytest.approx(row_b, rel=rtol, abs=atol)
    for part in ("model", "clustering"):
        expected = final_state(b)[part]
        for name, value in final_state(a)[part].items():
            torch.testing.assert_close(value, expected[name], rtol=rtol, atol=atol)


def assert_identical(a: Path, b: Path) -> None:
    """Bit for bit, the optimiser and the queue included."""
    assert rows(a) == rows(b)
    states = [tensors(final_state(run)) for run in (a, b)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, states[1][name]), name
        else:
            assert value == states[1][name], name


@pytest.fixture(scope="module")
def dataset(make_dataset, make_sample, tmp_path_factory) -> str:
    """16 videos to train on, two of them silent and two without speech, and 4 to validate on."""
    odd = {1: {"sound": False}, 2: {"segments": 0}, 9: {"sound": False}, 10: {"segments": 0}}
    videos = [make_sample(i, **odd.get(i, {})) for i in range(16)]
    videos += [make_sample(i, split="validation") for i in range(16, 20)]
    return make_dataset(tmp_path_factory.mktemp("data") / "set", videos)


@pytest.fixture(scope="module")
def config(make_config: Callable[..., TrainConfig]) -> TrainConfig:
    """Micro-batches and a learned temperature too; 20 steps, a checkpoint every third."""
    return make_config(
        epochs=10,
        checkpoint_steps=3,
        checkpoint_epochs=100,
        sampling__batch_videos=7,
        sampling__clips_per_video=3,
        model__learn_temperature=True,
        optimiser__microbatch_clips=9,
    )


@pytest.fixture(scope="module")
def two_workers(dataset: str, config: TrainConfig, tmp_path_factory) -> Path:
    """A run by two processes, never stopped."""
    run: Path = tmp_path_factory.mktemp("local") / "two"
    seen: list[TrainProgress] = []
    metrics = train_local(dataset, str(run), config, CPU, 2, seen.append)
    assert [progress.step for progress in seen] == list(range(1, 21))
    assert metrics == read_card(str(run))["metrics"]
    assert "validation_recall" in metrics
    return run


def test_two_workers_make_the_run_of_one(two_workers: Path, dataset, config, tmp_path) -> None:
    train_local(dataset, str(tmp_path / "one"), config, CPU, 1)
    assert_close(two_workers, tmp_path / "one")
    assert read_card(str(two_workers))["world_size"] == 2


def test_a_run_may_go_on_with_fewer_workers(
    two_workers: Path, dataset: str, config: TrainConfig, tmp_path: Path, caplog
) -> None:
    run = tmp_path / "run"
    run.mkdir()

    def stop(progress: TrainProgress) -> None:
        if progress.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataset, str(run), config, CPU, stop)
    card = json.loads((run / "card.json").read_text())
    (run / "card.json").write_text(json.dumps(card | {"world_size": 2}))
    with caplog.at_level("INFO", "training"):
        train(dataset, str(run), config, CPU)
    assert "by 1 workers instead of 2" in caplog.text
    assert_close(run, two_workers)


def command(dataset: str, run: Path, settings: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", *more, "pipeline", "run", "train", "--device", "cpu"),
        *("--dataset", dataset, "--output", str(run), "--config", str(settings)),
    ]


def settings_file(config: TrainConfig, folder: Path) -> Path:
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump({"train": config.model_dump(mode="json")}))
    return path


def step_of(run: Path) -> int:
    card = read_card(str(run))
    return 0 if card is None else card["step"]


def test_killed_at_a_random_step_a_run_comes_back_bit_for_bit(
    two_workers: Path, dataset: str, config: TrainConfig, tmp_path: Path
) -> None:
    """kill -9 of all processes at once, by the command line, then the same command again."""
    run, rng = tmp_path / "run", np.random.default_rng()
    target, pause = int(rng.integers(1, 15)), float(rng.uniform(0, 0.1))
    again = [*command(dataset, run, settings_file(config, tmp_path)), "--workers", "2"]
    process = subprocess.Popen(
        again,
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while step_of(run) < target and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(pause)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < step_of(run) < 20, (target, pause)
    done = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "resuming after step" in done.stderr
    assert_identical(run, two_workers)


@pytest.mark.slow
def test_torchrun_makes_the_same_run(two_workers: Path, dataset, config, tmp_path) -> None:
    settings, run = settings_file(config, tmp_path), tmp_path / "run"
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    done = subprocess.run(
        command(dataset, run, settings, *launcher), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Trained to") == 1
    assert_identical(run, two_workers)


@pytest.mark.slow
def test_a_worker_that_fails_ends_the_run(
    make_dataset, make_sample, make_config, tmp_path: Path
) -> None:
    """One of two ranks has the broken video; the message names both ranks' videos."""
    videos = [make_sample(i) for i in range(4)]
    videos[2].tracks["visual_2d"].rows[:] = np.nan
    broken = make_dataset(tmp_path / "broken", videos)
    with pytest.raises(AbortError, match="step 1: the loss is nan") as caught:
        train_local(broken, str(tmp_path / "run"), make_config(), CPU, 2)
    assert all(f"video{i:03d}" in str(caught.value) for i in range(4))


@pytest.mark.slow
def test_a_killed_worker_is_reported(dataset: str, make_config, tmp_path: Path) -> None:
    def kill_one(progress: TrainProgress) -> None:
        if progress.step == 5:
            multiprocessing.active_children()[0].kill()

    with pytest.raises(AbortError, match="a training process died"):
        train_local(dataset, str(tmp_path / "run"), make_config(epochs=500), CPU, 2, kill_one)
    assert multiprocessing.active_children() == []


def test_cores_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    assert [share_of_cores(n) for n in (1, 2, 4, 7)] == [6, 3, 1, 1]


def test_wrong_workers_are_refused(dataset, make_config, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    check_gpus(CPU, 8)
    check_gpus(torch.device("cuda"), 1)
    with pytest.raises(UsageError, match="--workers 2: this machine has 1 GPUs"):
        check_gpus(torch.device("cuda"), 2)
    with pytest.raises(AbortError, match="batches of 1 videos for"):
        _as_if_of_two(lambda: train(dataset, str(tmp_path), _one(make_config), CPU), monkeypatch)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="torchrun has started the workers already"):
        train_local(dataset, str(tmp_path), make_config(), CPU, 2)


def _one(make_config: Callable[..., TrainConfig]) -> TrainConfig:
    return make_config(sampling__batch_videos=1)


def _as_if_of_two(call: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.distributed.world", lambda: (0, 2))
    call()


def test_rank_zero_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("RANK", "1")
    assert is_reporter()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not is_reporter()
    monkeypatch.setenv("RANK", "0")
    assert is_reporter()
