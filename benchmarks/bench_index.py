"""What an index finds, takes and costs, as figures with limits, all measured in one run.

    python benchmarks/bench_index.py [--vectors 1000000] [--dimension 256] [--repeats 1]
        [--parts frontier,real,autofaiss,memory,append,ray] [--factories HNSW32 IVF4096,SQ8 …]
        [--real-vectors FILE.npy | --real-sentences 40000] [--memory-vectors 4000000]
        [--peer-python PYTHON] [--embeddings FOLDER] [--output bench_index.json]

    frontier   'auto' and a grid of factory strings on a seeded mixture        index_frontier.py
                 recall@10 at 1/4 and 1/16 of the raw memory   at least 0.95, 0.90
                 exact p50 / p50, one thread                   at least 20
                 better ones in the grid                       0
    real       the same on sentences' embeddings, or on the rows of a file
    autofaiss  recall at equal memory and time; build time     at least 1; at most 1   --peer-python
    memory     peak of a build / index.memory_budget           at most 1.1     index_builds.py
    append     CPU seconds of appending 1 % / building         at most 0.03
    ray        builds a second, 2 Ray workers / 1              at least 1.6

`make bench-serve` measures the server (serve.py). Everything but `ray` runs on one core with one
thread. `--vectors 20000 --memory-vectors 20000 --real-sentences 2000 --factories SQ8` is a run of
about a minute, whose figures say nothing. Exit code 1 where a figure is missed. Not index.py: that
would hide the package of this name from the scripts beside it.
"""

import argparse
import os
import platform
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from figures import Findings, check_known, conclude, say
from index_autofaiss import measure_peer
from index_builds import measure_append, measure_memory, measure_ray, write_shards
from index_frontier import SHARES, Row, facts, judged
from index_grid import Vectors, auto_row, exact_row, grid, grid_row, with_truth
from index_vectors import mixture_set, sentence_vectors, sentences
from measuring import ONE_THREAD

from index.config import IndexConfig
from index.vectors import unit_rows

PARTS = ("frontier", "real", "autofaiss", "memory", "append", "ray")
REAL_QUERIES = 0.02
"""Part of the real vectors that is held out to ask."""


