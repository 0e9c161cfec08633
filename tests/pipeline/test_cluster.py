"""Several nodes: two raylets beside a head without cores, as on a cluster; one is killed."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from extractors.errors import AbortError
from pipeline.cluster import joined_cluster
from pipeline.config import ExtractConfig
from pipeline.extract import plan_extract, run_extract
from pipeline.shards import ShardRecord
from pipeline.verify import verify_dataset
from tests.pipeline.conftest import tar_digests

CPU = torch.device("cpu")
# a dead node is noticed sooner than by Ray's own fifteen seconds
HEALTH = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5}
SMALL = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Its address is where a user has it: in RAY_ADDRESS."""
    handler = signal.getsignal(signal.SIGTERM)
    head = {"num_cpus": 0, "_system_config": HEALTH} | SMALL
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        made.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    made.wait_for_nodes()
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    ray.shutdown()
    made.shutdown()
    signal.signal(signal.SIGTERM, handler)


def raylet_with_an_actor(cluster: Cluster) -> int:
    """The process id of a node's raylet that has one of our actors below it."""
    for node in cluster.worker_nodes:
        (raylet,) = node.all_processes["raylet"]
        pid = int(raylet.process.pid)
        names = [child.name() + " ".join(child.cmdline()) for child in
                 psutil.Process(pid).children(recursive=True)]  # fmt: skip
        if any("ShardActor" in name for name in names):
            return pid
    pytest.fail("no node has an actor")


def extract(
    source: str,
    dataset: Path,
    config: ExtractConfig,
    executor: str,
    on_record: Callable[[ShardRecord], None] = lambda record: None,
) -> list[ShardRecord]:
    todo = plan_extract(source, str(dataset), config)
    return run_extract(
        todo, str(dataset), config, CPU, executor=executor, num_workers=2, on_record=on_record
    )  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_run_survives_the_death_of_a_node(
    cluster: Cluster, copies: Callable[[int], str], config: ExtractConfig, tmp_path: Path
) -> None:
    source, seen, killed = copies(12), [], []

    def kill_a_node(record: ShardRecord) -> None:
        seen.append(record.number)
        if not killed:
            killed.append(raylet_with_an_actor(cluster))
            os.kill(killed[0], signal.SIGKILL)

    extract(source, tmp_path / "ray", config, "ray", kill_a_node)
    assert killed
    assert sorted(seen) == list(range(6))  # nothing lost, nothing twice
    assert verify_dataset(str(tmp_path / "ray")) == []
    extract(source, tmp_path / "local", config, "local")
    assert tar_digests(tmp_path / "ray") == tar_digests(tmp_path / "local")


def test_an_address_without_a_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(AbortError, match=r"RAY_ADDRESS=127.0.0.1:1: no cluster"), joined_cluster(1):
        pytest.fail("joined")
