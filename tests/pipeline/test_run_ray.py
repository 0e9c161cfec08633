import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch

from extractors.config import ImageModelConfig, LogMelConfig
from extractors.errors import AbortError
from pipeline.config import ExtractConfig
from pipeline.extract import plan_extract
from pipeline.jobs import Job
from pipeline.resources import worker_resources
from pipeline.run_local import run_local
from pipeline.run_ray import run_ray
from tests.pipeline.conftest import numbered_copies, tar_digests

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One cluster for this file: starting it takes longer than the jobs."""
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, handler)


def jobs_of(
    folder: Path, clip: Path, name: str, count: int, config: ExtractConfig
) -> tuple[Job, ...]:
    numbered_copies(clip, folder / "videos", count)
    return plan_extract(str(folder / "videos"), str(folder / name), config).jobs


def actor_pids() -> list[int]:
    """Processes of our actors on this machine; Ray names them after their class."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                name = (folder / "cmdline").read_text()
            except OSError:
                continue
            if name.startswith("ray::") and "ShardActor" in name:
                found.append(int(folder.name))
    return found


def kill_first_actor(killed: list[int]) -> None:
    """Waits for an actor at work and kills it."""
    deadline = time.monotonic() + 60
    while not killed and time.monotonic() < deadline:
        for pid in actor_pids()[:1]:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        time.sleep(0.01)


# first in this file: it needs a cluster of its own, and run_ray joins one that is there
def test_a_worker_that_no_machine_can_hold_aborts(
    clip: Path, config: ExtractConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray alone would wait for ever."""
    from extractors.extractor import Resources
    from extractors.mean_colour import MeanColour

    jobs = jobs_of(tmp_path, clip, "d", 1, config)
    monkeypatch.setattr(MeanColour, "resources", Resources(memory_mb=10**9))
    with pytest.raises(AbortError, match=r"Ray: a worker needs 1000\d+ MB"):
        list(run_ray(jobs, config, CPU, 1))
    assert not ray.is_initialized()


@pytest.mark.usefixtures("cluster")
def test_two_actors_give_the_tars_of_one_process(
    clip: Path, config: ExtractConfig, tmp_path: Path
) -> None:
    list(run_local(jobs_of(tmp_path, clip, "local", 7, config), config, CPU, 1))
    records = list(run_ray(jobs_of(tmp_path, clip, "ray", 7, config), config, CPU, 2))
    assert sorted(record.number for record in records) == [0, 1, 2, 3]
    assert tar_digests(tmp_path / "ray") == tar_digests(tmp_path / "local")


def killed_run(folder: Path, clip: Path, count: int, config: ExtractConfig) -> None:
    list(run_local(jobs_of(folder, clip, "local", count, config), config, CPU, 2))
    records = run_ray(jobs_of(folder, clip, "ray", count, config), config, CPU, 2)
    found = [next(records)]
    killed: list[int] = []
    killer = threading.Thread(target=kill_first_actor, args=(killed,))
    killer.start()
    found += list(records)
    killer.join()
    assert killed
    assert sorted(record.number for record in found) == list(range(count // 2))
    assert tar_digests(folder / "ray") == tar_digests(folder / "local")


@pytest.mark.usefixtures("cluster")
def test_a_run_survives_a_killed_actor(clip: Path, config: ExtractConfig, tmp_path: Path) -> None:
    killed_run(tmp_path, clip, 16, config)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_run_of_a_hundred_clips_survives_a_killed_actor(
    clip: Path, config: ExtractConfig, tmp_path: Path
) -> None:
    killed_run(tmp_path, clip, 100, config)


@pytest.mark.usefixtures("cluster")
def test_what_stops_an_actor_stops_the_run_with_its_message(
    clip: Path, config: ExtractConfig, tmp_path: Path
) -> None:
    jobs = jobs_of(tmp_path, clip, "d", 4, config)
    (tmp_path / "d/shards").write_bytes(b"a file where the folder should be")
    with pytest.raises(AbortError, match=r"^\[Errno \d+\] .*/d/shards"):
        list(run_ray(jobs, config, CPU, 2))


def test_an_actor_asks_for_its_threads_and_for_the_memory_of_all_its_models(
    config: ExtractConfig,
) -> None:
    plain = worker_resources(config)
    assert (plain.cpus, plain.gpus) == (1, 0)
    extractors = {f"v{n}": ImageModelConfig() for n in range(6)} | {"audio": LogMelConfig()}
    many = worker_resources(ExtractConfig(threads=3, extractors=extractors))
    assert many.cpus == 3
    assert many.gpus == 1.0  # never more than one
    assert many.memory_mb > plain.memory_mb + 6 * 500
