import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from extractors.errors import AbortError, UsageError
from pipeline.config import ExtractConfig
from pipeline.dataset import write_dataset_card
from pipeline.verify import verify_dataset
from tests.pipeline.conftest import numbered_copies
from tests.pipeline.test_extract import extract


@pytest.fixture(scope="module")
def made(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two shards."""
    from extractors.config import MeanColourConfig

    folder = tmp_path_factory.mktemp("verify")
    numbered_copies(clip, folder / "videos", 3)
    config = ExtractConfig(
        videos_per_shard=2, extractors={"colour": MeanColourConfig()}, speech=None, text=None
    )
    extract(str(folder / "videos"), str(folder / "d"), config)
    return folder / "d"


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made, tmp_path / "d"))


def test_a_dataset_as_it_was_made_has_no_problems(dataset: Path) -> None:
    assert verify_dataset(str(dataset)) == []


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def restamp(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


SPOILS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "tampered tar": (
        lambda d: flip(d / "shards/000001.tar"),
        ["shards/000001.tar: sha256 is ", "its record says "],
    ),
    "tampered parquet": (
        lambda d: flip(d / "shards/000000.parquet"),
        ["shards/000000.parquet: sha256 is "],
    ),
    "missing tar": (
        lambda d: (d / "shards/000000.tar").unlink(),
        ["shards/000000.tar: missing"],
    ),
    "missing parquet": (
        lambda d: (d / "shards/000000.parquet").unlink(),
        ["shards/000000.parquet: missing"],
    ),
    "missing shard": (
        lambda d: (d / "shards/000001_stats.json").unlink(),
        ["shard 000001: planned, not made yet"],
    ),
    "missing manifest": (
        lambda d: (d / "manifest.parquet").unlink(),
        ["manifest.parquet: missing"],
    ),
    "broken manifest": (
        lambda d: (d / "manifest.parquet").write_bytes(b"text"),
        ["manifest.parquet: cannot be read"],
    ),
    "stale manifest": (
        lambda d: pq.write_table(
            pq.read_table(d / "manifest.parquet").slice(1), d / "manifest.parquet"
        ),
        ["manifest.parquet: does not list"],
    ),
    "other settings": (
        lambda d: write_dataset_card(str(d), ExtractConfig(speech=None)),
        ["shard 000000: made of other videos or settings"],
    ),
    "another count": (
        lambda d: restamp(d / "shards/000000_stats.json", count=7),
        ["shard 000000: its tar, parquet and record list different videos"],
    ),
}


@pytest.mark.parametrize("name", SPOILS)
def test_a_spoilt_dataset_is_told_apart(dataset: Path, name: str) -> None:
    spoil, expected = SPOILS[name]
    spoil(dataset)
    problems = verify_dataset(str(dataset))
    assert all("\n" not in problem for problem in problems)
    assert all(text in problems[0] for text in expected)
    assert len(problems) == (2 if name == "other settings" else 1)


def test_a_tar_whose_content_differs_from_its_rows(dataset: Path) -> None:
    tar, other = dataset / "shards/000000.tar", dataset / "shards/000001.tar"
    shutil.copy(other, tar)
    digest = json.loads((dataset / "shards/000001_stats.json").read_text())["tar_sha256"]
    restamp(dataset / "shards/000000_stats.json", tar_sha256=digest)
    (problem,) = verify_dataset(str(dataset))
    assert "different videos" in problem


def test_a_cut_tar_is_told_in_one_line(dataset: Path) -> None:
    from pipeline.shards import sha256_of

    tar = dataset / "shards/000000.tar"
    tar.write_bytes(tar.read_bytes()[:2000])
    restamp(dataset / "shards/000000_stats.json", tar_sha256=sha256_of(tar))
    (problem,) = verify_dataset(str(dataset))
    assert "000000" in problem
    assert "\n" not in problem


def test_leftovers_of_a_killed_run_are_no_problem(dataset: Path) -> None:
    (dataset / "shards/.000002.tar.abc.partial").write_bytes(b"half")
    assert verify_dataset(str(dataset)) == []


def test_what_is_no_dataset(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(UsageError, match="not a dataset"):
        verify_dataset(str(tmp_path))
    (dataset / "dataset.json").write_text("{")
    with pytest.raises(AbortError, match=r"dataset\.json: not JSON"):
        verify_dataset(str(dataset))
