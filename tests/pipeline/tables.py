"""Shards without tars: rows and records, for what reads nothing else."""

from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.shards import FORMAT_VERSION, ROW_SCHEMA, ShardRecord, shard_url


def row(
    key: str, reason: str | None = None, stage: str | None = None, **more: object
) -> dict[str, Any]:
    """A video's row, a failed one with a reason."""
    blank: dict[str, Any] = dict.fromkeys(ROW_SCHEMA.names)
    return blank | {
        "key": key,
        "uri": f"/videos/{key}.mp4",
        "content_id": f"{key:0>64}",
        "status": "failed" if reason else "success",
        "reason": reason,
        "stage": stage,
        "error_message": reason and f"/videos/{key}.mp4: {reason}",
        "attempts": 1,
        "duration": 10.0,
        "num_segments": 0,
        "rows": {},
        **more,
    }


def publish_shard(
    dataset: str, number: int, rows: list[dict[str, Any]], drop: tuple[str, ...] = (), **facts: Any
) -> ShardRecord:
    """Writes a shard's parquet, without some columns, and its record."""
    reasons = [str(r["reason"]) for r in rows if r["reason"]]
    with storage.publishing(shard_url(dataset, number, ".parquet")) as path:
        pq.write_table(pa.Table.from_pylist(rows, schema=ROW_SCHEMA).drop_columns(list(drop)), path)
    blank = {"tar_sha256": "t", "tar_bytes": 1000, "parquet_sha256": "p", "job": "j"}
    times = {"started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:01:00+00:00"}
    counted = {
        "number": number,
        "count": len(rows),
        "successes": len(rows) - len(reasons),
        "reasons": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        "stage_seconds": {"decode": 2.0, "extract": 3.0},
        "video_seconds": 10.0 * (len(rows) - len(reasons)),
    }
    record = ShardRecord(**(blank | times | counted | facts))
    content = {"format_version": FORMAT_VERSION} | asdict(record)
    storage.publish_json(shard_url(dataset, number, "_stats.json"), content)
    return record
