"""Whether a shard's files are what its record says; rows come back out of the manifest."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from extractors.errors import DamagedError
from pipeline import storage
from pipeline.dataset import manifest_url
from pipeline.parquet import open_parquet
from pipeline.shards import (
    ROW_SCHEMA,
    ShardRecord,
    as_rows,
    publish_record,
    sha256_of,
    shard_url,
    write_rows,
)


def has_parquet(dataset: str, record: ShardRecord) -> bool:
    """Whether a shard's parquet is what its record says."""
    return _is(shard_url(dataset, record.number, ".parquet"), record.parquet_sha256)


def has_tar(dataset: str, record: ShardRecord) -> bool:
    """Whether a shard's tar is what its record says."""
    return _is(shard_url(dataset, record.number, ".tar"), record.tar_sha256)


def _is(url: str, sha256: str) -> bool:
    with contextlib.suppress(FileNotFoundError), storage.local_copy(url) as path:
        return sha256_of(Path(path)) == sha256
    return False


def recover_rows(dataset: str, record: ShardRecord) -> list[dict[str, Any]] | None:
    """The rows of a shard out of the manifest; None unless they are as many as its record says, and
    of the tar that it vouches for."""
    try:
        with open_parquet(manifest_url(dataset)) as stored:
            groups = (stored.read_row_group(group) for group in range(stored.num_row_groups))
            found = pa.concat_tables(
                group.filter(
                    pc.and_(
                        pc.equal(group["shard"], record.number),
                        pc.equal(group["tar_sha256"], record.tar_sha256),
                    )
                )
                for group in groups
            )
        rows = as_rows(found.select(ROW_SCHEMA.names))
    except (FileNotFoundError, DamagedError, KeyError, pa.ArrowInvalid):
        return None  # there is no manifest, or it is of another version
    return rows if len(rows) == record.count else None


def restore_parquet(dataset: str, record: ShardRecord) -> ShardRecord | None:
    """Publishes a shard's parquet again; its record, which is published too where another version
    of pyarrow has written other bytes. None where the manifest does not have the rows."""
    rows = recover_rows(dataset, record)
    if rows is None:
        return None
    with storage.publishing(shard_url(dataset, record.number, ".parquet")) as temporary:
        write_rows(temporary, rows)
        digest = sha256_of(temporary)
    if digest != record.parquet_sha256:
        record = replace(record, parquet_sha256=digest)
        publish_record(shard_url(dataset, record.number, "_stats.json"), record)
    return record
