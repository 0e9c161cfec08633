"""Which FAISS index to build: bytes, milliseconds and recall of the candidates, and the choice.

Bytes are counted from the types that FAISS makes of a factory string (tests hold them against
files, within 10 %). Milliseconds are an order of magnitude, for one query on one thread; what an
index really takes is measured once it is built and is in its card. Recall depends on the vectors
more than on anything: how many directions they vary in decides whether 8 bits for each of 64
directions, 6 for 96 or 4 for 128 lose least. So it is measured, on a sample (`index.pilot`).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import faiss

from index.config import Metric
from index.vectors import empty_index

EXACT_BELOW = 10_000
"""Vectors below which an exact search is always the answer: it takes a few milliseconds."""
GRAPH_BELOW = 1_000_000
"""Vectors from which no graph over all of them is proposed: one thread links about 1,000 a second
(one, because the links, and so the file's bytes, depend on the order in which threads add)."""
COARSE_GRAPH_FROM = 10_000_000
"""Vectors from which the lists are so many that finding the nearest ones needs a graph itself."""
POINTS_A_LIST = 39
"""FAISS's least number of training points a centroid (Clustering::min_points_per_centroid)."""

SCAN_BYTES_A_MS = 4e6
"""A sequential scan of vectors or scalar codes."""
CODES_A_MS = 4e5 * 16
"""Bytes of product-quantizer codes, each a look-up in a table, a millisecond."""
GRAPH_HOP_MS = 0.0004
"""One distance at a random place in memory, plus a nanosecond for each 4 bytes compared."""
WIDTHS = (3 / 4, 1 / 2, 3 / 8, 5 / 16, 1 / 4, 3 / 16, 1 / 8)
"""Parts of the dimensions that are kept, by a PCA, turned so that all vary alike."""
SAME_RECALL = 0.005
"""Candidates whose recall differs by less find as much: the smallest is taken."""
ENOUGH_RECALL = 0.99
"""Recall of codes from which whole vectors, four times their size and more, are not looked at."""
PRODUCTS_BELOW = 0.9
"""Product quantizers, which take minutes to train and longer to search, are looked at where no
other candidate that fits finds as much."""
EF_SEARCH = 64
"""What recall near 0.95 usually takes, as √nlist lists do; tuning finds the true ones."""


@dataclass(frozen=True)
class Candidate:
    """A factory string and what it would cost."""

    factory: str
    bytes: int
    """Of knn.index."""
    search_ms: float
    """One query on one thread, an order of magnitude."""
    recall: float | None = None
    """recall@10 that its codes permit on a sample; None where that was not measured."""


@dataclass(frozen=True)
class Choice:
    """The factory string to build, and why it."""

    factory: str
    reason: str
    """One line."""
    candidates: tuple[Candidate, ...]
    """All that were weighed, from the one that finds most to the smallest; none where the string
    was given by hand."""


def choose_factory(
    count: int,
    dimension: int,
    metric: Metric,
    *,
    memory_budget: int,
    search_ms_budget: float,
    code_recall: Callable[[str], float] | None = None,
) -> Choice:
    """The candidate that finds most among those within both budgets (bytes of knn.index; estimated
    milliseconds a query), and of those that find as much the smallest: 'Flat', which misses
    nothing, where it is within both, and below `EXACT_BELOW` vectors whatever it takes.

    `code_recall` measures what the codes of a factory string permit; without it the candidates'
    order decides. Where none fits, the fastest of those within the memory budget, else the
    smallest; the reason says so.
    """
    candidates = tuple(
        _candidate(factory, count, dimension, metric)
        for factory in candidate_factories(count, dimension, metric)
    )
    if count < EXACT_BELOW:
        reason = f"{count} vectors, below {EXACT_BELOW}: an exact search is fast"
        return Choice("Flat", reason, candidates)
    small = [c for c in candidates if c.bytes <= memory_budget]
    fitting = [c for c in small if c.search_ms <= search_ms_budget]
    budgets = f"{byte_size(memory_budget)} and {search_ms_budget:g} ms a query"
    if fitting and fitting[0].factory != "Flat" and code_recall is not None:
        measured = _measured(fitting, code_recall)
        best = _smallest_of_the_best(measured)
        candidates = tuple({c.factory: c for c in (*candidates, *measured)}.values())
        reason = (
            f"the smallest of those that find most of a sample (recall@10 {best.recall:.3f} by "
            f"exhaustive search), {len(fitting)} candidates of {len(candidates)} within {budgets}"
        )
    elif fitting:
        best = fitting[0]
        reason = (
            f"finds most of the {len(fitting)} candidates of {len(candidates)} within {budgets}"
        )
    elif small:
        best = min(small, key=lambda c: c.search_ms)
        reason = f"no candidate is within {budgets}; the fastest within the first"
    else:
        best = min(candidates, key=lambda c: c.bytes)
        reason = f"no candidate is within {budgets}; the smallest"
    about = f"{count} vectors of dimension {dimension}: {reason}"
    return Choice(best.factory, f"{about}; about {byte_size(best.bytes)}", candidates)


def given_factory(factory: str) -> Choice:
    """The choice of somebody who wrote the string."""
    return Choice(factory, "given by hand", ())


def candidate_factories(count: int, dimension: int, metric: Metric) -> list[str]:
    """What 'auto' weighs for so many vectors, roughly from the one that finds most to the
    smallest."""
    lists = num_lists(count)
    coarse = f"IVF{lists}_HNSW32" if count >= COARSE_GRAPH_FROM else f"IVF{lists}"
    factories = ["Flat"]
    if count < GRAPH_BELOW:
        factories += ["HNSW32", "HNSW32,SQ8"]
    factories += [f"{coarse},Flat", f"{coarse},SQ8", f"RR{dimension},{coarse},SQ6"]
    widths = sorted({max(8, round(dimension * part / 8) * 8) for part in WIDTHS}, reverse=True)
    for code in ("SQ8", "SQ6", "SQ4"):
        if code == "SQ4":
            factories.append(f"RR{dimension},{coarse},SQ4")
        factories += [f"PCAR{width},{coarse},{code}" for width in widths if width < dimension]
    for subquantizers in (128, 96, 64, 48, 32, 16, 8):
        if subquantizers <= dimension // 2:
            width = _rotated(dimension, subquantizers)
            factories.append(f"OPQ{subquantizers}_{width},{coarse},PQ{subquantizers}")
    return factories


def _measured(fitting: Iterable[Candidate], code_recall: Callable[[str], float]) -> list[Candidate]:
    """The candidates with their recall; product quantizers where nothing else finds enough."""
    products = [c for c in fitting if c.factory.startswith("OPQ")]
    others = [replace(c, recall=_recall(c, code_recall)) for c in fitting if c not in products]
    if max((c.recall or 0.0 for c in others), default=0.0) >= PRODUCTS_BELOW:
        return others
    # the largest alone: a smaller one of the same kind finds less
    return [*others, *(replace(c, recall=_recall(c, code_recall)) for c in products[:1])]


def _recall(candidate: Candidate, code_recall: Callable[[str], float]) -> float:
    """Vectors that are stored whole need no measurement."""
    codes = candidate.factory.rpartition(",")[2]
    whole = codes == "Flat" or codes.startswith("HNSW")
    return 1.0 if whole else code_recall(candidate.factory)


def _smallest_of_the_best(measured: Iterable[Candidate]) -> Candidate:
    found = [(candidate.recall or 0.0, candidate) for candidate in measured]
    codes = [(recall, candidate) for recall, candidate in found if recall < 1]
    if any(recall >= ENOUGH_RECALL for recall, _ in codes):
        found = codes
    most = max(recall for recall, _ in found)
    return min((c for recall, c in found if recall >= most - SAME_RECALL), key=lambda c: c.bytes)


def num_lists(count: int) -> int:
    """About 4 √N inverted lists, a power of two; 65536 from ten million vectors, 262144 from a
    hundred (FAISS's guidelines), and never more than the vectors can train."""
    if count >= COARSE_GRAPH_FROM:
        return 262_144 if count >= 10 * COARSE_GRAPH_FROM else 65_536
    wanted: int = 1 << round(math.log2(4 * math.sqrt(max(1, count))))
    most: int = 1 << int(math.log2(max(1, count // POINTS_A_LIST)))
    return max(1, min(wanted, most))


def estimated_bytes(factory: str, count: int, dimension: int, metric: Metric = "cosine") -> int:
    """Bytes of the file that `count` vectors would give. Raises UsageError where FAISS does not
    know the string, and NotImplementedError for a type that is not counted here."""
    return round(_bytes(empty_index(factory, dimension, metric), count))


def _candidate(factory: str, count: int, dimension: int, metric: Metric) -> Candidate:
    index = empty_index(factory, dimension, metric)
    return Candidate(factory, round(_bytes(index, count)), round(_search_ms(index, count), 3))


def _bytes(index: faiss.Index, count: int) -> float:
    """Codes, ids and links of the vectors, plus what does not grow with them."""
    typed = faiss.downcast_index(index)  # a view: `index` keeps it alive
    if isinstance(typed, faiss.IndexPreTransform):
        return _transform_bytes(typed) + _bytes(typed.index, count)
    if isinstance(typed, faiss.IndexRefine):
        return _bytes(typed.base_index, count) + _bytes(typed.refine_index, count)
    if isinstance(typed, faiss.IndexIVF):
        ids_and_codes = count * (8 + typed.code_size)
        lists = 8 * typed.nlist + _codebook_bytes(typed)
        return float(ids_and_codes + lists + _bytes(typed.quantizer, typed.nlist))
    if isinstance(typed, faiss.IndexHNSW):
        links = typed.hnsw.nb_neighbors(0) + typed.hnsw.nb_neighbors(1) / _graph_degree_less_1(
            typed
        )
        return float(count * (4 * links + 4 + 8) + _bytes(typed.storage, count))
    if isinstance(typed, faiss.IndexFlatCodes):
        return float(count * typed.code_size + _codebook_bytes(typed))
    raise NotImplementedError(f"the bytes of {type(typed).__name__} are not estimated")


def _graph_degree_less_1(index: faiss.IndexHNSW) -> int:
    """M - 1: a vector is on Σ M^-l = 1 / (M - 1) upper levels on average (Malkov and Yashunin,
    2018, with their mL = 1 / ln M, as in FAISS)."""
    return max(1, int(index.hnsw.nb_neighbors(1)) - 1)


def _codebook_bytes(index: faiss.Index) -> float:
    """Centroids of a product quantizer, bounds of a scalar one."""
    if hasattr(index, "pq"):
        return float(4 * index.d * index.pq.ksub)
    return 8.0 * index.d if hasattr(index, "sq") else 0.0


def _transform_bytes(index: faiss.IndexPreTransform) -> float:
    """Matrices and biases; a PCA keeps all its directions, eigenvalues and the mean as well."""
    total = 0
    for number in range(index.chain.size()):
        transform = faiss.downcast_VectorTransform(index.chain.at(number))
        if isinstance(transform, faiss.LinearTransform):
            total += 4 * transform.d_out * (transform.d_in + 1)
        if isinstance(transform, faiss.PCAMatrix):
            total += 4 * transform.d_in * (transform.d_in + 2)
    return float(total)


def _search_ms(index: faiss.Index, count: int) -> float:
    typed = faiss.downcast_index(index)  # a view: `index` keeps it alive
    if isinstance(typed, faiss.IndexPreTransform):
        return _search_ms(typed.index, count)
    if isinstance(typed, faiss.IndexIVF):
        coarse = _search_ms(typed.quantizer, typed.nlist)
        return coarse + _scan_ms(typed, count / math.sqrt(typed.nlist))
    if isinstance(typed, faiss.IndexHNSW):
        compared = EF_SEARCH * typed.hnsw.nb_neighbors(1)
        return float(compared * (GRAPH_HOP_MS + 1e-6 * typed.storage.sa_code_size() / 4))
    return _scan_ms(typed, count)


def _scan_ms(index: faiss.Index, count: float) -> float:
    rate = CODES_A_MS if hasattr(index, "pq") else SCAN_BYTES_A_MS
    return float(count * index.code_size / rate)


def _rotated(dimension: int, subquantizers: int) -> int:
    """Dimensions after OPQ: a multiple of the sub-quantizers, 4 each where there are as many."""
    return min(4, dimension // subquantizers) * subquantizers


def byte_size(count: float) -> str:
    """`1.2 TB`, with powers of ten."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:,.3g} {unit}" if count < 1000 else f"{count:,.0f} {unit}"
