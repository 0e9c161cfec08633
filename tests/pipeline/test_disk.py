"""Disks that are full, read-only or closed: real ones, mounted small, where the tests may mount."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.shards import shard_numbers
from tests.pipeline.conftest import Outcome, tar_digests

FULL = "No space left on device"


def mount(*arguments: object) -> bool:
    command = ["mount", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB: room for a plan and a shard of two clips or three, not for six."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=96k", "tmpfs", folder):
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def partials(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*.partial")]


def test_a_full_disk_ends_the_run_in_one_line_and_what_is_finished_stays(
    run: Callable[..., Outcome],
    copies: Callable[[int], str],
    settings_file: Path,
    disk: Path,
    tmp_path: Path,
) -> None:
    dataset = disk / "d"
    given = ("run", "extract", "--input", copies(12), "--config", settings_file)
    ended = run(*given, "--output", dataset)
    assert ended.code == 1, ended.err
    (line,) = [line for line in ended.err.splitlines() if FULL in line]
    assert "finished shards are kept" in line
    assert partials(disk) == []
    made = shard_numbers(str(dataset))
    assert 0 < len(made) < 6
    kept = tar_digests(dataset)
    assert mount("-o", "remount,size=8m", disk)
    assert run(*given, "--output", dataset).code == 0
    assert run(*given, "--output", tmp_path / "whole").code == 0
    whole = tar_digests(tmp_path / "whole")
    assert tar_digests(dataset) == whole
    assert {name: whole[name] for name in kept} == kept
    assert run("verify", dataset).code == 0


def test_a_read_only_disk_is_one_line(
    run: Callable[..., Outcome], copies: Callable[[int], str], settings_file: Path, disk: Path
) -> None:
    assert mount("-o", "remount,ro", disk)
    given = ("--config", settings_file, "--output", disk / "d")
    ended = run("run", "extract", "--input", copies(2), *given)
    assert ended.code == 1, ended.err
    assert "Read-only file system" in ended.err
    assert str(disk) in ended.err
    assert "Traceback" not in ended.err
    assert list(disk.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_one_line(
    run: Callable[..., Outcome], copies: Callable[[int], str], settings_file: Path, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    ended = run("run", "extract", "--input", copies(2), "--config", settings_file,
                "--output", closed / "d")  # fmt: skip
    assert ended.code == 1, ended.err
    assert "Permission denied" in ended.err
    assert "Traceback" not in ended.err
