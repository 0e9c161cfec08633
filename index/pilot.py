"""What the codes of an index lose, measured on a few thousand of the vectors before it is built.

A sample is coded as the index would code it and searched in all its lists, so that what is not
found was lost by the codes. In a sample neighbours lie further apart than in the whole, and so its
recall is higher; the order of the codes, which is what is asked for, is that of the whole.

N vectors, D dimension, Q queries, K neighbours.
"""

from dataclasses import dataclass, field

import faiss
import numpy as np
from numpy.typing import NDArray

from index.config import Metric
from index.construct import add_vectors, train_index
from index.held_out import exact_nearest, perturbed, recall_at

ROWS = 16_384
QUERIES = 256
LISTS = 64
"""As many vectors a list as the index itself will roughly have: codes hold what a list's centre
leaves over."""
NEAREST = 10


@dataclass(frozen=True)
class Pilot:
    """A sample with queries and their truly nearest."""

    rows_ND: NDArray[np.float32] = field(repr=False)
    queries_QD: NDArray[np.float32] = field(repr=False)
    nearest_QK: NDArray[np.int64] = field(repr=False)
    metric: Metric


def make_pilot(sample_ND: NDArray[np.float32], metric: Metric, seed: int = 0) -> Pilot:
    """From vectors as FAISS compares them, at most `ROWS` of them; queries are moved vectors."""
    rng = np.random.default_rng((seed, 3))
    drawn = rng.choice(len(sample_ND), min(ROWS, len(sample_ND)), replace=False, shuffle=False)
    rows_ND = sample_ND[np.sort(drawn)]
    asked = rng.choice(len(rows_ND), min(QUERIES, len(rows_ND)), replace=False)
    queries_QD = perturbed(rows_ND[asked], metric, seed)
    k = min(NEAREST, len(rows_ND))
    return Pilot(rows_ND, queries_QD, exact_nearest(queries_QD, [(0, rows_ND)], metric, k), metric)


def code_recall(pilot: Pilot, factory: str) -> float:
    """recall@10 on the pilot of the codes that a factory string stands for; 1 where vectors are
    stored whole. The number of its lists does not matter."""
    few = small(factory, max(1, min(LISTS, len(pilot.rows_ND) // 64)))
    index = train_index(few, pilot.rows_ND.shape[1], pilot.metric, pilot.rows_ND)
    index = add_vectors(index, [pilot.rows_ND])
    lists = faiss.extract_index_ivf(index)
    lists.nprobe = lists.nlist
    _, found_QK = index.search(pilot.queries_QD, pilot.nearest_QK.shape[1])
    return recall_at(found_QK, pilot.nearest_QK)


def small(factory: str, lists: int) -> str:
    """The factory string with so many lists, found without a graph; with lists where it has none.

    Graphs lose nothing but what their codes lose: 'HNSW32,SQ8' has the codes of 'IVF…,SQ8'.
    """
    parts = factory.split(",")
    coarse = [part.startswith(("IVF", "HNSW")) for part in parts]
    if not any(coarse):
        parts.insert(len(parts) - 1, f"IVF{lists}")
    else:
        parts[coarse.index(True)] = f"IVF{lists}"
    if parts[-1].startswith("IVF"):
        parts.append("Flat")
    return ",".join(parts)
