"""Held-out queries: what an index finds of the truly nearest, and how fast.

A held-out query is a stored vector moved by noise of `NOISE` times its length in a random
direction: near clips that exist, equal to none. Queries from another modality lie further away,
where approximate search finds somewhat less.

N vectors, D dimension, Q queries, K neighbours.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from index.config import IndexConfig, Metric
from index.construct import has_graph
from index.search_parameters import apply_parameters, search_allowed, tunable_values
from index.vectors import faiss_metric, faiss_threads, prepared

NOISE = 0.3
RANKS = (1, 10, 100)
TUNED_RANK = 10
LEAST_GAIN = 0.001
"""Recall that twice the work must add to be taken."""
MARGIN = 0.01
"""Recall above the target that tuning asks for: its queries lie near clips and so are a little
easier than strangers', by .006 on the mixture of benchmarks/bench_index.py, and are a sample."""
BATCH = 64
"""Queries of one batched search."""

Mask = NDArray[np.bool_] | None
Nearest = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Scores and ids (Q, k), best first."""


@dataclass(frozen=True)
class Latency:
    """Percentiles of the milliseconds a query takes."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Measured:
    """How good and how fast an index is, on held-out queries."""

    search_parameters: dict[str, int]
    """nprobe, efSearch: what opening the index sets."""
    recall: dict[str, float]
    """'recall@1', 'recall@10', 'recall@100': the share of the k truly nearest among the k found;
    null beyond the number of vectors."""
    single_ms: Latency
    """One query at a time on one thread, for the 10 nearest."""
    batch_ms: Latency
    """A query's part of a batch of 64 on all threads, likewise."""
    mean_ms: float
    """Mean of single queries."""


@dataclass(frozen=True)
class HeldOut:
    """Queries and their truly nearest."""

    queries_QD: NDArray[np.float32]
    nearest_QK: NDArray[np.int64]
    """Ids, nearest first, by exact search; K is 100 or the number of vectors."""


def perturbed(rows_QD: NDArray[np.float32], metric: Metric, seed: int) -> NDArray[np.float32]:
    """Queries near the given stored vectors, in float32, prepared for the metric."""
    rng = np.random.default_rng((seed, 1))
    noise_QD = rng.standard_normal(rows_QD.shape)
    noise_QD /= np.linalg.norm(noise_QD, axis=1, keepdims=True)
    lengths_Q1 = np.linalg.norm(rows_QD, axis=1, keepdims=True)
    return prepared(rows_QD + NOISE * lengths_Q1 * noise_QD, metric)


def exact_nearest(
    queries_QD: NDArray[np.float32],
    numbered_batches: Iterable[tuple[int, NDArray[np.float32]]],
    metric: Metric,
    k: int,
) -> NDArray[np.int64]:
    """The ids of `exact_search`."""
    return exact_search(queries_QD, numbered_batches, metric, k)[1]


def exact_search(
    queries_QD: NDArray[np.float32],
    numbered_batches: Iterable[tuple[int, NDArray[np.float32]]],
    metric: Metric,
    k: int,
) -> Nearest:
    """FAISS's scores and ids (Q, k) of the nearest of all vectors, which come a batch at a time,
    each with the id of its first; -1 for none."""

    def found() -> Iterator[Nearest]:
        for first, batch_ND in numbered_batches:
            if len(batch_ND):
                best = min(k, len(batch_ND))
                scores, ids = faiss.knn(queries_QD, batch_ND, best, metric=faiss_metric(metric))
                yield scores, ids + first

    return best_of(found(), len(queries_QD), metric, k)


def best_of(found: Iterable[Nearest], queries: int, metric: Metric, k: int) -> Nearest:
    """The k nearest of several searches of the same queries; -1 for none."""
    heap = faiss.ResultHeap(queries, k, keep_max=metric != "l2")
    for scores_QK, ids_QK in found:
        heap.add_result(scores_QK, ids_QK)
    heap.finalize()
    return heap.D, heap.I


