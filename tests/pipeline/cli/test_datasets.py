from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.conftest import Outcome, numbered_copies


@pytest.fixture
def dataset(run: Callable[..., Outcome], clip: Path, settings_file: Path, tmp_path: Path) -> Path:
    """Two shards, one failed video."""
    numbered_copies(clip, tmp_path / "videos", 2)
    (tmp_path / "videos/empty.mp4").touch()
    options = ("--input", tmp_path / "videos", "--output", tmp_path / "d")
    assert run("run", "extract", *options, "--config", settings_file).code == 3
    return tmp_path / "d"


def test_status(run: Callable[..., Outcome], dataset: Path) -> None:
    outcome = run("status", dataset)
    assert outcome.code == 0
    for text in ("2 of 2", "3 of 3", "failed: empty_file"):
        assert text in outcome.out
    (dataset / "shards/000001_stats.json").unlink()
    assert "1 of 2" in run("status", dataset).out


def test_verify(run: Callable[..., Outcome], dataset: Path) -> None:
    good = run("verify", dataset)
    assert good.code == 0
    assert "every shard is what its record says" in good.err
    (dataset / "shards/000000.tar").write_bytes(b"tampered")
    bad = run("verify", dataset)
    assert bad.code == 1
    first, last = bad.err.splitlines()
    assert "shards/000000.tar: sha256 is" in first
    assert last.endswith("1 problem; `pipeline verify --fix` mends what it can")


def test_verify_fix_restores_rows_and_has_damaged_tars_made_again(
    run: Callable[..., Outcome], dataset: Path
) -> None:
    parquet, record = dataset / "shards/000000.parquet", dataset / "shards/000000_stats.json"
    rows = parquet.read_bytes()
    parquet.write_bytes(rows[:50])
    assert "written anew out of the manifest" in run("verify", dataset, "--fix").err
    assert parquet.read_bytes() == rows
    assert run("verify", dataset).code == 0
    tar = dataset / "shards/000000.tar"
    content = bytearray(tar.read_bytes())
    content[2000] ^= 1
    tar.write_bytes(content)
    assert "its record is withdrawn" in run("verify", dataset, "--fix").err
    assert not record.exists()


def test_inspect(run: Callable[..., Outcome], dataset: Path) -> None:
    outcome = run("inspect", dataset / "shards/000000.tar")
    assert outcome.code == 0
    assert "clip000" in outcome.out
    assert "colour 4x3" in "".join(outcome.out.split("\n"))
    for wrong in (dataset / "shards/000007.tar", dataset / "plan.parquet", "000000.tar"):
        outcome = run("inspect", wrong)
        assert outcome.code == 2
        assert "not a published shard" in outcome.err


def test_weights(run: Callable[..., Outcome]) -> None:
    listed = run("weights", "list")
    assert listed.code == 0
    assert "resnet152" in listed.out
    unknown = run("weights", "fetch", "huge")
    assert unknown.code == 2
    assert "'huge': not in the registry" in unknown.err
