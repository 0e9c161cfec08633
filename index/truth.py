"""The held-out queries of an index and what is truly nearest to them, kept beside it.

held_out.npz    queries, the scores and ids of their nearest, and the blocks that were looked at

So an append compares the queries with what is new, not with everything again. A build draws and
compares anew: nothing in an index depends on what lay there before.

Q queries, D dimension, K neighbours.
"""

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.card import Block
from index.config import IndexConfig
from index.held_out import HeldOut, Nearest, best_of, exact_search, perturbed
from index.stored_vectors import each_block, numbered_vectors, sample_vectors
from pipeline import storage

TRUTH_NAME = "held_out.npz"
DEPTH = 100
COVERED = 0.8
"""Share of the vectors that must have been there when the queries were drawn: queries near old
clips alone say little of an index that has grown by more."""


@dataclass(frozen=True)
class _Truth:
    queries_QD: NDArray[np.float32]
    scores_QK: NDArray[np.float32]
    ids_QK: NDArray[np.int64]


def new_truth(output: str, config: IndexConfig, blocks: Sequence[Block]) -> HeldOut:
    """Queries drawn by the seed from the blocks that are not masked, and their nearest of all of
    these; published for `extended_truth`."""
    live = [block for block in blocks if not block.masked]
    seed = (config.seed, 2)
    _, drawn_QD = sample_vectors(output, live, config.metric, config.held_out_queries, seed)
    queries_QD = perturbed(drawn_QD, config.metric, config.seed)
    return _published(output, config, live, _compared(output, config, live, queries_QD))


def extended_truth(output: str, config: IndexConfig, blocks: Sequence[Block]) -> HeldOut:
    """As `new_truth`, with the queries that were published and their nearest of what was there,
    where that is still true: no block of it is masked, and most of what is there now was."""
    live = [block for block in blocks if not block.masked]
    found = _read(output, config)
    if found is None:
        return new_truth(output, config, blocks)
    old, looked_at = found
    new = [block for block in live if _name(block) not in looked_at]
    kept = [block for block in live if _name(block) in looked_at]
    total = sum(block.count for block in live)
    if len(kept) < len(looked_at) or sum(block.count for block in kept) < COVERED * total:
        return new_truth(output, config, blocks)
    added = _compared(output, config, new, old.queries_QD)
    merged = _merged(old, added, min(DEPTH, total), descending=config.metric != "l2")
    return _published(output, config, live, merged)


def _compared(
    output: str, config: IndexConfig, live: Sequence[Block], queries_QD: NDArray[np.float32]
) -> _Truth:
    depth = min(DEPTH, sum(block.count for block in live))

    def nearest(block: Block) -> Nearest:
        vectors = numbered_vectors(output, [block], config.metric)
        return exact_search(queries_QD, vectors, config.metric, depth)

    found = each_block(nearest, live)
    return _Truth(queries_QD, *best_of(found, len(queries_QD), config.metric, depth))


def _merged(old: _Truth, new: _Truth, depth: int, *, descending: bool) -> _Truth:
    """The nearest of both; of equal ones the older first."""
    scores_QK = np.concatenate([old.scores_QK, new.scores_QK], axis=1)
    ids_QK = np.concatenate([old.ids_QK, new.ids_QK], axis=1)
    order_QK = np.argsort(-scores_QK if descending else scores_QK, axis=1, kind="stable")
    best_QK = order_QK[:, :depth]
    return _Truth(
        old.queries_QD,
        np.take_along_axis(scores_QK, best_QK, axis=1),
        np.take_along_axis(ids_QK, best_QK, axis=1),
    )


def _published(output: str, config: IndexConfig, live: Sequence[Block], truth: _Truth) -> HeldOut:
    about = {"settings": _settings(config), "blocks": [_name(block) for block in live]}
    content = io.BytesIO()
    np.savez(
        content,
        queries=truth.queries_QD,
        scores=truth.scores_QK,
        ids=truth.ids_QK,
        about=np.array(json.dumps(about)),
    )
    storage.publish_bytes(storage.join(output, TRUTH_NAME), content.getvalue())
    return HeldOut(truth.queries_QD, truth.ids_QK)


def _read(output: str, config: IndexConfig) -> tuple[_Truth, set[str]] | None:
    """None where there is none, or one of other settings, or a damaged one."""
    try:
        content = storage.read_bytes(storage.join(output, TRUTH_NAME))
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            truth = _Truth(stored["queries"], stored["scores"], stored["ids"])
    except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return (truth, set(about["blocks"])) if about["settings"] == _settings(config) else None


def _settings(config: IndexConfig) -> list[str | int]:
    return [config.metric, config.held_out_queries, config.seed]


def _name(block: Block) -> str:
    return f"{block.first}+{block.count} {block.parquet_sha256}"
