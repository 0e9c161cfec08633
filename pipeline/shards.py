"""Shards: one tar of many videos (pipeline.samples), with its parquet and its record beside it.

shards/000000.tar          one WebDataset sample a video
shards/000000.parquet      one row a video, failures too
shards/000000_stats.json   the record, published last: without it there is no shard
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from extractors.errors import AbortError, DamagedError
from pipeline import storage
from pipeline.parquet import open_parquet

FORMAT_VERSION = 1

ROW_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("uri", pa.string()),
        ("version", pa.string()),  # SourceVideo.version: as the source listed it
        ("content_id", pa.string()),
        ("status", pa.string()),  # 'success' or 'failed'
        ("reason", pa.string()),  # extractors.errors.Reason, null on success
        ("stage", pa.string()),  # the stage that failed, null on success
        ("error_message", pa.string()),
        ("attempts", pa.int32()),
        ("duration", pa.float64()),  # seconds
        ("label", pa.string()),
        ("split", pa.string()),
        ("text_source", pa.string()),  # 'captions', 'asr' or null
        ("num_segments", pa.int32()),
        ("rows", pa.map_(pa.string(), pa.int64())),  # track name to number of rows
    ]
)


@dataclass(frozen=True)
class ShardRecord:
    """What `*_stats.json` says of a published shard."""

    number: int
    count: int
    successes: int
    reasons: dict[str, int]
    """Failures by reason."""
    tar_sha256: str
    tar_bytes: int
    parquet_sha256: str
    job: str
    """Digest of everything that decided this shard's content: its videos and the settings."""
    stage_seconds: dict[str, float]
    video_seconds: float
    """Sum of the durations of its videos."""
    started: str
    ended: str
    made_by: str = ""
    """Fingerprint of the settings that made it; the dataset's provenance/FINGERPRINT.json has them
    in full."""
    decoded_on: dict[str, int] = field(default_factory=dict)
    """Videos by what decoded them when they were decoded: cpu, cuda, `cpu (NVDEC: why not)`."""
    carried: int = 0
    """Videos of which nothing had to be decoded again."""
    made_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of video that were decoded, and of which each track was made: what `stage_seconds`
    was spent on."""

    @property
    def name(self) -> str:
        """`000000`."""
        return shard_name(self.number)


_RECORD = TypeAdapter(ShardRecord)


def shard_name(number: int) -> str:
    """Zero-padded to six digits, brace-expandable."""
    return f"{number:06d}"


def shard_url(dataset: str, number: int, suffix: str) -> str:
    """The URL of a shard's file; suffix '.tar', '.parquet' or '_stats.json'."""
    return storage.join(dataset, "shards", shard_name(number) + suffix)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes a shard's parquet: one row a video in the order of the plan. The same rows give the
    same bytes."""
    pq.write_table(pa.Table.from_pylist(rows, schema=ROW_SCHEMA), path)


def sha256_of(path: Path) -> str:
    """Hex digest of a local file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shard_numbers(dataset: str) -> list[int]:
    """Numbers of the published shards (those with a record), sorted."""
    suffix = "_stats.json"
    return [
        int(name.removesuffix(suffix))
        for name in storage.names(storage.join(dataset, "shards"))
        if name.endswith(suffix) and name.removesuffix(suffix).isdigit()
    ]


def broken_shards(dataset: str, records: Sequence[ShardRecord]) -> set[int]:
    """Numbers of the shards whose tar or parquet is gone, or whose tar has another size than its
    record says. Their bytes are not read: that is `pipeline verify`'s work."""
    sizes = storage.sizes(storage.join(dataset, "shards"))

    def size(number: int, suffix: str) -> int | None:
        url = shard_url(dataset, number, suffix)
        known = sizes.get(shard_name(number) + suffix)
        return storage.size(url) if known is None else known  # a listing may lag behind

    return {
        record.number
        for record in records
        if size(record.number, ".tar") != record.tar_bytes
        or size(record.number, ".parquet") is None
    }


def read_record(dataset: str, number: int) -> ShardRecord:
    """The record of a published shard.

    Raises FileNotFoundError, DamagedError, AbortError for one of another format version.
    """
    return read_record_at(shard_url(dataset, number, "_stats.json"))


def read_record_at(url: str) -> ShardRecord:
    """A record, wherever it lies. Raises as `read_record` does."""
    try:
        fields = dict(storage.read_json(url))
    except (ValueError, TypeError) as err:
        raise DamagedError(f"{url}: not a shard's record: {err}") from err
    version = fields.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise AbortError(f"{url}: format version {version!r}, this program reads {FORMAT_VERSION}")
    try:
        return _RECORD.validate_python(fields)
    except ValidationError as err:
        wrong = err.errors()[0]
        where = ".".join(map(str, wrong["loc"]))
        raise DamagedError(f"{url}: not a shard's record: {where}: {wrong['msg']}") from err


def publish_record(url: str, record: ShardRecord) -> None:
    """Publishes a record for `read_record_at`."""
    storage.publish_json(url, {"format_version": FORMAT_VERSION} | asdict(record))


def read_rows(dataset: str, number: int) -> list[dict[str, Any]]:
    """A shard's parquet as a list of rows (maps as dicts).

    Raises FileNotFoundError, DamagedError.
    """
    with open_parquet(shard_url(dataset, number, ".parquet")) as stored:
        return as_rows(stored.read(use_threads=False))


def as_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of such a table, maps as dicts."""
    rows: list[dict[str, Any]] = table.to_pylist()
    return [row | {"rows": dict(row["rows"] or [])} for row in rows]
