import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from extractors.config import MotionModelConfig
from extractors.errors import PipelineError
from pipeline.config import ExtractConfig
from pipeline.extract import Todo, plan_extract
from pipeline.run_local import run_local
from tests.pipeline.conftest import command_line, descendants, tar_digests

CPU = torch.device("cpu")


@pytest.fixture
def plan(
    copies: Callable[[int], str], config: ExtractConfig, tmp_path: Path
) -> Callable[..., Todo]:
    """The jobs of a folder of clips."""

    def make(name: str, count: int, settings: ExtractConfig = config) -> Todo:
        return plan_extract(copies(count), str(tmp_path / name), settings)

    return make


def worker_pids() -> list[int]:
    return [pid for pid in descendants(os.getpid()) if "spawn_main" in command_line(pid)]


def test_two_workers_give_the_tars_of_one(
    plan: Callable[..., Todo], config: ExtractConfig, tmp_path: Path
) -> None:
    one = list(run_local(plan("one", 7).jobs, config, CPU, 1))
    two = list(run_local(plan("two", 7).jobs, config, CPU, 2))
    assert [record.number for record in one] == [0, 1, 2, 3]
    assert sorted(record.number for record in two) == [0, 1, 2, 3]
    assert tar_digests(tmp_path / "one") == tar_digests(tmp_path / "two")
    assert worker_pids() == []


def test_a_killed_worker_is_replaced_and_its_job_begun_again(
    plan: Callable[..., Todo], config: ExtractConfig, tmp_path: Path
) -> None:
    records = run_local(plan("killed", 10).jobs, config, CPU, 2)
    found = [next(records)]
    os.kill(worker_pids()[0], signal.SIGKILL)
    found += list(records)
    assert sorted(record.number for record in found) == [0, 1, 2, 3, 4]
    assert worker_pids() == []
    assert [path.name for path in (tmp_path / "killed").rglob(".*")] == []
    list(run_local(plan("whole", 10).jobs, config, CPU, 1))
    assert tar_digests(tmp_path / "killed") == tar_digests(tmp_path / "whole")


def test_one_worker_works_in_this_process_unless_a_run_before_it_died(
    plan: Callable[..., Todo], config: ExtractConfig, tmp_path: Path
) -> None:
    jobs = plan("d", 4).jobs
    records = run_local(jobs, config, CPU, 1)
    next(records)
    assert worker_pids() == []
    records.close()  # type: ignore[attr-defined]  # a generator
    left = tmp_path / "d/attempts/000001.json"
    left.parent.mkdir(exist_ok=True)
    left.write_text('{"run": "of a driver that was killed"}')
    records = run_local(jobs, config, CPU, 1)
    next(records)
    assert len(worker_pids()) == 1
    list(records)
    assert not left.exists()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_weights_that_cannot_load_abort_with_their_own_message(
    plan: Callable[..., Todo], config: ExtractConfig, tmp_path: Path, num_workers: int
) -> None:
    weights = tmp_path / "not.pth"
    weights.write_bytes(b"not weights")
    motion = {"motion": MotionModelConfig(weights=str(weights))}
    settings = config.model_copy(update={"extractors": motion})
    jobs = plan("d", 4, settings).jobs
    weights.unlink()
    with pytest.raises(PipelineError, match=r"not\.pth: no such file"):
        list(run_local(jobs, settings, CPU, num_workers))
    assert worker_pids() == []
    assert not (tmp_path / "d/shards").exists()


def test_a_run_that_is_left_stops_its_workers_at_once(
    plan: Callable[..., Todo], config: ExtractConfig, tmp_path: Path
) -> None:
    records = run_local(plan("left", 10).jobs, config, CPU, 2)
    next(records)
    started = time.monotonic()
    records.close()  # type: ignore[attr-defined]  # a generator
    assert time.monotonic() - started < 15
    assert worker_pids() == []
    assert [path.name for path in (tmp_path / "left/shards").glob(".*")] == []


def test_workers_end_with_a_driver_that_was_killed(
    start: Callable[..., object], copies: Callable[[int], str], settings_file: Path, tmp_path: Path
) -> None:
    from tests.pipeline.conftest import Running

    running = start("run", "extract", "--input", copies(30), "--output", tmp_path / "d",
                    "--config", settings_file, "--workers", 2)  # fmt: skip
    assert isinstance(running, Running)
    running.wait_until(lambda: len(list((tmp_path / "d/shards").glob("*_stats.json"))) > 0)
    below = descendants(running.process.pid)
    # a worker's child has its name for a moment, until it becomes ffmpeg
    assert sum("spawn_main" in command_line(pid) for pid in below) >= 2
    running.kill()
    deadline = time.monotonic() + 20
    while any("spawn_main" in command_line(p) or "ffmpeg" in command_line(p) for p in below):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [path.name for path in (tmp_path / "d/shards").glob(".*")] == []
