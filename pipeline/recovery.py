"""A shard's rows when its parquet is lost or damaged: the manifest repeats them."""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from extractors.errors import DamagedError
from pipeline import storage
from pipeline.dataset import manifest_url
from pipeline.parquet import open_parquet
from pipeline.shards import ROW_SCHEMA, ShardRecord, as_rows, sha256_of, shard_url, write_rows


def recover_rows(dataset: str, record: ShardRecord) -> list[dict[str, Any]] | None:
    """The rows of a shard out of the manifest; None unless they make the very bytes that its record
    vouches for."""
    try:
        with open_parquet(manifest_url(dataset)) as stored:
            groups = (stored.read_row_group(group) for group in range(stored.num_row_groups))
            found = [group.filter(pc.equal(group["shard"], record.number)) for group in groups]
        rows = as_rows(pa.concat_tables(found).select(ROW_SCHEMA.names))
    except (FileNotFoundError, DamagedError, KeyError, pa.ArrowInvalid):
        return None  # there is no manifest, or it is of another version
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        write_rows(path, rows)
        return rows if sha256_of(path) == record.parquet_sha256 else None


def repair_shard(dataset: str, record: ShardRecord) -> str:
    """For a shard that is not what its record says: its parquet out of the manifest where that is
    all that is wrong, else its record is removed and the next `run extract` makes it again. Says
    which."""
    tar = shard_url(dataset, record.number, ".tar")
    with contextlib.suppress(FileNotFoundError), storage.local_copy(tar) as path:
        if sha256_of(Path(path)) == record.tar_sha256 and restore_parquet(dataset, record):
            return f"shard {record.name}: its parquet is written anew out of the manifest"
    storage.remove(shard_url(dataset, record.number, "_stats.json"))
    return f"shard {record.name}: its record is removed, `pipeline run extract` makes it again"


def restore_parquet(dataset: str, record: ShardRecord) -> bool:
    """Publishes a shard's parquet again, as it was; False where the manifest does not have it."""
    rows = recover_rows(dataset, record)
    if rows is None:
        return False
    with storage.publishing(shard_url(dataset, record.number, ".parquet")) as temporary:
        write_rows(temporary, rows)
    return True
