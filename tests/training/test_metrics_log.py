"""training.metrics_log: metrics.jsonl of a run that stops and goes on."""

import importlib.machinery
import json
import sys
import types
from pathlib import Path

import pytest

from extractors.errors import UsageError
from training.config import TrainConfig
from training.metrics_log import MetricsLog, check_wandb


def steps(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_rows_after_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    log = MetricsLog(str(tmp_path), first_step=1, config=TrainConfig())
    for step in (1, 2, 3):
        log.write(step, 0, {"loss": step / 2})
    log.publish()
    log.write(4, 0, {"loss": 2.0})  # never published: the process is killed here
    log.close()
    assert steps(tmp_path) == [1, 2, 3]
    resumed = MetricsLog(
        str(tmp_path), first_step=3, config=TrainConfig()
    )  # the checkpoint was at step 2
    resumed.write(3, 0, {"loss": 9.0})
    resumed.publish()
    resumed.close()
    assert steps(tmp_path) == [1, 2, 3]
    last = (tmp_path / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last) == {"step": 3, "epoch": 0, "loss": 9.0}


def test_a_remote_run_has_no_tensorboard(tmp_path: Path) -> None:
    log = MetricsLog("memory://metrics_log_test/run", first_step=1, config=TrainConfig())
    log.write(1, 0, {"loss": 1.0})
    log.publish()
    log.close()
    again = MetricsLog("memory://metrics_log_test/run", first_step=2, config=TrainConfig())
    again.write(2, 0, {"loss": 1.0})
    again.close()
    assert len(again._lines) == 2


def test_wandb_logs_where_it_is_asked_for(tmp_path: Path, monkeypatch) -> None:
    """Against a stand-in for the package: what it is told, and when."""
    said: list[tuple] = []
    wandb = types.ModuleType("wandb")
    wandb.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    wandb.init = lambda **settings: said.append(("init", settings)) or wandb
    wandb.log = lambda values, step: said.append(("log", step, values))
    wandb.finish = lambda: said.append(("finish",))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config = TrainConfig(wandb_project="clips")
    check_wandb(config.wandb_project)
    for first_step in (1, 2):
        log = MetricsLog(str(tmp_path / "run"), first_step, config)
        log.write(first_step, 0, {"loss": 1.5})
        log.close()
    assert [call[0] for call in said] == ["init", "log", "finish"] * 2
    started = said[0][1]
    assert (started["project"], started["name"], started["resume"]) == ("clips", "run", "allow")
    assert said[3][1]["id"] == started["id"]  # the same run again
    assert said[1] == ("log", 1, {"train/loss": 1.5})


def test_wandb_must_be_installed(monkeypatch) -> None:
    monkeypatch.setattr("training.metrics_log.find_spec", lambda name: None)
    check_wandb(None)
    with pytest.raises(UsageError, match="the package wandb is not installed; pip install wandb"):
        check_wandb("clips")
