"""Search: open an index, checked against its card, and ask it. Needs no model; vectors of queries
come from index.embeddings.

N vectors, D dimension, Q queries, K neighbours.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from extractors.errors import AbortError, UsageError
from index.card import IndexCard, read_card
from index.clip_vectors import scan
from index.embedding_shards import CLIP_SCHEMA, MODALITIES
from index.filters import allowed_rows
from index.hits import Hit as Hit
from index.hits import merge_overlapping
from index.search_parameters import apply_parameters, search_allowed
from index.vectors import prepared, read_faiss
from pipeline import storage

INDEX_NAME = "knn.index"
IDS_NAME = "ids.parquet"
MASK_NAME = "mask.npy"
DEEPEST = 64
"""Merging looks at this many hits, at most, for each that is wanted."""

Neighbours = tuple[NDArray[np.float32], NDArray[np.int64]]
"""(Q, K) distances and FAISS ids, best first."""
Nearest = Callable[[NDArray[np.float32], int], Neighbours]


@dataclass(frozen=True)
class SearchIndex:
    """An open index whose files are those its card names."""

    url: str
    card: IndexCard
    vectors: faiss.Index = field(repr=False)
    ids: pa.Table = field(repr=False)
    """Row i is the clip of FAISS id i: id, key, uri, start, end, text, label, split."""
    live_N: NDArray[np.bool_] | None = field(default=None, repr=False)
    """Which ids may be found; None where all may: no clip was removed or replaced."""


def open_index(url: str) -> SearchIndex:
    """Opens an index for search; it is mapped, not read, where it lies on a local disk.

    Raises AbortError, one line, where the card is missing, foreign or of another version, where
    a file is missing or its sha256 differs from the card's, and where dimension or counts differ.
    """
    card = read_card(url)
    index_url, ids_url = storage.join(url, INDEX_NAME), storage.join(url, IDS_NAME)
    _check_digest(index_url, card.index_sha256)
    _check_digest(ids_url, card.ids_sha256)
    vectors = read_faiss(index_url)
    ids = _read_ids(ids_url)
    _check_number(index_url, "dimension", vectors.d, card.dimension)
    _check_number(index_url, "number of vectors", vectors.ntotal, card.count)
    _check_number(ids_url, "number of rows", ids.num_rows, card.count)
    apply_parameters(vectors, card.search_parameters)
    return SearchIndex(url=url, card=card, vectors=vectors, ids=ids, live_N=read_mask(url, card))


def search(
    index: SearchIndex,
    query_vector: NDArray[np.floating],
    k: int,
    where: Mapping[str, str] | None = None,
    *,
    targets: Sequence[str] | None = None,
    merge: bool = False,
) -> list[Hit]:
    """The k clips nearest to a query of shape (D,), best first; fewer where the index has fewer.

    Everything else as in `search_many`.
    """
    query_1D = np.asarray(query_vector).reshape(1, -1)
    return search_many(index, query_1D, k, where, targets=targets, merge=merge)[0]


def search_many(
    index: SearchIndex,
    query_vectors_QD: NDArray[np.floating],
    k: int,
    where: Mapping[str, str] | None = None,
    *,
    targets: Sequence[str] | None = None,
    merge: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> list[list[Hit]]:
    """The k clips nearest to each of Q queries, in one call of FAISS.

    `where` admits only clips that meet all its conditions, which FAISS checks while it searches:
    keys and values as in `index.filters.allowed_rows`. `targets` compares with the embeddings of
    these modalities instead of those that were indexed: every stored embedding is read, exact and
    slow on a large index, until `stopped` (AbortError). `merge` joins hits of one video that
    overlap in time (`index.hits.merge_overlapping`) and searches on until there are k, or DEEPEST
    times k were looked at. What a query finds does not depend on the others. Queries are scaled
    to unit length where the index's metric is cosine. Raises UsageError for a k below 1, for
    queries of another dimension or with a value that is not finite, for a wrong condition or
    target.
    """
    queries_QD = np.ascontiguousarray(query_vectors_QD, np.float32)
    _check_query(index, queries_QD, k)
    _check_targets(index, targets)
    queries_QD = prepared(queries_QD, index.card.metric)
    allowed_N = _allowed(index, where)

    def nearest(queries_QD: NDArray[np.float32], depth: int) -> Neighbours:
        if targets is None or not is_scanned(index, targets):
            return search_allowed(index.vectors, queries_QD, depth, allowed_N)
        return scan(index.url, index.card, queries_QD, depth, targets, allowed_N, stopped)

    find = _merged_hits if merge else _hits
    return find(index, nearest, queries_QD, k)


def is_scanned(index: SearchIndex, targets: Sequence[str] | None) -> bool:
    """Whether these targets are others than those that were indexed."""
    return targets is not None and set(targets) != set(index.card.target_modalities)


def read_mask(url: str, card: IndexCard) -> NDArray[np.bool_] | None:
    """The mask of an index, True for the ids that may be found; None where there is none.

    Raises AbortError where it is not the one that the card describes.
    """
    if card.mask_sha256 is None:
        return None
    mask_url = storage.join(url, MASK_NAME)
    _check_digest(mask_url, card.mask_sha256)
    try:
        live_N = np.load(io.BytesIO(storage.read_bytes(mask_url)), allow_pickle=False)
    except ValueError as err:
        raise AbortError(f"{mask_url}: not a mask of ids: {err}") from err
    _check_number(mask_url, "number of ids", live_N.size, card.count)
    _check_number(mask_url, "number of masked ids", int((~live_N).sum()), card.masked)
    return np.asarray(live_N, bool)


def _allowed(index: SearchIndex, where: Mapping[str, str] | None) -> NDArray[np.bool_] | None:
    if not where:
        return index.live_N
    allowed_N = allowed_rows(index.ids, where)
    return allowed_N if index.live_N is None else allowed_N & index.live_N


def _hits(
    index: SearchIndex, nearest: Nearest, queries_QD: NDArray[np.float32], k: int
) -> list[list[Hit]]:
    distances_QK, ids_QK = nearest(queries_QD, min(k, index.card.count))
    scores_QK = -distances_QK if index.card.metric == "l2" else distances_QK
    found_QK = ids_QK >= 0  # FAISS fills up with -1 where it finds fewer
    rows = iter(index.ids.take(pa.array(ids_QK[found_QK])).to_pylist())
    return [
        [_hit(rank, next(rows), float(s)) for rank, s in enumerate(scores_K[found_K], start=1)]
        for scores_K, found_K in zip(scores_QK, found_QK, strict=True)
    ]


def _merged_hits(
    index: SearchIndex, nearest: Nearest, queries_QD: NDArray[np.float32], k: int
) -> list[list[Hit]]:
    """Each query is searched deeper until it has k, and no deeper: more hits would make longer
    ones of those it has."""
    merged: list[list[Hit]] = [[] for _ in queries_QD]
    depth, deepest = k, min(DEEPEST * k, index.card.count)
    numbers = list(range(len(queries_QD)))
    while numbers:
        found = _hits(index, nearest, queries_QD[numbers], depth)
        for number, hits in zip(numbers, found, strict=True):
            merged[number] = merge_overlapping(hits)[:k]
        if depth >= deepest:
            break
        given = dict(zip(numbers, map(len, found), strict=True))
        numbers = [n for n in numbers if len(merged[n]) < k and given[n] == depth]
        depth = min(2 * depth, deepest)
    return merged


def _hit(rank: int, row: Mapping[str, Any], score: float) -> Hit:
    return Hit(
        rank=rank,
        id=row["id"],
        video=row["key"],
        uri=row["uri"],
        start=row["start"],
        end=row["end"],
        score=score,
        text=row["text"],
    )


def check_model(index: SearchIndex, model_digest: str) -> None:
    """Raises AbortError where queries would be embedded by another model than the index's."""
    expected = index.card.model_digest
    if model_digest != expected:
        raise AbortError(
            f"{index.url}: made with model {expected[:12]}, the queries' is {model_digest[:12]}: "
            f"use the run that made it ({index.card.model}) or build the index again"
        )


