"""training.official_checkpoints: released files as runs, runs as released files, a start."""

from pathlib import Path

import pytest
import torch

from extractors.errors import AbortError, UsageError
from training.checkpoints import load_run, read_card
from training.clips import TrackDims
from training.embedding import embed_text
from training.model import Mcn, build_model
from training.official_checkpoints import (
    export_checkpoint,
    import_checkpoint,
    read_official,
    start_from,
)
from training.official_names import to_official
from training.sampling import ClipSampler, open_training_set
from training.steps import start_training

CPU = torch.device("cpu")
DIMS = TrackDims((20, 20), 40, 20)
OFFICIAL = {"model__similarity": "raw", "model__mask_padding": False}


@pytest.fixture
def released(tmp_path: Path, make_config) -> tuple[str, Mcn]:
    torch.manual_seed(3)
    model = build_model(make_config(**OFFICIAL), DIMS)
    torch.save(to_official(model.state_dict()), tmp_path / "e9.pth")
    return str(tmp_path / "e9.pth"), model


def test_a_released_checkpoint_becomes_a_run_and_goes_back(
    tmp_path: Path, released, make_config
) -> None:
    file, model = released
    run = str(tmp_path / "run")
    import_checkpoint(file, run, make_config(model__embedding_dim=4))
    loaded = load_run(run, CPU)
    assert loaded.config.model == make_config(**OFFICIAL).model
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)
    words = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    expected = model.eval().embed_text(words[None])[0].detach()
    torch.testing.assert_close(torch.from_numpy(embed_text(loaded.model, words.numpy())), expected)
    assert read_card(run)["finished"]
    count = export_checkpoint(run, str(tmp_path / "back.pth"))
    before, after = read_official(file), read_official(str(tmp_path / "back.pth"))
    assert before.keys() == after.keys()
    assert count == len(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    with pytest.raises(UsageError, match="holds a run already"):
        import_checkpoint(file, run, make_config())


def test_without_decoders_there_is_no_reconstruction(tmp_path: Path, make_config) -> None:
    model = build_model(make_config(loss__reconstruction_weight=0.0, **OFFICIAL), DIMS)
    torch.save(to_official(model.state_dict()), tmp_path / "e9.pth")
    import_checkpoint(str(tmp_path / "e9.pth"), str(tmp_path / "run"), make_config())
    assert load_run(str(tmp_path / "run"), CPU).config.loss.reconstruction_weight == 0


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AbortError, match="no such file"):
        read_official(str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(AbortError, match="not a PyTorch state dict"):
        read_official(str(tmp_path / "text.pth"))
    torch.save({"net": {"a": torch.ones(1)}}, tmp_path / "amp.pth")
    with pytest.raises(AbortError, match="take the `net` part"):
        read_official(str(tmp_path / "amp.pth"))
    torch.save({"a": Path}, tmp_path / "code.pth")
    with pytest.raises(AbortError, match="not a PyTorch state dict"):
        read_official(str(tmp_path / "code.pth"))


def test_training_starts_from_a_released_checkpoint(dataset: str, tmp_path: Path, make_config):
    """The dataset's picture is 24 + 16 columns wide, the file's 20 + 20: the same weights."""
    torch.manual_seed(3)
    model = build_model(make_config(**OFFICIAL), DIMS)
    file = str(tmp_path / "e9.pth")
    torch.save(to_official(model.state_dict()), file)
    config = make_config(init=file, clustering__method="sinkhorn", **OFFICIAL)
    training_set = open_training_set(dataset, config.sampling)
    training = start_training(training_set, ClipSampler(training_set, config), config, CPU)
    started = training.model.state_dict()
    assert all(torch.equal(started[name], value) for name, value in model.state_dict().items())
    assert any(name.startswith("heads.") for name in started)


def test_a_start_of_another_size_is_refused_by_name(released, make_config) -> None:
    file, _ = released
    other = build_model(make_config(model__embedding_dim=12, **OFFICIAL), DIMS)
    with pytest.raises(UsageError, match=r"first names that differ: video.linear.weight, "):
        start_from(file, other.state_dict())
