"""What building an index costs out of embeddings on disk: memory, an append, two Ray workers.

    python benchmarks/index_builds.py build|append|ray FOLDER [--workers N] [--budget BYTES]
        [--build-memory BYTES]

is one of the processes that are measured; benchmarks/bench_index.py starts them. It prints the cost
of the call alone, without what Python takes to start and to import, as JSON.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from index_vectors import CLUSTERS, PIECE, mixture, mixture_rows
from measuring import Command, Cost, Ratio, alternate, pinned, ratio, timed

from index.append import append_records
from index.build import publish_index
from index.card import IndexCard
from index.config import IndexConfig
from index.embedding_shards import (
    MODALITIES,
    ClipRow,
    EmbeddingRecord,
    clip_table,
    embedding_numbers,
    publish_embeddings,
    read_record,
)
from index.factory import estimated_bytes, num_lists
from index.search import open_index

PER_SHARD = 6 * PIECE
MORE_THAN_BUDGET = 1.1
ON_DISK_MEMORY = 2**20
"""index.build_memory of a build that is to be joined on disk."""
APPENDED = 100
"""One part in so many is appended."""
APPEND_COST = 0.03
RAY_SPEED = 1.6
TARGETS = ("video",)

Say = Callable[[str], None]


def main() -> None:
    """One process of those that are measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("build", "append", "ray"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--budget", type=int, default=IndexConfig().memory_budget)
    parser.add_argument("--build-memory", type=int)
    parser.add_argument("--factory", default=IndexConfig().factory)
    arguments = parser.parse_args()
    config = IndexConfig(
        targets=TARGETS, memory_budget=arguments.budget, factory=arguments.factory,
        build_memory=arguments.build_memory,
    )  # fmt: skip
    call = {"build": build, "append": append, "ray": ray_build}[arguments.what]
    made: list[IndexCard] = []
    with most_anonymous() as seen:
        cost = timed(lambda: made.append(call(str(arguments.folder), config, arguments.workers)))
    card = made[0]
    facts = {"factory": card.factory, "count": card.count, "size_bytes": card.size_bytes,
             "recall": card.recall, "index_sha256": card.index_sha256}  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    costs = {"cpu": cost.cpu, "wall": cost.wall, "peak_mb": round(peak),
             "peak_anonymous_mb": round(max(seen) / 2**20)}  # fmt: skip
    print(json.dumps(costs | facts))


@contextmanager
def most_anonymous() -> Iterator[list[int]]:
    """Bytes of this process that no file stands behind, looked at ten times a second: mapped pages
    count in resident memory, but the system takes them back when it wants."""
    seen, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            status = Path("/proc/self/status").read_text()
            seen.append(1024 * int(status.partition("RssAnon:")[2].split()[0]))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield seen
    finally:
        ended.set()
        looking.join()


def build(folder: str, config: IndexConfig, _workers: int) -> IndexCard:
    """All shards but the appended one, in this process."""
    return publish_index(
        folder, config, records(folder)[:-1], dataset=folder, run="", imported="benchmark"
    )


def append(folder: str, config: IndexConfig, _workers: int) -> IndexCard:
    """The last shard, to the index of the others."""
    return append_records(open_index(folder), config, records(folder))


def ray_build(folder: str, config: IndexConfig, workers: int) -> IndexCard:
    """All shards but the appended one, each a task."""
    import torch

    from index.build import ray_executor

    execute = ray_executor(config, torch.device("cpu"), workers)
    return publish_index(
        folder, config, records(folder)[:-1], dataset=folder, run="", execute=execute,
        imported="benchmark",
    )  # fmt: skip


def records(folder: str) -> list[EmbeddingRecord]:
    """Of all shards, in order."""
    found = [read_record(folder, number) for number in embedding_numbers(folder)]
    return [record for record in found if record is not None]


def write_shards(folder: Path, count: int, dimension: int, say: Say) -> None:
    """Embeddings of a mixture as `pipeline run index` writes them: `count` in shards of
    `PER_SHARD`, and a last shard of one part in `APPENDED`. Shards that are there are kept."""
    sizes = [min(PER_SHARD, count - first) for first in range(0, count, PER_SHARD)]
    sizes.append(max(1, count // APPENDED))
    of = mixture(dimension, clusters=min(CLUSTERS, max(8, count // 100)))
    for number, size in enumerate(sizes):
        if read_record(str(folder), number) is None:
            x_ND = mixture_rows(of, size, piece=number * (PER_SHARD // PIECE))
            _write_shard(str(folder), number, x_ND)
            say(f"embeddings: shard {number + 1} of {len(sizes)}")


def _write_shard(folder: str, number: int, x_ND: np.ndarray) -> None:
    absent_ND = np.broadcast_to(np.float32(0), x_ND.shape)
    clips = [ClipRow(f"v{number}_{i}", "", 0.0, 10.0) for i in range(len(x_ND))]
    vectors = {name: x_ND if name in TARGETS else absent_ND for name in MODALITIES}
    present = {name: np.full(len(x_ND), name in TARGETS) for name in MODALITIES}
    publish_embeddings(
        folder, number, clip_table(clips, vectors, present, TARGETS), tar_sha256="",
        model_digest="benchmark", settings={},
    )  # fmt: skip


def measure_memory(
    folder: Path, shape: tuple[int, int], budget: int, core: int, say: Say
) -> tuple[list[dict[str, Any]], list[Ratio]]:
    """The most resident memory of a process that builds, over the budget. Python, its libraries
    and mapped pages of the embeddings count.

    It builds what 'auto' chooses, and what needs most of the budget: lists of whole vectors, where
    those are within it. The same lists are then joined on disk.
    """
    whole = f"IVF{num_lists(shape[0])},Flat"
    factories = ["auto", whole] if estimated_bytes(whole, *shape) <= budget else ["auto"]
    builds, ratios = [], []
    for factory in factories:
        line = ["build", str(folder), "--budget", str(budget), "--factory", factory]
        found = run_child(line, {core}) | {"budget_mb": round(budget / 2**20)}
        say(f"memory: {found}")
        value = round(found["peak_mb"] / found["budget_mb"], 4)
        what = f"peak memory of building {found['factory']} of {found['count']} / budget"
        ratios.append(Ratio(what, value, (value,), MORE_THAN_BUDGET, at_least=False))
        builds.append(found | {"asked": factory})
    line = ["build", str(folder), "--factory", whole, "--build-memory", str(ON_DISK_MEMORY)]
    found = run_child(line, {core})
    say(f"memory, joined on disk: {found}")
    value = round(found["peak_anonymous_mb"] * 2**20 / found["size_bytes"], 4)
    what = f"memory without mapped pages of building {whole} on disk / its bytes"
    ratios.append(Ratio(what, value, (value,), None, at_least=False))
    return [*builds, found | {"asked": "on disk"}], ratios


def measure_append(
    folder: Path, core: int, repeats: int, say: Say
) -> tuple[dict[str, list[Cost]], list[Ratio]]:
    """CPU seconds of appending 1 % over those of building what it is appended to."""
    line = [str(folder)]
    costs = alternate(
        {what: lambda what=what: _cost([what, *line], {core}) for what in ("build", "append")},
        repeats, say,
    )  # fmt: skip
    above, below = ([cost.cpu for cost in costs[what]] for what in ("append", "build"))
    return costs, [ratio("append of 1 % / build", above, below, at_most=APPEND_COST)]


def measure_ray(
    folder: Path, cores: Sequence[int], repeats: int, say: Say
) -> tuple[dict[str, list[Cost]], list[Ratio]]:
    """Whole builds on the clock: one Ray worker and the driver on one core, two on two."""
    names = {number: f"ray, {number} worker(s)" for number in (1, 2)}
    parts = {
        name: lambda n=n: _cost(["ray", str(folder), "--workers", str(n)], cores[:n])
        for n, name in names.items()
    }
    costs = alternate(parts, repeats, say)
    one, two = ([cost.wall for cost in costs[names[n]]] for n in (1, 2))
    return costs, [ratio("builds a second: 2 Ray workers / 1", one, two, at_least=RAY_SPEED)]


def _cost(line: Sequence[str], cores: Collection[int]) -> Cost:
    found = run_child(line, cores)
    return Cost(found["cpu"], found["wall"])


def run_child(line: Sequence[str], cores: Collection[int]) -> dict[str, Any]:
    """What a process of this file printed. It has as many threads as cores."""
    command = Command([sys.executable, __file__, *line], cores)
    threads = {"OMP_NUM_THREADS": str(len(cores)), "RAY_DEDUP_LOGS": "0"}
    done = subprocess.run(
        pinned(command), env=os.environ | threads, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"exit code {done.returncode}: {' '.join(command.line)}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
