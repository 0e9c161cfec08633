import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from extractors.config import MeanColourConfig
from extractors.errors import UsageError
from pipeline import storage
from pipeline.config import ExtractConfig
from pipeline.dataset import write_dataset_card
from pipeline.doctor import diagnose, repair
from pipeline.lease import holding
from pipeline.verify import verify_dataset
from tests.pipeline.conftest import numbered_copies
from tests.pipeline.test_extract import extract
from tests.pipeline.test_verify import restamp

CONFIG = ExtractConfig(
    videos_per_shard=2, extractors={"colour": MeanColourConfig()}, speech=None, text=None
)
DEAD_PID = 2**22 + 1  # beyond what Linux gives


@pytest.fixture(scope="module")
def made(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two shards; its videos lie beside it."""
    folder = tmp_path_factory.mktemp("doctor")
    numbered_copies(clip, folder / "videos", 3)
    extract(str(folder / "videos"), str(folder / "d"), CONFIG)
    return folder / "d"


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made, tmp_path / "d"))


def found(dataset: Path) -> list[tuple[str, str]]:
    return [(finding.severity, finding.what) for finding in diagnose(str(dataset))]


def test_a_healthy_dataset(dataset: Path) -> None:
    assert diagnose(str(dataset), check_sources=True) == []


def add_shard(dataset: Path, number: int) -> None:
    """A copy of shard 0 under another number."""
    for suffix in (".tar", ".parquet", "_stats.json"):
        name = f"shards/{number:06d}{suffix}"
        shutil.copy(dataset / f"shards/000000{suffix}", dataset / name)
    restamp(dataset / f"shards/{number:06d}_stats.json", number=number)


def same_file_twice(dataset: Path) -> None:
    path = dataset / "shards/000000.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[1] |= {"content_id": rows[0]["content_id"], "split": "test"}
    rows[0] |= {"split": "train"}
    pq.write_table(pq.read_table(path).from_pylist(rows, schema=pq.read_schema(path)), path)


def planned_twice(dataset: Path) -> None:
    plan = pq.read_table(dataset / "plan.parquet")
    pq.write_table(plan.take([0, 1, 2, 0]), dataset / "plan.parquet")


def other_settings(dataset: Path) -> None:
    config = CONFIG.model_copy(update={"extractors": {"colour": MeanColourConfig(rate=2)}})
    write_dataset_card(str(dataset), config)


def forget(dataset: Path, name: str) -> None:
    (dataset / name).unlink()


SPOILS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "gap": (
        lambda d: [forget(d, f"shards/000001{s}") for s in (".tar", ".parquet", "_stats.json")],
        "error",
        "1 shards were planned and never made: 000001",
    ),
    "no plan": (lambda d: add_shard(d, 7), "error", "1 shards are of no plan: 000007"),
    "key twice": (lambda d: add_shard(d, 7), "error", "2 keys are there twice: clip000, clip001"),
    "file twice": (
        same_file_twice,
        "warning",
        "1 files are there under several keys: clip000 = clip001",
    ),
    "planned twice": (planned_twice, "error", "plan.parquet: 1 keys are planned twice: clip000"),
    "no record": (
        lambda d: forget(d, "shards/000001_stats.json"),
        "warning",
        "1 shards have files but no record: 000001",
    ),
    "no tar": (
        lambda d: forget(d, "shards/000001.tar"),
        "error",
        "1 records are there without their tar: 000001",
    ),
    "no parquet": (
        lambda d: forget(d, "shards/000001.parquet"),
        "error",
        "shards/000001.parquet: missing",
    ),
    "broken record": (
        lambda d: (d / "shards/000001_stats.json").write_text("{"),
        "error",
        "000001_stats.json: not a shard's record",
    ),
    "stranger": (
        lambda d: (d / "shards/notes.txt").touch(),
        "note",
        "1 files in shards/ are not of a shard: notes.txt",
    ),
    "other settings": (
        other_settings,
        "error",
        "2 shards were made by other settings: 000000, 000001",
    ),
    "other videos": (
        lambda d: restamp(d / "shards/000001_stats.json", job="x"),
        "error",
        "1 shards are of other videos than the plan says: 000001",
    ),
    "old record": (
        lambda d: restamp(d / "shards/000001_stats.json", format_version=99),
        "error",
        "000001_stats.json: format version 99",
    ),
    "broken parquet": (
        lambda d: (d / "shards/000001.parquet").write_bytes(b"PAR1 no"),
        "error",
        "shards/000001.parquet: cannot be read",
    ),
    "old card": (
        lambda d: restamp(d / "dataset.json", format_version=99),
        "error",
        "dataset.json: format version 99",
    ),
    "no manifest": (
        lambda d: forget(d, "manifest.parquet"),
        "warning",
        "manifest.parquet: missing",
    ),
    "broken manifest": (
        lambda d: (d / "manifest.parquet").write_bytes(b""),
        "warning",
        "manifest.parquet: cannot be read",
    ),
    "no lease": (
        lambda d: (d / "run.json").write_text("{}"),
        "warning",
        "run.json: not a run's lease",
    ),
}


@pytest.mark.parametrize("name", SPOILS)
def test_each_fault_is_told_with_what_to_do(dataset: Path, name: str) -> None:
    spoil, severity, what = SPOILS[name]
    spoil(dataset)
    findings = diagnose(str(dataset))
    (finding,) = [finding for finding in findings if what in finding.what]
    assert finding.severity == severity
    assert finding.why
    assert finding.todo
    order = [finding.severity for finding in findings]
    assert order == sorted(order, key=["error", "warning", "note"].index)


def test_other_settings_are_named(dataset: Path) -> None:
    other_settings(dataset)
    (finding,) = (f for f in diagnose(str(dataset)) if "other settings" in f.what)
    assert "colour: rate changed from" in finding.why


def test_copies_in_several_splits_are_told(dataset: Path) -> None:
    same_file_twice(dataset)
    (finding,) = (f for f in diagnose(str(dataset)) if "several keys" in f.what)
    assert "1 of them lie in several splits" in finding.why


def test_gone_videos_are_looked_for_when_asked(clip: Path, tmp_path: Path) -> None:
    numbered_copies(clip, tmp_path / "videos", 2)
    extract(str(tmp_path / "videos"), str(tmp_path / "d"), CONFIG)
    (tmp_path / "videos/clip001.mp4").unlink()
    assert diagnose(str(tmp_path / "d")) == []
    (finding,) = diagnose(str(tmp_path / "d"), check_sources=True)
    assert finding.what == "1 of 2 videos are gone from their place: clip001"


def dead_temporary(dataset: Path) -> Path:
    path = dataset / f"shards/.000009.tar.{storage.host()}-{DEAD_PID}.{'a' * 16}.partial"
    path.write_bytes(b"half")
    return path


def dead_lease(dataset: Path) -> None:
    with holding(str(dataset)):
        lease = json.loads((dataset / "run.json").read_text())
    (dataset / "run.json").write_text(json.dumps(lease | {"pid": DEAD_PID}))


def test_fix_does_what_is_safe_and_nothing_else(dataset: Path) -> None:
    partial = dead_temporary(dataset)
    dead_lease(dataset)
    (dataset / "manifest.parquet").unlink()
    (dataset / "shards/notes.txt").touch()
    before = {path.name: path.read_bytes() for path in (dataset / "shards").iterdir()}
    fixed = {f.what.split()[0]: f.fixed for f in repair(diagnose(str(dataset)))}
    assert fixed["run.json:"] == "run.json removed"
    assert fixed["manifest.parquet:"] == "manifest.parquet written anew, of 2 shards"
    assert not partial.exists()
    after = {path.name: path.read_bytes() for path in (dataset / "shards").iterdir()}
    assert after == {name: content for name, content in before.items() if name != partial.name}
    assert found(dataset) == [("note", "1 files in shards/ are not of a shard: notes.txt")]
    assert verify_dataset(str(dataset)) == []


def test_what_a_living_run_is_doing_is_left_alone(dataset: Path) -> None:
    name = f".000009.tar.{storage.host()}-{os.getpid()}.{'b' * 16}.partial"
    (dataset / "shards" / name).write_bytes(b"half")
    (dataset / "manifest.parquet").unlink()
    (dataset / "shards/000001_stats.json").unlink()
    with holding(str(dataset)):
        findings = repair(diagnose(str(dataset)))
        assert (dataset / "run.json").exists()
    assert {finding.severity for finding in findings} == {"note"}
    assert not any(finding.fixed for finding in findings)
    assert (dataset / "shards" / name).exists()
    assert not (dataset / "manifest.parquet").exists()


def test_a_manifest_is_not_made_of_what_cannot_be_read(dataset: Path) -> None:
    (dataset / "shards/000001.parquet").write_bytes(b"PAR1 no")
    before = (dataset / "manifest.parquet").read_bytes()
    repair(diagnose(str(dataset)))
    assert (dataset / "manifest.parquet").read_bytes() == before


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a dataset"):
        diagnose(str(tmp_path))


def test_doctor_command(run: Callable[..., object], dataset: Path) -> None:
    assert "nothing is wrong" in run("doctor", dataset).err
    (dataset / "manifest.parquet").unlink()
    outcome = run("doctor", dataset)
    assert outcome.code == 0  # a warning
    assert "to do: `--fix` writes it anew" in outcome.out
    (listed,) = json.loads(run("doctor", dataset, "--json").out)
    assert (listed["severity"], listed["fixable"]) == ("warning", True)
    assert "fixed: manifest.parquet written anew" in run("doctor", dataset, "--fix").out
    add_shard(dataset, 7)
    outcome = run("doctor", dataset, "--fix")
    assert outcome.code == 1
    assert "errors" in outcome.err


def test_fix_restores_a_parquet_byte_for_byte(dataset: Path) -> None:
    parquet = dataset / "shards/000001.parquet"
    before = parquet.read_bytes()
    parquet.write_bytes(before[:100])
    repair(diagnose(str(dataset)))
    assert parquet.read_bytes() == before
    assert found(dataset) == []


def test_fix_rewrites_a_manifest_that_says_it_is_right(dataset: Path) -> None:
    manifest = dataset / "manifest.parquet"
    table = pq.read_table(manifest)
    pq.write_table(table.slice(1), manifest)  # its digest of the records stays
    assert any("written anew" in finding.fixed for finding in repair(diagnose(str(dataset))))
    assert pq.read_table(manifest).equals(table)


def test_a_manifest_is_not_made_without_a_shard_whose_record_is_damaged(dataset: Path) -> None:
    (dataset / "shards/000001_stats.json").write_text("{")
    before = (dataset / "manifest.parquet").read_bytes()
    repair(diagnose(str(dataset)))
    assert (dataset / "manifest.parquet").read_bytes() == before
