"""training.run_ray: the run of one process, made by workers of Ray Train."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from extractors.errors import AbortError, UsageError
from training.checkpoints import load_state, read_card
from training.config import TrainConfig
from training.loop import TrainProgress, train
from training.run_local import train_local
from training.run_ray import train_ray

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One cluster for this file: starting it takes longer than training."""
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, handler)


def weights(run: Path) -> dict[str, torch.Tensor]:
    card = read_card(str(run))
    assert card is not None
    return load_state(str(run), card, CPU)["model"]


def test_two_workers_make_the_run_of_one_process(
    cluster: None, dataset: str, make_config: Callable[..., TrainConfig], tmp_path: Path, capfd
) -> None:
    """Sums in another order: equal to 1e-4 of a weight's size (measured: 1e-6)."""
    config, seen = make_config(), list[TrainProgress]()
    metrics = train_ray(dataset, str(tmp_path / "ray"), config, CPU, 2, seen.append)
    alone = train(dataset, str(tmp_path / "alone"), config, CPU)
    assert metrics == pytest.approx(alone, rel=1e-4)
    expected = weights(tmp_path / "alone")
    for name, weight in weights(tmp_path / "ray").items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5)
    card = read_card(str(tmp_path / "ray"))
    assert card is not None
    assert (card["world_size"], card["finished"]) == (2, True)
    assert seen[-1].step == seen[-1].total_steps == 8
    assert not (tmp_path / "ray" / ".ray").exists()
    assert capfd.readouterr() == ("", "")


def kill_worker_at(step: int, killed: list[int]) -> Callable[[TrainProgress], None]:
    """Kills one process of a training worker once the run has come so far."""

    def on_progress(progress: TrainProgress) -> None:
        if progress.step < step or killed:
            return
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                name = (folder / "cmdline").read_text()
            except OSError:
                continue
            if name.startswith("ray::") and "TrainWorker" in name:
                os.kill(int(folder.name), signal.SIGKILL)
                killed.append(progress.step)
                return

    return on_progress


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_worker_comes_back(cluster: None, dataset: str, make_config, tmp_path) -> None:
    config = make_config(epochs=15, checkpoint_steps=5, checkpoint_epochs=100)
    killed: list[int] = []
    train_ray(dataset, str(tmp_path / "killed"), config, CPU, 2, kill_worker_at(12, killed))
    assert killed
    assert killed[0] < 60
    train_local(dataset, str(tmp_path / "whole"), config, CPU, 2)
    expected = weights(tmp_path / "whole")
    for name, weight in weights(tmp_path / "killed").items():
        assert torch.equal(weight, expected[name]), name


@pytest.mark.slow
def test_errors_end_the_run_at_once(
    cluster: None, make_dataset, make_sample, make_config, tmp_path: Path
) -> None:
    videos = [make_sample(i) for i in range(4)]
    videos[2].tracks["visual_2d"].rows[:] = np.nan
    broken = make_dataset(tmp_path / "broken", videos)
    with pytest.raises(AbortError, match=r"step 1: the loss is nan.*video002"):
        train_ray(broken, str(tmp_path / "run"), make_config(), CPU, 2)
    good = make_dataset(tmp_path / "good", [make_sample(i) for i in range(4)])
    train(good, str(tmp_path / "other"), make_config(), CPU)
    with pytest.raises(UsageError, match=r"train.seed was 1 and is now 2"):
        train_ray(good, str(tmp_path / "other"), make_config(seed=2), CPU, 2)
