"""Videos that kill the process that works on them, workers that leak, machines that go away: real
processes, killed as the kernel does it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
import torch

from extractors.config import PluginConfig
from extractors.errors import AbortError, Reason
from extractors.plugins import GROUP
from pipeline.attempts import left_behind
from pipeline.config import ExtractConfig
from pipeline.extract import plan_extract
from pipeline.jobs import Job
from pipeline.run_local import run_local
from pipeline.run_ray import run_ray
from pipeline.samples import read_shard
from pipeline.shards import ShardRecord, read_rows
from tests.pipeline.conftest import Clips, numbered_copies, tar_digests

CPU = torch.device("cpu")
EXECUTORS = {"local": run_local, "ray": run_ray}
DEADLY = '''
import os, signal
import numpy as np
from extractors.extractor import Resources, TrackSpec
from extractors.views import FrameView
from extractors.windows import Windowing

class Deadly:
    """Mean colours; what is green kills, each batch takes memory for good."""
    windowing = Windowing(size=1, step=1)
    resources = Resources(memory_mb=50)
    weights_sha256 = None
    spec = TrackSpec(dim=3, dtype="float32", start=0.125, hop=0.25, version=1)
    view = FrameView(4.0, height=16, width=16, fit="stretch")

    def __init__(self, log, batch_size=6, leak_mb=0, dies_in_setup=False):
        self.batch_size, self.log, self.leak_mb = batch_size, log, leak_mb
        self.dies_in_setup = dies_in_setup
        self.leaked = []

    def setup(self, device):
        with open(self.log, "a") as file:
            file.write(f"{os.getpid()}\\n")
        if self.dies_in_setup:
            os.kill(os.getpid(), signal.SIGKILL)

    def extract(self, windows):
        self.leaked.append(os.urandom(self.leak_mb * 2**20))
        rows = [window.data.mean(axis=(1, 2), dtype=np.float32) / 255 for window in windows]
        if any(row[0, 1] > row[0, 0] + row[0, 2] for row in rows):
            os.kill(os.getpid(), signal.SIGKILL)
        return rows

    def finish(self, rows):
        return rows

    def close(self):
        pass
'''


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The extractor, as pip would put it into site-packages of all processes."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "deadly.py").write_text(DEADLY)
    info = folder / "deadly-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\ndeadly = deadly:Deadly\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        paths = [str(folder), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        yield


@pytest.fixture(scope="module")
def cluster(installed: None) -> Iterator[None]:
    del installed
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture
def deadly(tmp_path: Path) -> Callable[..., ExtractConfig]:
    def make(max_attempts: int = 3, memory_mb: int | None = None, **given: object) -> ExtractConfig:
        settings = {"log": str(tmp_path / "log.txt")} | given
        return ExtractConfig(
            videos_per_shard=3,
            max_attempts=max_attempts,
            worker_memory_mb=memory_mb,
            extractors={"colour": PluginConfig(name="deadly", settings=settings)},
            speech=None,
            text=None,
        )

    return make


@pytest.fixture
def videos(tmp_path: Path, clips: Clips, clip: Path) -> Callable[..., Path]:
    """A folder of red clips, some of them green."""

    def make(count: int, *green: int) -> Path:
        folder = tmp_path / "videos"
        numbered_copies(clip, folder, count)
        for number in green:
            shutil.copy(clips.make("green.mp4", "green"), folder / f"clip{number:03d}.mp4")
        return folder

    return make


def jobs_of(folder: Path, dataset: Path, config: ExtractConfig) -> tuple[Job, ...]:
    return tuple(plan_extract(str(folder), str(dataset), config).jobs)


def keys(dataset: Path, number: int) -> list[str]:
    return [sample.key for sample in read_shard(str(dataset), number)]


def num_processes(tmp_path: Path) -> int:
    """Worker processes that have loaded their models."""
    return len((tmp_path / "log.txt").read_text().split())


def failures(dataset: Path, records: list[ShardRecord]) -> dict[str, str]:
    rows = [row for record in records for row in read_rows(str(dataset), record.number)]
    return {row["key"]: row["reason"] for row in rows if row["reason"]}


def found_out(dataset: Path, config: ExtractConfig, folder: Path, executor: str) -> None:
    """Runs nine videos, of which the fifth kills, and looks at what is published."""
    num_workers = 2 if executor == "ray" else 1
    jobs = jobs_of(folder, dataset, config)
    records = list(EXECUTORS[executor](jobs, config, CPU, num_workers))
    assert sorted(record.number for record in records) == [0, 1, 2]
    assert failures(dataset, records) == {"clip004": Reason.CRASHED_WORKER}
    assert [keys(dataset, number) for number in (0, 1)] == [
        ["clip000", "clip001", "clip002"],
        ["clip003", "clip005"],
    ]
    (row,) = [row for row in read_rows(str(dataset), 1) if row["reason"]]
    assert row["error_message"].startswith(f"{folder}/clip004.mp4: its worker process died")
    assert left_behind(str(dataset)) == []
    assert list(dataset.rglob(".*")) == []


@pytest.mark.usefixtures("installed")
def test_a_video_that_kills_its_worker_costs_one_row(
    tmp_path: Path, deadly: Callable[..., ExtractConfig], videos: Callable[..., Path]
) -> None:
    """The bound of memory is far away: no process but the two that died is replaced."""
    config, folder = deadly(max_attempts=2, memory_mb=20_000), videos(9, 4)
    found_out(tmp_path / "local", config, folder, "local")
    assert num_processes(tmp_path) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_on_ray_it_costs_the_same_row(
    tmp_path: Path, deadly: Callable[..., ExtractConfig], videos: Callable[..., Path]
) -> None:
    config, folder = deadly(memory_mb=20_000), videos(9, 4)
    for executor in EXECUTORS:
        found_out(tmp_path / executor, config, folder, executor)
    assert tar_digests(tmp_path / "local") == tar_digests(tmp_path / "ray")


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_two_such_videos_of_a_shard_are_both_found(
    tmp_path: Path, deadly: Callable[..., ExtractConfig], videos: Callable[..., Path]
) -> None:
    config, dataset = deadly(max_attempts=2), tmp_path / "d"
    jobs = jobs_of(videos(6, 0, 2), dataset, config)
    records = list(run_local(jobs, config, CPU, 2))
    assert failures(dataset, records) == dict.fromkeys(("clip000", "clip002"), "crashed_worker")
    assert keys(dataset, 0) == ["clip001"]
    assert keys(dataset, 1) == ["clip003", "clip004", "clip005"]


@pytest.mark.usefixtures("installed")
def test_a_worker_that_dies_while_it_loads_aborts(
    tmp_path: Path, deadly: Callable[..., ExtractConfig], videos: Callable[..., Path]
) -> None:
    config = deadly(max_attempts=2, memory_mb=20_000, dies_in_setup=True)
    dataset = tmp_path / "d"
    with pytest.raises(AbortError, match="died 2 times while it loaded its models"):
        list(run_local(jobs_of(videos(4), dataset, config), config, CPU, 1))
    assert not list((dataset / "shards").glob("*"))


def recycled(
    tmp_path: Path, config: ExtractConfig, folder: Path, run: Callable[..., Iterator[ShardRecord]]
) -> None:
    """Each shard leaves more behind than a process may hold: none makes two."""
    jobs = jobs_of(folder, tmp_path / "d", config)
    records = list(run(jobs, config, CPU, 1))
    assert [record.successes for record in records] == [3] * len(jobs)
    assert num_processes(tmp_path) == len(jobs)
    assert list((tmp_path / "d").rglob(".*")) == []


@pytest.mark.usefixtures("installed")
def test_a_worker_past_its_memory_is_replaced_after_its_job(
    tmp_path: Path, deadly: Callable[..., ExtractConfig], videos: Callable[..., Path]
) -> None:
    recycled(tmp_path, deadly(memory_mb=500, leak_mb=300), videos(6), run_local)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_an_actor_replaces_its_worker_too(
    tmp_path: Path, deadly: Callable[..., ExtractConfig], videos: Callable[..., Path]
) -> None:
    recycled(tmp_path, deadly(memory_mb=500, leak_mb=300), videos(9), run_ray)
