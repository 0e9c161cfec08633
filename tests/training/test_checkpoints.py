"""training.checkpoints: what a run folder holds and how it is read."""

import json
from pathlib import Path

import pytest
import torch

from extractors.errors import AbortError, UsageError
from pipeline import storage
from training import checkpoints
from training.clips import TrackDims
from training.model import Mcn

CPU = torch.device("cpu")
DIMS = TrackDims((24, 16), 40, 20)


def save(run: Path, make_config, step: int = 1, **state: object) -> Mcn:
    config = make_config()
    model = Mcn(config.model, DIMS)
    facts = {
        "format_version": 1,
        "kind": "mcn",
        "config": config.model_dump(mode="json"),
        "dims": {"visual": [24, 16], "audio": 40, "text": 20},
        "dataset_digest": "abc",
        "world_size": 1,
    }
    checkpoints.save_checkpoint(str(run), step, {"model": model.state_dict()} | state, facts)
    return model


def test_a_run_loads_as_it_was_saved(tmp_path: Path, make_config) -> None:
    model = save(tmp_path, make_config)
    run = checkpoints.load_run(str(tmp_path), CPU)
    assert run.config == make_config()
    assert run.model.dims == DIMS
    assert not run.model.training
    weights = run.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_only_the_last_checkpoint_stays(tmp_path: Path, make_config) -> None:
    for step in (1, 2, 30):
        save(tmp_path, make_config, step)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000030.pt"]


def test_a_crash_between_checkpoint_and_card_keeps_the_old_one(
    tmp_path: Path, make_config, monkeypatch
) -> None:
    model = save(tmp_path, make_config, 1)

    def killed(url: str, value: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "publish_json", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, make_config, 2)
    weights = checkpoints.load_run(str(tmp_path), CPU).model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_checkpoints_are_no_pickles_of_code(tmp_path: Path, make_config) -> None:
    save(tmp_path, make_config, evil=Path("x"))
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoints.load_run(str(tmp_path), CPU)


def test_missing_and_foreign_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no card.json"):
        checkpoints.load_run(str(tmp_path), CPU)
    (tmp_path / "card.json").write_text(json.dumps({"format_version": 2, "kind": "mcn"}))
    with pytest.raises(AbortError, match="format 2"):
        checkpoints.load_run(str(tmp_path), CPU)


def test_the_changed_key_is_named(tmp_path: Path, make_config) -> None:
    save(tmp_path, make_config)
    card = checkpoints.read_card(str(tmp_path))
    checkpoints.check_same_run("run", card, make_config(checkpoint_steps=7), "abc", 1)
    with pytest.raises(UsageError, match=r"train.model.embedding_dim was 16 and is now 32"):
        checkpoints.check_same_run("run", card, make_config(model__embedding_dim=32), "abc", 1)
    with pytest.raises(UsageError, match="1 workers, now there are 2"):
        checkpoints.check_same_run("run", card, make_config(), "abc", 2)


def test_runs_live_on_any_file_system(make_config) -> None:
    url = "memory://checkpoint_test/run"
    for step in (1, 2):
        model = save(url, make_config, step)
    run = checkpoints.load_run(url, CPU)
    assert torch.equal(run.model.video.gate.bias, model.video.gate.bias)
    assert storage.names(f"{url}/checkpoints") == ["step_00000002.pt"]
