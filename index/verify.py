"""Whether an index is what its card says, and whether its dataset has moved on.

N vectors, D dimension, Q queries, K neighbours.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from index.card import Block
from index.embedding_shards import (
    SUM,
    EmbeddingRecord,
    embedding_batches,
    embedding_numbers,
    is_whole,
    read_record,
)
from index.search import SearchIndex, open_index
from index.search_parameters import search_allowed
from index.stored_vectors import sample_vectors
from pipeline.shards import read_record as read_shard_record
from pipeline.shards import shard_name, shard_numbers

SAMPLE = 100
"""Vectors that are searched for themselves."""
NEAREST = 10
LEAST_FOUND = 0.9
"""Share of the sample that must be among its own 10 nearest; an approximate index that found less
of its held-out queries needs that less here."""


def verify_index(index: str) -> list[str]:
    """One line a problem; empty where knn.index, ids, mask, embeddings, feature shards and card
    agree, and a sample of the vectors finds itself.

    Raises AbortError where there is no index to compare with: no card, a foreign or old one, or a
    file that is not the one it names.
    """
    opened = open_index(index)
    records = {number: read_record(index, number) for number in embedding_numbers(index)}
    problems = [*_block_sums(opened), *_dataset_problems(opened, records)]
    for block in opened.card.blocks:
        if not block.masked:
            problems += _block_problems(opened, block, records.get(block.shard))
    if not problems:  # the sample is read from the embeddings that were just compared
        problems += _sample_problems(opened)
    return problems


def _block_sums(opened: SearchIndex) -> Iterator[str]:
    card, first = opened.card, 0
    for block in card.blocks:
        if block.first != first:
            yield f"{opened.url}: the card's blocks leave a gap at id {first}"
        first += block.count
    if first != card.count:
        yield f"{opened.url}: the card's blocks hold {first} vectors, the index {card.count}"
    masked = sum(block.count for block in card.blocks if block.masked)
    if masked != card.masked:
        yield f"{opened.url}: the card's blocks mask {masked} vectors, the mask {card.masked}"
    if opened.live_N is not None:
        flags = [np.full(block.count, not block.masked) for block in card.blocks]
        if not np.array_equal(np.concatenate(flags), opened.live_N):
            yield f"{opened.url}/mask.npy: masks other ids than the card's blocks"


def _dataset_problems(
    opened: SearchIndex, records: dict[int, EmbeddingRecord | None]
) -> Iterator[str]:
    """Feature shards that the index does not hold as they are now."""
    dataset = opened.card.dataset
    if opened.card.imported is not None:  # its source may be gone
        return
    held = {block.shard for block in opened.card.blocks if not block.masked}
    for number in shard_numbers(dataset):
        record = records.get(number)
        if number not in held or record is None:
            yield f"shard {shard_name(number)}: not in the index; run `pipeline index append`"
        elif record.tar_sha256 != read_shard_record(dataset, number).tar_sha256:
            yield f"shard {shard_name(number)}: changed since; run `pipeline index append`"
    for number in sorted(held - set(shard_numbers(dataset))):
        name = shard_name(number)
        yield f"shard {name}: in the index, but not in {dataset}; run `pipeline index append`"


def _block_problems(
    opened: SearchIndex, block: Block, record: EmbeddingRecord | None
) -> Iterator[str]:
    name = f"embeddings of shard {shard_name(block.shard)}"
    if record is None:
        yield f"{name}: no record; run `pipeline index append`"
    elif record.parquet_sha256 != block.parquet_sha256:
        yield f"{name}: not those in the index; run `pipeline index append`"
    elif record.model_digest != opened.card.model_digest:
        yield f"{name}: made by another model; run `pipeline run index`"
    elif record.present[SUM] != block.count:
        yield f"{name}: {record.present[SUM]} vectors, the index holds {block.count}"
    elif not is_whole(opened.url, record):
        yield f"{name}: missing or damaged; run `pipeline index append`"
    else:
        yield from _id_problems(opened, block, name)


def _id_problems(opened: SearchIndex, block: Block, name: str) -> Iterator[str]:
    first = block.first
    for table in embedding_batches(opened.url, block.shard, ("id",)):
        stored = opened.ids.column("id").slice(first, table.num_rows)
        mine = pa.chunked_array(table.column("id").chunks, pa.string())
        if not stored.equals(mine):
            differ = [i for i, (a, b) in enumerate(zip(stored, mine, strict=False)) if a != b]
            at = first + (differ[0] if differ else min(len(stored), len(mine)))
            yield f"{opened.url}/ids.parquet: row {at} is not the clip of the {name}"
            return
        first += table.num_rows


def _sample_problems(opened: SearchIndex) -> Iterator[str]:
    """A vector is found where it, or one with the same score (a silent clip has twins), is among
    its own nearest."""
    metric = opened.card.metric
    own_Q, vectors_QD = sample_vectors(opened.url, opened.card.blocks, metric, SAMPLE, (0, 3))
    scores_QK, ids_QK = search_allowed(opened.vectors, vectors_QD, NEAREST, opened.live_N)
    found_Q = (ids_QK == own_Q[:, None]).any(axis=1)
    products_Q = (vectors_QD**2).sum(axis=1)
    best_Q = np.zeros_like(products_Q) if metric == "l2" else products_Q
    found_Q |= np.isclose(scores_QK[:, -1], best_Q, rtol=1e-4, atol=1e-6)
    share = float(found_Q.mean())
    expected = min(LEAST_FOUND, opened.card.recall.get("recall@10", 1.0))
    if share < expected:
        yield (
            f"{opened.url}/knn.index: {share:.0%} of {len(own_Q)} vectors find themselves among "
            f"their {NEAREST} nearest, at least {expected:.0%} should: not these vectors' index?"
        )
