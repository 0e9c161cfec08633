"""What a call or a command costs, and medians of runs that alternate with one another."""

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    cpu: float
    """CPU seconds, user and system, of the process and of the children it waited for."""
    wall: float
    """Seconds on the clock."""

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.cpu - other.cpu, self.wall - other.wall)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.cpu + other.cpu, self.wall + other.wall)


def timed(run: Callable[[], object]) -> Cost:
    """The cost of a call in this process."""
    before, started = os.times(), time.perf_counter()
    run()
    after = os.times()
    return Cost(sum(after[:4]) - sum(before[:4]), time.perf_counter() - started)


@dataclass(frozen=True)
class Command:
    """A command line and what it runs in."""

    line: Sequence[str]
    cores: Collection[int]
    folder: Path | None = None
    variables: Mapping[str, str] | None = None
    allowed_codes: Collection[int] = (0,)


ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


def run(command: Command, log: Path) -> Cost:
    """The cost of a whole command, its imports and children included; it and they stay on its
    cores. What it prints goes to `log`. Stops the benchmark where its exit code is another one."""
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            pinned(command), cwd=command.folder, stdout=output, stderr=output,
            env=os.environ | ONE_THREAD | dict(command.variables or {}),
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
    process.returncode = code = os.waitstatus_to_exitcode(status)
    if code not in command.allowed_codes:
        end = log.read_text(errors="replace")[-2000:]
        raise SystemExit(f"exit code {code}: {' '.join(command.line)}\n{end}")
    return Cost(usage.ru_utime + usage.ru_stime, wall)


def pinned(command: Command) -> list[str]:
    """The command line under taskset."""
    return ["taskset", "--cpu-list", ",".join(map(str, sorted(command.cores))), *command.line]


def alternate(
    parts: Mapping[str, Callable[[], Cost]], repeats: int, say: Callable[[str], None]
) -> dict[str, list[Cost]]:
    """Every part once, then every part again, so that what else the machine does meets all."""
    costs: dict[str, list[Cost]] = {name: [] for name in parts}
    for repeat in range(repeats):
        for name, part in parts.items():
            costs[name].append(part())
            cost = costs[name][-1]
            say(f"{repeat + 1}/{repeats} {name}: {cost.cpu:.2f} CPU s, {cost.wall:.2f} s")
    return costs


def median(values: Sequence[float]) -> float:
    """The median, to four digits behind the point."""
    return round(statistics.median(values), 4)


def medians(costs: Mapping[str, Sequence[Cost]]) -> dict[str, dict[str, float]]:
    """CPU and wall seconds of each part."""
    return {
        name: {
            "cpu_seconds": median([cost.cpu for cost in runs]),
            "wall_seconds": median([cost.wall for cost in runs]),
        }
        for name, runs in costs.items()
    }


@dataclass(frozen=True)
class Ratio:
    """A figure and what it is held against."""

    what: str
    value: float
    each: tuple[float, ...]
    """The ratio within each repeat; `value` is their median."""
    limit: float | None
    """None: for information."""
    at_least: bool
    """Whether the limit is a lower one."""

    @property
    def holds(self) -> bool | None:
        """None where there is no limit."""
        if self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def ratio(
    what: str,
    above: Sequence[float],
    below: Sequence[float],
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Ratio:
    """The median of the repeats' own ratios: runs of one repeat stood beside one another."""
    each = tuple(round(a / b, 4) for a, b in zip(above, below, strict=True))
    limit = at_least if at_least is not None else at_most
    return Ratio(what, median(each), each, limit, at_least is not None)


class PeakMemory:
    """The most resident memory that a process tree holds, in MiB, asked for every 50 ms."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.worker = 0.0
        """Of the largest process."""
        self.tree = 0.0
        """Of all together; pages that they share count for each."""

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            held = [resident_mb(p) for p in self._processes()]
            self.worker = max(self.worker, *held, 0.0)
            self.tree = max(self.tree, sum(held))

    def _processes(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return []


def resident_mb(process: psutil.Process) -> float:
    """0 for a process that is gone."""
    try:
        return process.memory_info().rss / 2**20
    except psutil.Error:
        return 0.0