def _check_query(index: SearchIndex, queries_QD: NDArray[np.float32], k: int) -> None:
    if k < 1:
        raise UsageError(f"k = {k}: ask for 1 or more hits")
    if queries_QD.shape[1] != index.card.dimension:
        raise UsageError(
            f"{index.url}: a query has dimension {queries_QD.shape[1]}, "
            f"the index {index.card.dimension}: was it embedded by another model?"
        )
    if not np.isfinite(queries_QD).all():
        raise UsageError(f"{index.url}: the query's vector is not finite")


def _check_targets(index: SearchIndex, targets: Sequence[str] | None) -> None:
    if targets is None:
        return
    missing = [name for name in targets if not index.card.embeddings.get(name)]
    if missing or not targets:
        known = [name for name in MODALITIES if index.card.embeddings.get(name)]
        raise UsageError(
            f"targets {', '.join(missing) or '(none)'}: clips of this index have {', '.join(known)}"
        )


def _read_ids(url: str) -> pa.Table:
    try:
        ids = pq.read_table(pa.BufferReader(storage.read_bytes(url)))
    except pa.ArrowInvalid as err:
        raise AbortError(f"{url}: not a table of clips: {str(err).splitlines()[0]}") from err
    if ids.schema.names != CLIP_SCHEMA.names:
        raise AbortError(f"{url}: not a table of clips: its columns are {ids.schema.names}")
    return ids.combine_chunks()  # rows are taken for every search


def _check_digest(url: str, expected: str) -> None:
    try:
        actual = storage.sha256(url)
    except FileNotFoundError as err:
        raise AbortError(f"{url}: missing: build the index again") from err
    if actual != expected:
        raise AbortError(
            f"{url}: sha256 {actual[:12]}… is not the card's {expected[:12]}…: damaged, replaced, "
            "or a build was stopped; build the index again"
        )


def _check_number(url: str, what: str, actual: int, expected: int) -> None:
    if actual != expected:
        raise AbortError(f"{url}: {what} is {actual}, the card says {expected}: build it again")