def measure(
    index: faiss.Index,
    held_out: HeldOut,
    config: IndexConfig,
    allowed_N: Mask = None,
    *,
    known: Mapping[str, int] | None = None,
) -> Measured:
    """Tunes the search to the recall target, sets it on `index`, and measures it.

    A `known` setting, of the index before it grew, is kept where it still reaches the target. Else
    the setting is the fastest that reaches `config.recall_target` with a `MARGIN`; where a query
    would then take longer than `config.search_ms_budget`, the most thorough that does not; always
    one of them.
    """
    parameters = dict(known or {})
    apply_parameters(index, parameters)
    if not parameters or _recall(index, held_out, TUNED_RANK, allowed_N) < config.recall_target:
        parameters = tune(index, held_out, config, allowed_N)
        apply_parameters(index, parameters)
    single = _single_ms(index, held_out.queries_QD, allowed_N)
    return Measured(
        search_parameters=parameters,
        recall=_recalls(index, held_out, allowed_N),
        single_ms=_latency(single),
        batch_ms=_latency(_batch_ms(index, held_out.queries_QD, allowed_N)),
        mean_ms=round(float(np.mean(single)), 4),
    )


def tune(
    index: faiss.Index, held_out: HeldOut, config: IndexConfig, allowed_N: Mask = None
) -> dict[str, int]:
    """See `measure`; leaves some setting on `index`. Ends early where looking harder finds no
    more: what codes have lost, no search finds."""
    chosen: dict[str, int] = {}
    best = 0.0
    for parameters in tunable_values(index):
        apply_parameters(index, parameters)
        timed_QD = held_out.queries_QD[:BATCH]
        too_slow = np.median(_single_ms(index, timed_QD, allowed_N)) > config.search_ms_budget
        if chosen and too_slow:
            break
        recall = _recall(index, held_out, TUNED_RANK, allowed_N)
        if chosen and recall - best < LEAST_GAIN:
            break
        chosen, best = dict(parameters), recall
        if recall >= config.recall_target + MARGIN:
            break
    return chosen


def recall_at(found_QK: NDArray[np.int64], nearest_QK: NDArray[np.int64]) -> float:
    """Mean share of the truly nearest that were found; -1 in either is no id."""
    shares = [
        len(np.intersect1d(found[found >= 0], nearest[nearest >= 0])) / max(1, (nearest >= 0).sum())
        for found, nearest in zip(found_QK, nearest_QK, strict=True)
    ]
    return round(float(np.mean(shares)), 4)


def _recall(index: faiss.Index, held_out: HeldOut, k: int, allowed_N: Mask) -> float:
    k = min(k, held_out.nearest_QK.shape[1])
    _, found_QK = search_allowed(index, held_out.queries_QD, k, allowed_N)
    return recall_at(found_QK, held_out.nearest_QK[:, :k])


def _recalls(index: faiss.Index, held_out: HeldOut, allowed_N: Mask) -> dict[str, float]:
    known = held_out.nearest_QK.shape[1]
    ranks = [k for k in RANKS if k <= known]
    if has_graph(index):  # which looks the harder the more it is asked for
        return {f"recall@{k}": _recall(index, held_out, k, allowed_N) for k in ranks}
    _, found_QK = search_allowed(index, held_out.queries_QD, max(ranks, default=1), allowed_N)
    return {f"recall@{k}": recall_at(found_QK[:, :k], held_out.nearest_QK[:, :k]) for k in ranks}


def _single_ms(index: faiss.Index, queries_QD: NDArray[np.float32], allowed_N: Mask) -> list[float]:
    parts = [queries_QD[i : i + 1] for i in range(len(queries_QD))]
    with faiss_threads(1):
        return [_search_ms(index, part_1D, allowed_N) for part_1D in parts]


def _batch_ms(index: faiss.Index, queries_QD: NDArray[np.float32], allowed_N: Mask) -> list[float]:
    parts = [queries_QD[i : i + BATCH] for i in range(0, len(queries_QD), BATCH)]
    return [_search_ms(index, part_QD, allowed_N) / len(part_QD) for part_QD in parts]


def _search_ms(index: faiss.Index, queries_QD: NDArray[np.float32], allowed_N: Mask) -> float:
    begin = time.perf_counter()
    search_allowed(index, queries_QD, TUNED_RANK, allowed_N)
    return (time.perf_counter() - begin) * 1000


def _latency(milliseconds: list[float]) -> Latency:
    p50, p95, p99 = np.percentile(milliseconds, (50, 95, 99))
    return Latency(p50=round(float(p50), 4), p95=round(float(p95), 4), p99=round(float(p99), 4))


def headline(measured: Mapping[str, float], target: float) -> str | None:
    """One line where the target is missed; None where it is reached."""
    rank = f"recall@{TUNED_RANK}"
    found = measured.get(rank, 1.0)
    if found >= target:
        return None
    return f"{rank} is {found:.3f}, below index.recall_target = {target:g}, within the budgets"
