"""The vectors of an index's clips: by id, and compared one by one in other modalities.

N clips, D dimension, Q queries, K neighbours.
"""

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from extractors.errors import AbortError, UsageError
from index.card import Block, IndexCard
from index.embedding_shards import SUM, embedding_url, null_counts, vector_name
from index.stored_vectors import block_record, block_tables
from index.vectors import prepared
from pipeline import storage

_ID = re.compile(r"(?P<key>[^@]+)@(?P<start>\d+(?:\.\d+)?)-(?P<end>\d+(?:\.\d+)?)")


def clip_rows(
    ids: pa.Table, clip: str, live_N: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """The FAISS ids of a clip `KEY@start-end`: its own, else those of the video's clips that lie
    inside (so that hits which were merged can be asked by), of those that `live_N` admits.

    Raises UsageError where there are none, with a sentence of its own where there were some.
    """
    found = _ID.fullmatch(clip)
    if found is None:
        raise UsageError(f"clip {clip}: expected KEY@START-END in seconds, as in video_1@0-10")
    start, end = round(float(found["start"]), 3), round(float(found["end"]), 3)
    rows_N: NDArray[np.int64] = pc.indices_nonzero(pc.equal(ids.column("key"), found["key"])) \
        .to_numpy().astype(np.int64)  # fmt: skip
    of_video = ids.take(pa.array(rows_N))
    starts_N = np.round(of_video.column("start").to_numpy(), 3)
    ends_N = np.round(of_video.column("end").to_numpy(), 3)
    exact_N = (starts_N == start) & (ends_N == end)
    inside_N = (starts_N >= start) & (ends_N <= end)
    if not inside_N.any():
        raise UsageError(f"clip {clip}: no such clip in this index")
    may_N = np.ones(len(rows_N), bool) if live_N is None else live_N[rows_N]
    if not (inside_N & may_N).any():
        raise UsageError(f"clip {clip}: was removed from this index")
    chosen_N = exact_N & may_N if (exact_N & may_N).any() else inside_N & may_N
    return np.asarray(rows_N[chosen_N])


def clip_vector(
    url: str,
    card: IndexCard,
    ids: pa.Table,
    clip: str,
    modalities: Sequence[str] = (SUM,),
    live_N: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """The vector (D,) of a clip as the model gave it: what was indexed, or another sum.

    Raises UsageError for a clip that is unknown or that `live_N` does not admit, and for one
    without any of `modalities`; AbortError where its embeddings cannot be read.
    """
    rows_N = clip_rows(ids, clip, live_N)
    block = next(b for b in card.blocks if b.first <= rows_N[0] < b.first + b.count)
    wanted = ids.column("id").take(pa.array(rows_N)).unique()
    try:
        chosen = _stored(url, block, wanted, rows_N - block.first, modalities)
    except (OSError, pa.ArrowException) as err:
        raise AbortError(f"{url}: the embeddings of clip {clip} cannot be read: {err}") from err
    if not chosen.num_rows:
        raise AbortError(f"{url}: clip {clip} has no embedding: build the index again")
    x_ND, present_N = summed(chosen, modalities)
    if not present_N.any():
        raise UsageError(f"clip {clip}: has no {' or '.join(modalities)}")
    return np.asarray(x_ND[present_N].mean(axis=0), np.float32)


def _stored(
    url: str,
    block: Block,
    wanted: pa.Array,
    places_N: NDArray[np.int64],
    modalities: Sequence[str],
) -> pa.Table:
    """The rows of the clips `wanted`, whose ids are `places_N` from the block's first: only the row
    groups that hold them are read."""
    block_record(url, block)
    columns = ["id", *map(vector_name, modalities)]
    with (
        storage.open_binary(embedding_url(url, block.shard, ".parquet")) as source,
        pq.ParquetFile(source) as file,
    ):
        groups = list(_groups(file.metadata, int(places_N.min()), int(places_N.max())))
        table = file.read_row_groups(groups, columns)
    return table.filter(pc.is_in(table.column("id"), wanted))


def _groups(metadata: pq.FileMetaData, first: int, last: int) -> Iterator[int]:
    """The row groups with the rows `first` to `last` of those that have a sum embedding."""
    begin = 0
    for number, absent in enumerate(null_counts(metadata, vector_name(SUM))):
        if absent is None:  # nobody can say where a row lies from here on
            yield from range(number, metadata.num_row_groups)
            return
        end = begin + metadata.row_group(number).num_rows - absent
        if begin <= last and first < end:
            yield number
        begin = end


def scan(
    url: str,
    card: IndexCard,
    queries_QD: NDArray[np.float32],
    k: int,
    modalities: Sequence[str],
    allowed_N: NDArray[np.bool_] | None,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """FAISS's answer for an exact index of the sum over `modalities`: (Q, K) distances and ids.

    Every stored embedding is read and compared, a batch at a time: time grows with the index,
    memory does not. For modalities that the FAISS index was not built of. Raises AbortError at
    the next batch when `stopped`.
    """
    shape = (len(queries_QD), 0)
    best_QK, ids_QK = np.zeros(shape, np.float32), np.zeros(shape, np.int64)
    for block in card.blocks:
        if block.masked:
            continue
        for numbers_N, x_ND in _vectors(url, card, block, modalities, allowed_N):
            if stopped():
                raise AbortError(f"{url}: the comparison with all embeddings was given up")
            best_QK = np.concatenate([best_QK, _scores(queries_QD, x_ND, card.metric)], axis=1)
            new_QN = np.broadcast_to(numbers_N, (len(queries_QD), len(numbers_N)))
            ids_QK = np.concatenate([ids_QK, new_QN], axis=1)
            order_QK = np.argsort(-best_QK, axis=1, kind="stable")[:, :k]
            best_QK = np.take_along_axis(best_QK, order_QK, axis=1)
            ids_QK = np.take_along_axis(ids_QK, order_QK, axis=1)
    return -best_QK if card.metric == "l2" else best_QK, ids_QK


def _vectors(
    url: str,
    card: IndexCard,
    block: Block,
    modalities: Sequence[str],
    allowed_N: NDArray[np.bool_] | None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """FAISS ids and comparable vectors of those that may answer, a batch of the block at a time."""
    first = block.first
    for table in block_tables(url, block, [vector_name(name) for name in modalities]):
        numbers_N = np.arange(first, first + table.num_rows)
        first += table.num_rows
        x_ND, keep_N = summed(table, modalities)
        if allowed_N is not None:
            keep_N = keep_N & allowed_N[numbers_N]
        yield numbers_N[keep_N], prepared(x_ND[keep_N], card.metric)


def summed(
    table: pa.Table, modalities: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The sum (N, D) over the columns of `modalities`, absent ones as zero, and who has any."""
    total_ND = np.zeros((table.num_rows, 1), np.float32)
    any_N = np.zeros(table.num_rows, bool)
    for name in modalities:
        column = table.column(vector_name(name)).combine_chunks()
        present_N = column.is_valid().to_numpy(zero_copy_only=False)
        width = column.type.list_size
        flat = column.values.slice(column.offset * width, len(column) * width)
        x_ND = flat.to_numpy(zero_copy_only=False).reshape(-1, width)
        total_ND = np.asarray(total_ND + np.where(present_N[:, None], x_ND, 0), np.float32)
        any_N |= present_N
    return total_ND, any_N


def _scores(
    queries_QD: NDArray[np.float32], x_ND: NDArray[np.float32], metric: str
) -> NDArray[np.float32]:
    """(Q, N), higher is nearer: inner products, or minus the squared distances."""
    inner_QN = queries_QD @ x_ND.T
    if metric != "l2":
        return inner_QN
    squares_Q1 = (queries_QD**2).sum(axis=1, keepdims=True)
    return np.asarray(2 * inner_QN - squares_Q1 - (x_ND**2).sum(axis=1), np.float32)
