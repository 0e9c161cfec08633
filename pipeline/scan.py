"""Reading something of every shard of a large dataset, fast and in flat memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.parquet import open_parquet
from pipeline.shards import ROW_SCHEMA, shard_url

NUM_REQUESTS = 32
"""Files of a bucket asked for at once."""
BLOCK = 500
"""Shards whose rows are joined at a time: many small tables take far more memory than one."""

T = TypeVar("T")


def map_shards(dataset: str, read: Callable[[int], T], numbers: Iterable[int]) -> Iterator[T]:
    """What `read` gives of each shard, in order.

    Many at once where the dataset is remote, since each waits for an answer; one after another on
    a disk, where threads would only wait for each other.
    """
    if storage.local_path(dataset) is not None:
        yield from map(read, numbers)
        return
    with ThreadPoolExecutor(NUM_REQUESTS) as pool:
        yield from pool.map(read, numbers)


def scan_rows(
    dataset: str, numbers: Sequence[int], columns: Sequence[str], *, failed_only: bool = False
) -> pa.Table:
    """Columns of the parquets of some shards, with the shard's number as the column `shard`.

    In the order of `numbers`. A column that a file lacks (one of an older version) is null. Raises
    FileNotFoundError, DamagedError.
    """

    def read(number: int) -> pa.Table:
        return read_table(dataset, number, columns, failed_only=failed_only)

    schema = pa.schema([*map(ROW_SCHEMA.field, columns), pa.field("shard", pa.int32())])
    tables = join_tables(map_shards(dataset, read, numbers))
    return pa.concat_tables([schema.empty_table(), *tables])


def join_tables(tables: Iterable[pa.Table]) -> list[pa.Table]:
    """Many small tables as few larger ones, in order."""
    joined, block = [], []
    for table in tables:
        block.append(table)
        if len(block) == BLOCK:
            joined.append(pa.concat_tables(block).combine_chunks())
            block = []
    return joined + ([pa.concat_tables(block).combine_chunks()] if block else [])


def read_table(
    dataset: str, number: int, columns: Sequence[str], *, failed_only: bool = False
) -> pa.Table:
    """One shard's part of `scan_rows`. Raises as it does."""
    with open_parquet(shard_url(dataset, number, ".parquet")) as stored:
        present = {*columns, "status"} & set(stored.schema_arrow.names)
        table = stored.read(columns=sorted(present), use_threads=False)
    if failed_only:
        table = table.filter(pc.equal(table.column("status"), "failed"))
    for name in set(columns).difference(present):
        table = table.append_column(name, pa.nulls(len(table), ROW_SCHEMA.field(name).type))
    shards = pa.repeat(pa.scalar(number, pa.int32()), len(table))
    return table.select(list(columns)).append_column(pa.field("shard", pa.int32()), shards)
