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


def save(
    run: Path,
    make_config,
    step: int = 1,
    keep_last: int = 1,
    loss: float | None = None,
    **state: object,
) -> Mcn:
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
    checkpoints.save_checkpoint(
        str(run),
        step,
        {"model": model.state_dict()} | state,
        facts,
        keep_last=keep_last,
        score=None if loss is None else checkpoints.Score("loss", loss),
    )
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


def test_the_last_and_the_best_stay(tmp_path: Path, make_config) -> None:
    """Losses by step; a step without one was not at the end of an epoch."""
    losses = {1: 3.0, 2: None, 3: 1.0, 4: 2.0, 5: None, 6: 1.0}
    models = {}
    for step, loss in losses.items():
        torch.manual_seed(step)
        models[step] = save(tmp_path, make_config, step, keep_last=2, loss=loss)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [f"step_{step:08d}.pt" for step in (3, 5, 6)]
    card = checkpoints.read_card(str(tmp_path))
    assert card["best"] == {
        "checkpoint": "step_00000003.pt",
        "step": 3,
        "measure": "loss",
        "value": 1.0,
    }
    for which, step in (("best", 3), ("last", 6)):
        run = checkpoints.load_run(str(tmp_path), CPU, which)
        assert torch.equal(run.model.video.gate.bias, models[step].video.gate.bias)
    card["config"]["use_checkpoint"] = "best"
    (tmp_path / "card.json").write_text(json.dumps(card))
    run = checkpoints.load_run(str(tmp_path), CPU)
    assert torch.equal(run.model.video.gate.bias, models[3].video.gate.bias)


def test_a_score_beats_what_is_worse_by_the_same_measure() -> None:
    before = {"measure": "validation_recall", "value": 0.5}
    assert checkpoints.Score("validation_recall", 0.6).beats(before)
    assert not checkpoints.Score("validation_recall", 0.5).beats(before)
    assert checkpoints.Score("loss", 9.0).beats(before)  # the videos to validate on are gone
    assert checkpoints.Score("loss", 9.0).beats({"loss": 1.0})  # an older card


def test_without_a_best_one_the_last_must_do(tmp_path: Path, make_config) -> None:
    save(tmp_path, make_config)
    with pytest.raises(UsageError, match="kept no best checkpoint"):
        checkpoints.load_run(str(tmp_path), CPU, "best")


def test_what_a_killed_run_left_is_no_newest_checkpoint(tmp_path: Path, make_config) -> None:
    """Killed between a checkpoint and its card, the run goes on from the one before."""
    save(tmp_path, make_config, 2, keep_last=2)
    (tmp_path / "checkpoints" / "step_00000004.pt").write_bytes(b"")
    save(tmp_path, make_config, 3, keep_last=2)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_00000002.pt", "step_00000003.pt"]


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
    checkpoints.check_same_run("run", card, make_config(checkpoint_steps=7), "abc")
    with pytest.raises(UsageError, match=r"train.model.embedding_dim was 16 and is now 32"):
        checkpoints.check_same_run("run", card, make_config(model__embedding_dim=32), "abc")


def test_runs_live_on_any_file_system(make_config) -> None:
    url = "memory://checkpoint_test/run"
    for step in (1, 2):
        model = save(url, make_config, step)
    run = checkpoints.load_run(url, CPU)
    assert torch.equal(run.model.video.gate.bias, model.video.gate.bias)
    assert storage.names(f"{url}/checkpoints") == ["step_00000002.pt"]
