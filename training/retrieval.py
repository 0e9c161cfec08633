"""Retrieval between modalities over a set of embedded clips.

Shapes: Q queries, N candidates, D embedding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extractors.errors import UsageError
from training.embedding import ClipEmbeddings
from training.retrieval_metrics import Retrieval, retrieval_metrics, score_ranks

DEFAULT_PAIRS = (
    ("text", "video"),
    ("text", "audio"),
    ("text", "video+audio"),
    ("audio", "video"),
    ("video", "audio"),
    ("video", "text"),
    ("audio", "text"),
)
QUERY_BLOCK = 1024


@dataclass(frozen=True)
class RetrievalRow:
    """One row of a retrieval table."""

    query: str
    target: str
    """A modality, or several joined by '+'."""
    metrics: Retrieval
    items: int
    """Clips of the whole set, whatever they lack."""


def retrieval_rows(
    embeddings: ClipEmbeddings,
    pairs: Sequence[tuple[str, str]] = DEFAULT_PAIRS,
    complete: bool = False,
    total: int | None = None,
) -> list[RetrievalRow]:
    """Ranks, for each pair, the candidates of every query over the whole set at once.

    Candidates are the clips that have any modality of the target (with `complete`: all of them,
    as where MSR-VTT's videos without sound are left out), queries those of them that have any of
    the query; the right candidate of a query is its own clip. Scores are dot products of
    `ClipEmbeddings.joined` vectors. `total` is the denominator of R@k where the clips that are no
    queries count as misses (MSR-VTT: 1000, of which 968 have sound); None leaves them out. Pairs
    without queries (a modality the set lacks) are left out. Raises UsageError for a `total` below
    the number of clips.
    """
    if total is not None and total < len(embeddings):
        raise UsageError(f"total = {total}: the set has {len(embeddings)} clips already")
    rows = []
    for query, target in pairs:
        candidate = _having(embeddings, target.split("+"), complete)
        asked = candidate & _having(embeddings, query.split("+"), complete)
        if not asked.any():
            continue
        queries_QD = embeddings.joined(query.split("+"))[asked]
        candidates_ND = embeddings.joined(target.split("+"))[candidate]
        right_Q = (np.cumsum(candidate) - 1)[asked]
        blocks = [
            score_ranks(queries_QD[block] @ candidates_ND.T, right_Q[block])
            for block in row_blocks(len(queries_QD), QUERY_BLOCK)
        ]
        above_Q, tied_Q = (np.concatenate(part) for part in zip(*blocks, strict=True))
        missing = 0 if total is None else total - len(queries_QD)
        metrics = retrieval_metrics(above_Q, tied_Q, len(candidates_ND), missing)
        rows.append(RetrievalRow(query, target, metrics, len(asked)))
    return rows


def check_any_row(rows: Sequence[RetrievalRow], pairs: Sequence[tuple[str, str]]) -> None:
    """Raises UsageError where no pair could be measured."""
    if not rows:
        named = ", ".join(f"{query}:{target}" for query, target in pairs)
        raise UsageError(f"no clip has both modalities of any pair of {named}")


def row_blocks(count: int, size: int) -> Iterator[slice]:
    """Slices that cover `count` rows: a score matrix is never held whole."""
    return (slice(first, first + size) for first in range(0, count, size))


def _having(
    embeddings: ClipEmbeddings, modalities: Sequence[str], complete: bool
) -> NDArray[np.bool_]:
    """(N,): the clips that have any of the modalities, with `complete` all of them."""
    any_N = embeddings.having(modalities)  # refuses unknown names
    if not complete:
        return any_N
    all_N: NDArray[np.bool_] = np.all([embeddings.present[name] for name in modalities], axis=0)
    return all_N
