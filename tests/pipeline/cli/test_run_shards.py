"""`run extract --shards`: several processes on one dataset's folder, as tasks of an array are."""

import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.dataset import read_all_rows
from pipeline.lease import read_lease
from pipeline.shard_range import ShardRange, range_url
from pipeline.verify import verify_dataset
from tests.pipeline.conftest import Outcome, Running, tar_digests

Extract = Callable[..., Outcome]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tmp_path / "d"


@pytest.fixture
def settings(settings_file: Path) -> tuple[object, ...]:
    return ("--config", settings_file)


def contents(dataset: Path) -> dict[str, bytes]:
    """All that must be alike, whoever made it."""
    names = ["plan.parquet", "dataset.json", "config.yaml", "manifest.parquet"]
    shards = [*dataset.glob("shards/*.tar"), *dataset.glob("shards/*.parquet")]
    paths = [*(dataset / name for name in names), *shards]
    return {str(path.relative_to(dataset)): path.read_bytes() for path in sorted(paths)}


def finish(running: Running) -> tuple[int, str]:
    _, errors = running.process.communicate(timeout=120)
    return running.process.returncode, errors


def test_ranges_side_by_side_make_what_one_run_makes(
    run: Callable[..., Outcome],
    start: Callable[..., Running],
    copies: Callable[[int], str],
    settings: tuple[object, ...],
    dataset: Path,
    tmp_path: Path,
) -> None:
    source = copies(12)
    (Path(source) / "x_text.mp4").write_text("this is no video\n" * 50)
    whole = ("run", "extract", "--input", source, *settings, "--output")
    planned = run(*whole, dataset, "--plan-only")
    assert (planned.code, planned.out) == (0, "7\n")
    assert "7 shards planned, 7 of them to be made" in planned.err
    ranged = ("run", "extract", "--output", dataset, *settings, "--shards")
    first, second = start(*ranged, "0:3"), start(*ranged, "3:")
    together = False
    while first.process.poll() is None and second.process.poll() is None:
        leases = [read_lease(range_url(str(dataset), r))
                  for r in (ShardRange(0, 3), ShardRange(3, None))]  # fmt: skip
        together = together or all(lease is not None and lease.valid for lease in leases)
        time.sleep(0.01)
    assert together
    ends = [finish(first), finish(second)]
    assert [code for code, _ in ends] == [0, 3], ends  # the failed video is in the second
    (fault,) = verify_dataset(str(dataset))
    assert "manifest.parquet: missing" in fault  # a run without a range publishes it
    closed = run(*whole, dataset)
    assert closed.code == 3
    assert "7 shards (13 videos) are up to date and kept" in closed.err
    assert not (dataset / "ranges").exists()
    assert run(*whole, tmp_path / "whole").code == 3
    assert contents(dataset) == contents(tmp_path / "whole")


def test_overlapping_ranges_damage_nothing(
    run: Callable[..., Outcome],
    start: Callable[..., Running],
    copies: Callable[[int], str],
    settings: tuple[object, ...],
    dataset: Path,
    tmp_path: Path,
) -> None:
    """One that starts later is refused; one that takes over makes the same shards at the same
    time, and what either publishes is whole."""
    whole = ("run", "extract", "--input", copies(24), *settings, "--output")
    assert run(*whole, dataset, "--plan-only").code == 0
    ranged = ("run", "extract", "--output", dataset, *settings, "--shards")
    first = start(*ranged, "0:9")
    first.wait_until(lambda: len(tar_digests(dataset)) >= 1)
    refused = run(*ranged, "8:12")
    assert refused.code == 1
    (line,) = refused.err.splitlines()
    assert "another run works on its shards 0:9" in line
    assert "--take-over" in line
    assert run(*ranged, "0:12", "--take-over").code == 0
    code, errors = finish(first)
    assert code == 0, errors
    assert run(*whole, dataset).code == 0
    assert verify_dataset(str(dataset)) == []
    assert run(*whole, tmp_path / "whole").code == 0
    assert contents(dataset) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_task_that_was_killed_is_closed_over(
    run: Callable[..., Outcome],
    start: Callable[..., Running],
    copies: Callable[[int], str],
    settings: tuple[object, ...],
    dataset: Path,
) -> None:
    whole = ("run", "extract", "--input", copies(24), *settings, "--output", dataset)
    assert run(*whole, "--plan-only").code == 0
    task = start("run", "extract", "--output", dataset, *settings, "--shards", "2:12")
    task.wait_until(lambda: len(tar_digests(dataset)) >= 1)
    assert "another run works on its shards 2:12" in run(*whole).err
    task.kill()
    assert run(*whole).code == 0
    assert (
        len(read_all_rows(str(dataset))) == pq.read_metadata(dataset / "manifest.parquet").num_rows
    )
    assert len(read_all_rows(str(dataset))) == 24
    assert verify_dataset(str(dataset)) == []
    assert {path.name for path in dataset.iterdir()}.isdisjoint({"ranges", "run.json"})


def test_failed_videos_of_a_range_are_tried_again(
    run: Callable[..., Outcome],
    copies: Callable[[int], str],
    settings: tuple[object, ...],
    dataset: Path,
) -> None:
    source = Path(copies(2))
    for name in ("x_text.mp4", "y_text.mp4", "z_text.mp4"):
        (source / name).write_text("this is no video\n" * 50)
    assert run("run", "extract", "--input", source, *settings, "--output", dataset).code == 3
    ranged = ("run", "extract", "--output", dataset, *settings, "--retry-failed", "--shards")
    assert run(*ranged, "2:").code == 3
    attempts = {row["key"]: row["attempts"] for row in read_all_rows(str(dataset))}
    assert {key: n for key, n in attempts.items() if "text" in key} == {
        "x_text": 1, "y_text": 1, "z_text": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "--input: which videos? It is needed but with --shards"),
        (("--shards", "0:1", "--input", "v"), "leave out --input, --plan-only, --prune"),
        (("--shards", "0:1", "--prune"), "leave out --input, --plan-only, --prune"),
        (("--shards", "0:1", "--plan-only"), "leave out --input, --plan-only, --prune"),
        (("--plan-only", "--input", "v", "--drop-failed"), "--plan-only: makes no shard"),
        (("--shards", "1"), "--shards 1: expected A:B"),
        (("--shards", "0:1"), "has no plan yet"),
    ],
)
def test_wrong_usage_is_one_line_and_writes_nothing(
    run: Callable[..., Outcome], dataset: Path, more: tuple[str, ...], message: str
) -> None:
    outcome = run("run", "extract", "--output", dataset, *more)
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert message in line
    assert not dataset.exists()


def test_a_range_outside_of_the_plan(
    run: Callable[..., Outcome],
    copies: Callable[[int], str],
    settings: tuple[object, ...],
    dataset: Path,
) -> None:
    whole = ("run", "extract", "--input", copies(3), *settings, "--output", dataset)
    assert run(*whole, "--plan-only").code == 0
    outcome = run("run", "extract", "--output", dataset, *settings, "--shards", "2:4")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert (
        f"--shards 2:4: none of these is planned; the plan of {dataset} has the shards 0:2" in line
    )