def main() -> None:
    """Measures, writes the JSON as it grows, prints the table."""
    arguments = parse()
    os.environ |= ONE_THREAD
    faiss.omp_set_num_threads(1)
    bench = Bench(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench.measure(Path(folder))
    conclude(bench.findings, "Index")


def parse(line: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments; stops where they do not fit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    listed = partial(str.split, sep=",")
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--parts", type=listed, default=list(PARTS))
    parser.add_argument("--factories", nargs="+", help="Instead of the grid.")
    parser.add_argument("--real-vectors", type=Path)
    parser.add_argument("--real-sentences", type=int, default=40_000)
    parser.add_argument("--memory-vectors", type=int, default=4_000_000)
    parser.add_argument("--memory-budget", type=int, default=IndexConfig().memory_budget)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--embeddings", type=Path, help="Keeps the shards that are built from.")
    parser.add_argument("--output", type=Path, default=Path("bench_index.json"))
    arguments = parser.parse_args(line)
    check_known(parser, "--parts", arguments.parts, PARTS)
    return arguments


class Bench:
    """The parts that were asked for, and what they found so far."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        about: dict[str, Any] = {
            "faiss": faiss.__version__, "python": platform.python_version(),
            "compiled_for": faiss.get_compile_options(), "load_at_start": os.getloadavg()[0],
            "arguments": {name: str(value) for name, value in vars(arguments).items()},
        }  # fmt: skip
        self.findings = Findings(arguments.output, about)
        self._cores = sorted(os.sched_getaffinity(0))

    def measure(self, folder: Path) -> None:
        """Every part, on the last core but for Ray's."""
        arguments, parts = self._arguments, self._arguments.parts
        os.sched_setaffinity(0, {self._cores[-1]})
        if {"frontier", "autofaiss"} & set(parts):
            shape = (arguments.vectors, arguments.dimension)
            vectors = with_truth("mixture", *mixture_set(*shape, arguments.queries))
            rows = self._frontier(vectors, full="frontier" in parts)
            if "autofaiss" in parts:
                self._autofaiss(vectors, rows, folder)
            del vectors
        if "real" in parts:
            vectors = with_truth("real", *self._real())
            self._frontier(vectors, full=True)
        self._builds(arguments.embeddings or folder)

    def _frontier(self, vectors: Vectors, *, full: bool) -> list[Row]:
        """'auto' first, then the grid, unless only 'auto' is asked for."""
        rows = [exact_row(vectors)]
        exact_ms = rows[0].points[0].p50_ms
        raw = vectors.rows.nbytes
        budgets = {f"1/{part}": raw // part for part in SHARES}
        if full:
            budgets["its defaults"] = IndexConfig().memory_budget
        for asked, budget in budgets.items():
            config = IndexConfig(memory_budget=budget)
            rows.append(auto_row(asked, vectors, config, exact_ms))
            self._keep_rows(vectors, rows)
        count, dimension = vectors.rows.shape
        for factory in (self._arguments.factories or grid(count, dimension)) if full else ():
            rows.append(grid_row(factory, vectors, exact_ms))
            self._keep_rows(vectors, rows)
        self.findings.ratios += judged(vectors.name, vectors.raw_bytes, rows) if full else []
        self.findings.write()
        return rows

    def _keep_rows(self, vectors: Vectors, rows: Sequence[Row]) -> None:
        row = rows[-1]
        say(f"{vectors.name}, {row.asked}: {row.factory} {row.bytes_per_vector} bytes, "
            f"{row.cpu_seconds:.0f} CPU s, "
            f"{[(p.recall, p.p50_ms) for p in row.points]}")  # fmt: skip
        self.findings.facts[vectors.name] = {"shape": vectors.rows.shape, "rows": facts(rows)}
        self.findings.write()

    def _autofaiss(self, vectors: Vectors, rows: Sequence[Row], folder: Path) -> None:
        if self._arguments.peer_python is None:
            say("autofaiss: skipped, for want of --peer-python PYTHON (index_autofaiss.py)")
            return
        python = self._arguments.peer_python.absolute()  # not resolved: it is a link
        core = self._cores[-1]
        self.findings.facts["autofaiss"], ratios = measure_peer(
            python, vectors, rows, folder, core, say
        )
        self.findings.keep({}, ratios)

    def _real(self) -> tuple[np.ndarray, np.ndarray]:
        arguments = self._arguments
        if arguments.real_vectors:
            every_ND = unit_rows(np.load(arguments.real_vectors, allow_pickle=False))
        else:
            every_ND = sentence_vectors(sentences(arguments.real_sentences))
        order = np.random.default_rng(1).permutation(len(every_ND))
        asked = max(1, min(arguments.queries, int(len(every_ND) * REAL_QUERIES)))
        return every_ND[np.sort(order[asked:])], every_ND[order[:asked]]

    def _builds(self, folder: Path) -> None:
        arguments, core = self._arguments, self._cores[-1]
        if "memory" in arguments.parts:
            large = folder / f"embeddings_{arguments.memory_vectors}"
            write_shards(large, arguments.memory_vectors, arguments.dimension, say)
            shape = (arguments.memory_vectors, arguments.dimension)
            found, ratios = measure_memory(large, shape, arguments.memory_budget, core, say)
            self.findings.facts["memory"] = found
            self.findings.keep({}, ratios)
        if not {"append", "ray"} & set(arguments.parts):
            return
        some = folder / f"embeddings_{arguments.vectors}"
        write_shards(some, arguments.vectors, arguments.dimension, say)
        if "append" in arguments.parts:
            self.findings.keep(*measure_append(some, core, arguments.repeats, say))
        if "ray" in arguments.parts and len(self._cores) > 1:
            os.sched_setaffinity(0, set(self._cores))  # a child cannot have more than this
            self.findings.keep(*measure_ray(some, self._cores[-2:], arguments.repeats, say))


if __name__ == "__main__":
    main()
