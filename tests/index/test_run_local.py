import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from extractors.errors import AbortError, UsageError
from index.run_local import run_local


def loud_setup() -> Callable[[int], tuple[int, int]]:
    loaded = time.monotonic_ns()

    def work(item: int) -> tuple[int, int]:
        if item == 99:
            raise UsageError("item 99: not wanted")
        if item == 77:
            os.kill(os.getpid(), signal.SIGKILL)
        return item, loaded if os.getpid() else 0

    return work


def test_in_this_process_the_order_is_kept() -> None:
    assert [item for item, _ in run_local(loud_setup, [3, 1, 2], 1)] == [3, 1, 2]
    assert list(run_local(loud_setup, [], 4)) == []


def test_in_processes_every_item_is_worked_on_and_each_worker_loads_once() -> None:
    results = list(run_local(loud_setup, list(range(6)), 2))
    assert sorted(item for item, _ in results) == list(range(6))
    assert len({loaded for _, loaded in results}) <= 2


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [(99, UsageError, "item 99: not wanted"), (77, AbortError, "a worker process died")],
)
def test_what_a_worker_raises_is_raised_here(item: int, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        list(run_local(loud_setup, [item, item], 2))


def test_those_who_stop_listening_leave_no_process(tmp_path: Path) -> None:
    before = set(os.listdir("/proc"))
    results = run_local(loud_setup, list(range(50)), 2)
    next(results)
    results.close()
    mine = [p for p in set(os.listdir("/proc")) - before if p.isdigit() and child_of_ours(p)]
    assert mine == []


def child_of_ours(pid: str) -> bool:
    try:
        fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
        command = Path("/proc", pid, "cmdline").read_text()
    except OSError:
        return False
    return int(fields[1]) == os.getpid() and "resource_tracker" not in command
