import pytest

from extractors.errors import UsageError
from extractors.extractor import Resources
from pipeline.render import MACHINE_MB, Command, nodes, place_path, pods


def worker(gpus: float) -> Resources:
    return Resources(cpus=2.0, gpus=gpus, memory_mb=1000)


@pytest.mark.parametrize(
    ("gpus", "workers", "count"),
    [
        (0.25, 3, 1),  # three beside the driver
        (0.25, 4, 2),
        (0.25, 7, 2),
        (0.25, 8, 3),
        (0.85, 8, 8),
        (1.0, 4, 5),  # the driver's share leaves no whole GPU
        (0.1, 10, 2),
    ],
)
def test_pods_hold_all_workers_and_the_driver(gpus: float, workers: int, count: int) -> None:
    made = pods(worker(gpus), workers, cuda=True)
    assert (made.count, made.gpus) == (count, 1)
    each = min(workers, int(1 / gpus))
    assert (made.cpus, made.memory_mb) == (2 * each + 1, 1000 * each + MACHINE_MB)


def test_pods_without_a_gpu_hold_one_worker() -> None:
    made = pods(worker(0.85), 5, cuda=False)
    assert (made.count, made.cpus, made.gpus, made.memory_mb) == (5, 3, 0, 1000 + MACHINE_MB)


def test_nodes_share_the_workers() -> None:
    made = nodes(worker(0.5), 7, 2, cuda=True)
    assert (made.count, made.cpus, made.gpus) == (2, 9, 2)
    assert nodes(worker(0.5), 7, 2, cuda=False).gpus == 0


def test_a_gpu_that_nothing_uses() -> None:
    with pytest.raises(UsageError, match="these settings use no GPU; use --device cpu"):
        pods(worker(0.0), 1, cuda=True)


def test_a_command_is_quoted() -> None:
    command = Command("extract", ("--input", "/a b/$c", "--set", "x='y'"))
    assert str(command) == (
        "pipeline run extract \\\n    --input '/a b/$c' \\\n    --set 'x='\"'\"'y'\"'\"''"
    )


@pytest.mark.parametrize("path", ["/shared/a", "s3://bucket/a"])
def test_places_that_all_machines_see(path: str) -> None:
    assert place_path("--input", path) == path
