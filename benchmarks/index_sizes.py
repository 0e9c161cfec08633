"""FAISS factory strings against 'auto' and exact search, on vectors with cluster structure.

    python benchmarks/index_sizes.py [--count 1000000] [--dimension 256] [--factories HNSW32 …]
                                     [--output bench_index.json]

For each: recall@10 of held-out queries against exact search after tuning to 0.95, bytes a vector
(estimated and measured), seconds to build, and the median time of a query on one thread, beside
exact search on the same vectors. 'auto' is what the settings' defaults choose.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from index.config import IndexConfig
from index.construct import add_vectors, train_index, training_rows
from index.factory import choose_factory, estimated_bytes
from index.held_out import HeldOut, exact_nearest, measure, perturbed
from index.vectors import unit_rows

BATCH_ROWS = 16_384
CLUSTER_SIZE = 500
WITHIN = 0.7
"""Length of the noise around a cluster's centre, whose length is 1."""


def main() -> None:
    """Measures, prints the table, writes the JSON after each row."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--threads", type=int, default=faiss.omp_get_max_threads())
    parser.add_argument("--factories", nargs="*", help="By default the grid, 'auto' first.")
    parser.add_argument("--output", type=Path, default=Path("bench_index.json"))
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(arguments.threads)
    x_ND = clustered_vectors(arguments.count, arguments.dimension)
    config = IndexConfig(held_out_queries=arguments.queries)
    chosen = choose_factory(
        *x_ND.shape,
        config.metric,
        memory_budget=config.memory_budget,
        search_ms_budget=config.search_ms_budget,
    )
    held_out = held_out_of(x_ND, config)
    names = arguments.factories or grid(arguments.count)
    todo = dict.fromkeys([chosen.factory, "Flat", *names])
    rows: list[dict[str, Any]] = []
    for factory in todo:
        rows.append(measured_row(factory, x_ND, held_out, config))
        rows[-1]["auto"] = factory == chosen.factory
        figures = {
            "count": arguments.count,
            "dimension": arguments.dimension,
            "threads": arguments.threads,
            "faiss": faiss.__version__,
            "auto": chosen.factory,
            "reason": chosen.reason,
            "rows": rows,
        }
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n")
        Console(stderr=True).print(rows[-1])
    show(figures)


def grid(count: int) -> list[str]:
    """Graphs, lists with every kind of code, rotations before, a graph over the lists."""
    lists = 2 ** round(np.log2(4 * np.sqrt(count)))
    return [
        *("HNSW16", "HNSW32", "HNSW32,SQ8", "SQ8"),
        *(f"IVF{lists},Flat", f"IVF{lists},SQ8", f"IVF{lists},SQ4"),
        *(f"PCA128,IVF{lists},SQ8", f"IVF{lists}_HNSW32,Flat", f"IVF{lists}_HNSW32,SQ8"),
        *(f"IVF{lists},PQ32x4fs", f"IVF{lists},PQ32", f"OPQ32_128,IVF{lists},PQ32"),
        f"OPQ64_256,IVF{lists},PQ64",
    ]


def clustered_vectors(count: int, dimension: int, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors around centres that are drawn with unequal frequency, as topics are."""
    rng = np.random.default_rng(seed)
    clusters = max(1, count // CLUSTER_SIZE)
    centres = unit_rows(rng.standard_normal((clusters, dimension), np.float32))
    frequency = rng.gamma(1.0, size=clusters)
    of_cluster = rng.choice(clusters, count, p=frequency / frequency.sum())
    x_ND = np.empty((count, dimension), np.float32)
    for first in range(0, count, BATCH_ROWS):
        chosen = of_cluster[first : first + BATCH_ROWS]
        noise = rng.standard_normal((len(chosen), dimension), np.float32) / np.sqrt(dimension)
        x_ND[first : first + BATCH_ROWS] = unit_rows(centres[chosen] + WITHIN * noise)
    return x_ND


def held_out_of(x_ND: NDArray[np.float32], config: IndexConfig) -> HeldOut:
    """Queries near a sample, and their nearest by exact search."""
    drawn = np.random.default_rng(2).choice(len(x_ND), config.held_out_queries, replace=False)
    queries_QD = perturbed(x_ND[np.sort(drawn)], config.metric, config.seed)
    nearest = exact_nearest(queries_QD, batches(x_ND), config.metric, min(100, len(x_ND)))
    return HeldOut(queries_QD, nearest)


def batches(x_ND: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Numbered as the index reads them."""
    for first in range(0, len(x_ND), BATCH_ROWS):
        yield first, x_ND[first : first + BATCH_ROWS]


def measured_row(
    factory: str, x_ND: NDArray[np.float32], held_out: HeldOut, config: IndexConfig
) -> dict[str, Any]:
    """Builds as `pipeline run index` does, but from memory, and measures as it does."""
    count, dimension = x_ND.shape
    rng = np.random.default_rng(0)
    rows = training_rows(factory, count, dimension, config.metric)
    sample_ND = x_ND[np.sort(rng.choice(count, rows, replace=False))]
    began = time.perf_counter()
    index = train_index(factory, dimension, config.metric, sample_ND)
    trained = time.perf_counter()
    index = add_vectors(index, (batch_ND for _, batch_ND in batches(x_ND)))
    added = time.perf_counter()
    found = measure(index, held_out, config)
    size = len(faiss.serialize_index(index))
    return {
        "factory": factory,
        "recall@10": found.recall["recall@10"],
        "p50_ms": found.single_ms.p50,
        "batch_p50_ms": found.batch_ms.p50,
        "bytes_per_vector": round(size / count, 1),
        "estimated_bytes_per_vector": round(estimated_bytes(factory, count, dimension) / count, 1),
        "train_seconds": round(trained - began, 1),
        "add_seconds": round(added - trained, 1),
        "search": found.search_parameters,
    }


def show(figures: dict[str, Any]) -> None:
    """The table; times against exact search."""
    exact = next(row["p50_ms"] for row in figures["rows"] if row["factory"] == "Flat")
    table = Table(title=f"{figures['count']} x {figures['dimension']}, auto: {figures['reason']}")
    for column in ("factory", "recall@10", "bytes", "ms", "exact / ms", "build s", "search"):
        table.add_column(column)
    for row in figures["rows"]:
        table.add_row(
            row["factory"] + (" (auto)" if row["auto"] else ""),
            f"{row['recall@10']:.3f}",
            f"{row['bytes_per_vector']:.0f}",
            f"{row['p50_ms']:.3f}",
            f"{exact / row['p50_ms']:.1f} x",
            f"{row['train_seconds'] + row['add_seconds']:.0f}",
            " ".join(f"{name}={value}" for name, value in row["search"].items()),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
