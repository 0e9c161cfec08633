"""Whether a dataset is what its records say."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from extractors.errors import DamagedError
from pipeline import storage
from pipeline.dataset import manifest_url, read_dataset_card, read_records, with_digests
from pipeline.jobs import planned_jobs
from pipeline.parquet import open_parquet
from pipeline.scan import join_tables, read_table
from pipeline.shards import ROW_SCHEMA, ShardRecord, shard_name, shard_url
from pipeline.verify_tar import HashingReader, tar_problems

NUM_THREADS = min(4, os.cpu_count() or 1)
"""Shards at a time: hashing and reading leave the interpreter free."""
MANIFEST_COLUMNS = [*ROW_SCHEMA.names, "shard", "tar_sha256"]

OnBytes = Callable[[int], None]


def verify_dataset(
    dataset: str,
    *,
    deep: bool = False,
    records: Sequence[ShardRecord] | None = None,
    on_bytes: OnBytes = lambda _: None,
    on_damaged: Callable[[ShardRecord], None] = lambda _: None,
) -> list[str]:
    """One line a problem; empty where tar, parquet, record, plan and manifest agree.

    Every byte of every tar is read once: hashed, its members' names and kinds checked; with `deep`
    each member is opened too and held against meta.json and the parquet (pipeline.verify_sample).
    `on_bytes` is told, from several threads, how many bytes of tars were read since the last call,
    `on_damaged` each shard that is not what its record says.
    """
    card = read_dataset_card(dataset)
    records = read_records(dataset) if records is None else records
    check = partial(_check_shard, dataset, deep=deep, on_bytes=on_bytes)
    problems: list[str] = []

    def rows() -> Iterator[pa.Table]:
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            for record, (found, table) in zip(records, pool.map(check, records), strict=True):
                problems.extend(found)
                if found:
                    on_damaged(record)
                if table is not None:
                    yield table

    tables = join_tables(rows())
    problems += _duplicates(tables)
    problems += _plan_problems(dataset, records, card["fingerprint"])
    if not problems:  # the manifest repeats what the shards say
        problems += manifest_problems(dataset, tables)
    return problems


def _check_shard(
    dataset: str, record: ShardRecord, *, deep: bool, on_bytes: OnBytes
) -> tuple[list[str], pa.Table | None]:
    """The problems of one shard, and its rows as the manifest is to have them."""
    try:
        table = _read_rows(dataset, record)
    except FileNotFoundError:
        return [f"{shard_url(dataset, record.number, '.parquet')}: missing"], None
    except (DamagedError, _DifferentBytesError) as err:
        return [str(err)], None
    problems = list(_tar_problems(dataset, record, table, deep=deep, on_bytes=on_bytes))
    return problems, table


class _DifferentBytesError(Exception):
    """A file's sha256 is not its record's."""

    def __init__(self, url: str, found: str, expected: str) -> None:
        super().__init__(f"{url}: sha256 is {found[:12]}…, its record says {expected[:12]}…")


def _read_rows(dataset: str, record: ShardRecord) -> pa.Table:
    url = shard_url(dataset, record.number, ".parquet")
    with storage.open_binary(url) as file:
        reader = HashingReader(file)
        reader.drain()
    if reader.sha256 != record.parquet_sha256:
        raise _DifferentBytesError(url, reader.sha256, record.parquet_sha256)
    return with_digests(read_table(dataset, record.number, ROW_SCHEMA.names), [record])


def _tar_problems(
    dataset: str, record: ShardRecord, table: pa.Table, *, deep: bool, on_bytes: OnBytes
) -> Iterator[str]:
    url = shard_url(dataset, record.number, ".tar")
    succeeded = table.filter(pc.equal(table.column("status"), "success"))
    rows = {row["key"]: row for row in succeeded.to_pylist(maps_as_pydicts="strict")}
    try:
        with storage.open_binary(url) as file:
            reader = HashingReader(file, on_bytes)
            keys, problems = tar_problems(reader, rows, deep=deep)
            reader.drain()
    except FileNotFoundError:
        yield f"{url}: missing"
        return
    if reader.sha256 != record.tar_sha256:  # whatever else is wrong with it follows from that
        yield str(_DifferentBytesError(url, reader.sha256, record.tar_sha256))
        return
    yield from (f"{url}: {problem}" for problem in problems)
    counts = (len(table), len(rows))
    if not problems and (keys != list(rows) or counts != (record.count, record.successes)):
        yield f"shard {record.name}: its tar, parquet and record list different videos"


def _duplicates(tables: Iterable[pa.Table]) -> Iterator[str]:
    """Keys that two rows of the dataset share."""
    first: dict[str, int] = {}
    for table in tables:
        columns = (table.column(name).to_pylist() for name in ("key", "shard"))
        for key, number in zip(*columns, strict=True):
            if key in first:
                shards = f"shard {shard_name(first[key])} and shard {shard_name(number)}"
                yield f"key {key!r}: there twice, in {shards}"
            first[key] = number


def stale_shards(dataset: str) -> list[int]:
    """Numbers of the shards made of other videos or settings than the plan and dataset.json say."""
    made = {record.number: record.job for record in read_records(dataset)}
    jobs = planned_jobs(dataset, read_dataset_card(dataset)["fingerprint"])
    return [job.number for job in jobs if made.get(job.number, job.digest) != job.digest]


def _plan_problems(dataset: str, records: Sequence[ShardRecord], fingerprint: str) -> Iterator[str]:
    made = {record.number: record.job for record in records}
    for job in planned_jobs(dataset, fingerprint):
        name, digest = shard_name(job.number), made.pop(job.number, None)
        if digest is None:
            yield f"shard {name}: planned, not made yet; run `pipeline run extract` to its end"
        elif digest != job.digest:
            yield f"shard {name}: made of other videos or settings; run `pipeline run extract`"
    for number in made:
        yield f"shard {shard_name(number)}: the plan knows no such shard; see `pipeline doctor`"


def manifest_problems(dataset: str, tables: Sequence[pa.Table]) -> list[str]:
    """What is wrong with the manifest, where `tables` are the shards' rows, with digests."""
    url = manifest_url(dataset)
    try:
        with open_parquet(url) as stored:
            listed = stored.read()
    except FileNotFoundError:
        return [f"{url}: missing; run `pipeline run extract` to its end"]
    except DamagedError as err:
        return [str(err)]
    expected = pa.concat_tables(tables) if tables else None
    same_columns = set(listed.column_names) == set(MANIFEST_COLUMNS)
    if expected is None or not same_columns or not _same_rows(listed, expected):
        return [
            f"{url}: does not list the shards that are there; `pipeline doctor --fix` lists them"
        ]
    return []


def _same_rows(listed: pa.Table, expected: pa.Table) -> bool:
    if len(listed) != len(expected):
        return False
    return all(listed.column(n).equals(expected.column(n)) for n in MANIFEST_COLUMNS)
