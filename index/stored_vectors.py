"""The vectors of an index as they lie in embeddings/, read a batch at a time.

N vectors, D dimension.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from extractors.errors import AbortError
from index.card import Block
from index.config import Metric
from index.embedding_shards import (
    CLIP_SCHEMA,
    SUM,
    EmbeddingRecord,
    embedding_batches,
    embedding_url,
    read_record,
    vector_name,
    vectors_of,
)
from index.vectors import faiss_threads, prepared

Result = TypeVar("Result")


def make_blocks(records: Sequence[EmbeddingRecord], first: int = 0) -> tuple[Block, ...]:
    """A block a shard, in the order of the records, with ids from `first` on."""
    blocks = []
    for record in records:
        count = record.present[SUM]
        blocks.append(Block(record.number, first, count, record.parquet_sha256))
        first += count
    return tuple(blocks)


def block_vectors(index: str, block: Block, metric: Metric) -> Iterator[NDArray[np.float32]]:
    """The vectors of one block, as FAISS compares them, in the order of its ids."""
    return (prepared(x_ND, metric) for x_ND in _stored(index, block))


def block_record(index: str, block: Block) -> EmbeddingRecord:
    """Of a block's embeddings. Raises AbortError where they are not those that were indexed: rows
    are known by their place, and another run may have embedded the shard anew since."""
    record = read_record(index, block.shard)
    if record is None or record.parquet_sha256 != block.parquet_sha256:
        raise AbortError(
            f"{embedding_url(index, block.shard, '.parquet')}: not the embeddings that were "
            "indexed: run `pipeline index append` to its end, then open the index anew"
        )
    return record


def block_tables(index: str, block: Block, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Columns of a block's rows, a batch at a time. Raises AbortError as `block_record` does."""
    block_record(index, block)
    yield from embedding_batches(index, block.shard, columns)


def _stored(index: str, block: Block) -> Iterator[NDArray[np.float32]]:
    for table in block_tables(index, block, [vector_name(SUM)]):
        yield vectors_of(table, SUM)


def numbered_vectors(
    index: str, blocks: Iterable[Block], metric: Metric
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The first id and the vectors of every batch of the blocks that are not masked."""
    for block in blocks:
        first = block.first
        if block.masked:
            continue
        for batch_ND in block_vectors(index, block, metric):
            yield first, batch_ND
            first += len(batch_ND)


def each_block(work: Callable[[Block], Result], blocks: Sequence[Block]) -> Iterator[Result]:
    """The work on every block, in order, on as many threads as FAISS has: reading the vectors is
    dearer than most that is done with them. FAISS has one thread in each."""
    if not blocks:
        return

    def alone(block: Block) -> Result:
        with faiss_threads(1):
            return work(block)

    with ThreadPoolExecutor(min(len(blocks), faiss.omp_get_max_threads())) as pool:
        yield from pool.map(alone, blocks)


def sample_vectors(
    index: str, blocks: Sequence[Block], metric: Metric, count: int, seed: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids and vectors of `count` of those not masked, or of all, drawn by a seed, ids ascending."""
    live = [block for block in blocks if block.count and not block.masked]
    ids_N = np.concatenate([np.arange(b.first, b.first + b.count) for b in live])
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(ids_N, min(count, len(ids_N)), replace=False, shuffle=False))
    shape = (len(drawn), block_record(index, live[0]).dimension)
    sample_ND = np.empty(shape, np.float32)  # may be gigabytes: never twice
    for _ in each_block(partial(_pick, index, metric, drawn, sample_ND), live):
        pass
    return drawn, sample_ND


def _pick(
    index: str,
    metric: Metric,
    ids_N: NDArray[np.int64],
    sample_ND: NDArray[np.float32],
    block: Block,
) -> None:
    """Puts those of a block's vectors that are among `ids_N`, which ascend, where they belong."""
    first = block.first
    for batch_ND in _stored(index, block):
        begin, end = np.searchsorted(ids_N, (first, first + len(batch_ND)))
        sample_ND[begin:end] = prepared(batch_ND[ids_N[begin:end] - first], metric)
        first += len(batch_ND)


def write_ids(path: Path, index: str, kept: pa.Table | None, blocks: Iterable[Block]) -> int:
    """Writes ids.parquet: the rows that are kept, then those of the blocks, a shard at a time.
    Gives the bytes that they take in memory."""
    taken = 0
    with pq.ParquetWriter(path, CLIP_SCHEMA, compression="zstd") as writer:
        for table in _id_tables(index, kept, blocks):
            writer.write_table(table)
            taken += table.nbytes
    return taken


def _id_tables(index: str, kept: pa.Table | None, blocks: Iterable[Block]) -> Iterator[pa.Table]:
    if kept is not None:
        yield kept.cast(CLIP_SCHEMA)
    for block in blocks:
        yield from block_tables(index, block, CLIP_SCHEMA.names)
