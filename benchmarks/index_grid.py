"""Recall, memory and time of 'auto' and of a grid of factory strings, on the same vectors.

Every index is built on one thread as `pipeline run index` builds it, but from memory. One of the
grid is measured at each setting of its search (a curve), 'auto' at the one setting that it tuned
itself, on queries of its own making. All are asked by the same held-out queries, which neither
training nor tuning has seen.

N vectors, D dimension, Q queries.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import faiss
import numpy as np
from index_frontier import Point, Row
from index_vectors import numbered_pieces, pieces
from measuring import Cost, timed
from numpy.typing import NDArray

from index.config import IndexConfig
from index.construct import add_vectors, fill_index, train_index, training_rows
from index.factory import Choice, choose_factory, num_lists
from index.held_out import HeldOut, Measured, exact_nearest, measure, perturbed, recall_at
from index.pilot import ROWS, code_recall, make_pilot
from index.search_parameters import apply_parameters, tunable_values

K = 10
TIMED = 500
"""Queries that are timed one at a time; of exact search fewer."""
TIMED_EXACT = 100
ENOUGH = 0.995
"""Recall from which a curve is not followed further."""
NO_MORE = 0.0005
"""Recall that the next setting must add at least, likewise."""


@dataclass(frozen=True)
class Vectors:
    """What is indexed, and what asks."""

    name: str
    rows: NDArray[np.float32] = field(repr=False)
    """(N, D), of unit length."""
    held_out: HeldOut = field(repr=False)

    @property
    def raw_bytes(self) -> int:
        """Of a float32 vector."""
        return 4 * self.rows.shape[1]


def with_truth(name: str, x_ND: NDArray[np.float32], queries_QD: NDArray[np.float32]) -> Vectors:
    """Vectors with the truly nearest of their queries."""
    k = min(100, len(x_ND))
    nearest_QK = exact_nearest(queries_QD, numbered_pieces(x_ND), "cosine", k)
    return Vectors(name, x_ND, HeldOut(queries_QD, nearest_QK))


def grid(count: int, dimension: int) -> list[str]:
    """Graphs, lists with every kind of code, rotations before, a graph over the lists."""
    lists = num_lists(count)
    half, small = dimension // 4, dimension // 16
    return [
        f"IVF{lists},Flat", f"IVF{lists},SQ8", f"IVF{lists},SQ6", f"IVF{lists},SQ4",
        f"IVF{lists},PQ{half}", f"IVF{lists},PQ{2 * half}x4fs", f"IVF{lists},RaBitQ", "SQ8",
        f"OPQ{3 * small}_{12 * small},IVF{lists},PQ{3 * small}", f"OPQ{half},IVF{lists},PQ{half}",
        f"IVF{lists}_HNSW32,SQ8", f"RR{dimension},IVF{lists},RaBitQ4",
        f"RR{dimension},IVF{lists},RaBitQ6", "HNSW32,SQ8", "HNSW32",
    ]  # fmt: skip


def exact_row(vectors: Vectors) -> Row:
    """Exact search."""
    x_ND = vectors.rows
    index = add_vectors(faiss.IndexFlatIP(x_ND.shape[1]), pieces(x_ND))
    point = measured_point(index, vectors, {}, TIMED_EXACT)
    return Row("Flat", "grid", float(vectors.raw_bytes), 0.0, 0.0, (point,))


def grid_row(factory: str, vectors: Vectors, exact_ms: float) -> Row:
    """One of the grid."""
    index, train, add = built(factory, vectors.rows)
    points = curve(index, vectors, exact_ms)
    return _row(index, factory, "grid", vectors, (train, add), points)


def curve(index: faiss.Index, vectors: Vectors, exact_ms: float) -> list[Point]:
    """From the fastest setting to where it finds nearly all, or no more, or takes a fifth of the
    time of exact search."""
    points: list[Point] = []
    for parameters in tunable_values(index) or [{}]:
        apply_parameters(index, parameters)
        points.append(measured_point(index, vectors, parameters))
        if points[-1].recall >= ENOUGH or points[-1].p50_ms > exact_ms / 5:
            break
        if len(points) > 1 and points[-1].recall - points[-2].recall < NO_MORE:
            break
    return points


def auto_row(asked: str, vectors: Vectors, config: IndexConfig, exact_ms: float) -> Row:
    """What 'auto' chooses, tuned as it tunes itself: on stored vectors that were moved."""
    x_ND = vectors.rows
    chosen: list[Choice] = []
    choosing = timed(lambda: chosen.append(_chosen(x_ND, config)))
    choice = chosen[0]
    index, train, add = built(choice.factory, x_ND)
    train += choosing
    own: list[Measured] = []
    tuning = timed(lambda: own.append(_tuned(index, x_ND, config)))
    apply_parameters(index, own[0].search_parameters)
    point = measured_point(index, vectors, own[0].search_parameters)
    found = _row(index, choice.factory, asked, vectors, (train, add), [point])
    return replace(
        found, reason=choice.reason, tune_cpu_seconds=round(tuning.cpu, 2),
        curve=tuple(curve(index, vectors, exact_ms)),
    )  # fmt: skip


def _chosen(x_ND: NDArray[np.float32], config: IndexConfig) -> Choice:
    """As index.build chooses."""
    rng = np.random.default_rng((config.seed, 3))
    drawn = rng.choice(len(x_ND), min(ROWS, len(x_ND)), replace=False, shuffle=False)
    pilot = make_pilot(x_ND[np.sort(drawn)], config.metric, config.seed)
    return choose_factory(
        *x_ND.shape, config.metric, memory_budget=config.memory_budget,
        search_ms_budget=config.search_ms_budget, code_recall=partial(code_recall, pilot),
    )  # fmt: skip


def _tuned(index: faiss.Index, x_ND: NDArray[np.float32], config: IndexConfig) -> Measured:
    rng = np.random.default_rng((config.seed, 2))
    own = np.sort(rng.choice(len(x_ND), min(config.held_out_queries, len(x_ND)), replace=False))
    queries_QD = perturbed(x_ND[own], config.metric, config.seed)
    k = min(100, len(x_ND))
    truth = HeldOut(queries_QD, exact_nearest(queries_QD, numbered_pieces(x_ND), "cosine", k))
    return measure(index, truth, config)


def built(factory: str, x_ND: NDArray[np.float32]) -> tuple[faiss.Index, Cost, Cost]:
    """An index, and what training and adding cost.

    Plain lists of the same vectors have the same centres: k-means is run once for all that have as
    many, and its cost counted for each.
    """
    rows = training_rows(factory, *x_ND.shape, "cosine")
    drawn = np.random.default_rng(0).choice(len(x_ND), rows, replace=False, shuffle=False)
    sample_ND = x_ND[np.sort(drawn)]
    made: list[faiss.Index] = []
    centres_LD, found = None, Cost(0.0, 0.0)
    if re.match(r"IVF\d+,", factory):
        centres_LD, found = _shared_centres(factory.partition(",")[0], x_ND, sample_ND)
    train = timed(
        lambda: made.append(train_index(factory, x_ND.shape[1], "cosine", sample_ND, centres_LD))
    )
    add = timed(lambda: made.append(fill_index(made[0], lambda: pieces(x_ND))))
    return made[1], train + found, add


_centres: dict[tuple[str, bytes, int], tuple[NDArray[np.float32], Cost]] = {}


def _shared_centres(
    lists: str, x_ND: NDArray[np.float32], sample_ND: NDArray[np.float32]
) -> tuple[NDArray[np.float32], Cost]:
    """Of lists of whole vectors, whose training is nothing but k-means."""
    key = (lists, sample_ND[:2].tobytes(), len(sample_ND))
    if key not in _centres:
        made: list[faiss.Index] = []
        cost = timed(
            lambda: made.append(train_index(f"{lists},Flat", x_ND.shape[1], "cosine", sample_ND))
        )
        quantizer = faiss.downcast_index(faiss.extract_index_ivf(made[0]).quantizer)
        _centres[key] = (quantizer.reconstruct_n(0, quantizer.ntotal), cost)
    return _centres[key]


def _row(
    index: faiss.Index, factory: str, asked: str, vectors: Vectors, costs: tuple[Cost, Cost],
    points: Sequence[Point],
) -> Row:  # fmt: skip
    size = len(faiss.serialize_index(index)) / len(vectors.rows)
    train, add = (round(cost.cpu, 2) for cost in costs)
    return Row(factory, asked, round(size, 2), train, add, tuple(points))


def measured_point(
    index: faiss.Index, vectors: Vectors, parameters: Mapping[str, int], timed_queries: int = TIMED
) -> Point:
    """What the held-out queries find as the index is set now, and how fast."""
    queries_QD, nearest_QK = vectors.held_out.queries_QD, vectors.held_out.nearest_QK
    k = min(K, len(vectors.rows))
    _, found_QK = index.search(queries_QD, k)
    milliseconds = []
    for query_D in queries_QD[:timed_queries]:
        began = time.perf_counter()
        index.search(query_D[None], k)
        milliseconds.append((time.perf_counter() - began) * 1000)
    p50, p95, p99 = (round(float(p), 4) for p in np.percentile(milliseconds, (50, 95, 99)))
    return Point(dict(parameters), recall_at(found_QK, nearest_QK[:, :k]), p50, p95, p99)
