"""A job is the work on one shard. `run_job` knows nothing of the executors that call it."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline import storage
from pipeline.plan import PlannedVideo
from pipeline.samples import VideoSample, encode_sample, write_tar
from pipeline.shards import FORMAT_VERSION, ShardRecord, sha256_of, shard_url, write_rows
from pipeline.sources import SourceVideo
from pipeline.worker import InProgress, Worker


@dataclass(frozen=True)
class Job:
    """One shard to make."""

    dataset: str
    number: int
    videos: tuple[SourceVideo, ...]
    digest: str
    """Of the videos and the settings: a record that carries it needs no second run."""


def make_jobs(dataset: str, plan: Sequence[PlannedVideo], fingerprint: str) -> list[Job]:
    """The jobs of a plan, by shard number. `fingerprint` is the dataset's (pipeline.config)."""
    shards: dict[int, list[SourceVideo]] = {}
    for planned in plan:
        shards.setdefault(planned.shard, []).append(planned.video)
    return [
        Job(dataset, number, tuple(videos), _digest(videos, fingerprint))
        for number, videos in sorted(shards.items())
    ]


def _digest(videos: Sequence[SourceVideo], fingerprint: str) -> str:
    content = json.dumps([fingerprint, [asdict(video) for video in videos]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def run_job(job: Job, worker: Worker) -> ShardRecord:
    """Makes one shard: tar, parquet, then its record. Killed at any point, no shard exists.

    A failed video is a row; only what makes the whole shard impossible raises.
    """
    started = datetime.now(UTC)
    worker.stage_seconds.clear()
    rows: list[dict[str, Any]] = []
    with (
        storage.publishing(shard_url(job.dataset, job.number, ".tar")) as tar,
        storage.publishing(shard_url(job.dataset, job.number, ".parquet")) as parquet,
    ):
        write_tar(tar, _samples(job, worker, rows))
        write_rows(parquet, rows)
        record = _record(job, rows, worker, started, tar, parquet)
        # an older run's record must not vouch for the files that are about to replace its own
        storage.remove(shard_url(job.dataset, job.number, "_stats.json"))
    _publish_record(job.dataset, record)
    return record


def _samples(
    job: Job, worker: Worker, rows: list[dict[str, Any]]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    for progress, sample in worker.extract(job.videos):
        rows.append(_row(progress, sample))
        if sample is not None:
            yield sample.key, encode_sample(sample)


def _row(progress: InProgress, sample: VideoSample | None) -> dict[str, Any]:
    video, failure = progress.video, progress.failure
    probed = progress.probed
    return {
        "key": video.key,
        "uri": video.uri,
        "content_id": progress.content_id,
        "status": "failed" if failure else "success",
        "reason": failure and str(failure.reason),
        "stage": failure and failure.stage,
        "error_message": failure and failure.message,
        "attempts": 1,
        "duration": sample.duration if sample else probed and probed.duration,
        "label": video.label,
        "split": video.split,
        "text_source": (sample and sample.meta["text_source"]) or None,
        "num_segments": len(sample.segments) if sample else 0,
        "rows": {name: len(t.rows) for name, t in sample.tracks.items()} if sample else {},
    }


def _record(
    job: Job, rows: list[dict[str, Any]], worker: Worker, started: datetime, tar: Any, parquet: Any
) -> ShardRecord:
    reasons = [row["reason"] for row in rows if row["reason"]]
    return ShardRecord(
        number=job.number,
        count=len(rows),
        successes=len(rows) - len(reasons),
        reasons={reason: reasons.count(reason) for reason in sorted(set(reasons))},
        tar_sha256=sha256_of(tar),
        tar_bytes=tar.stat().st_size,
        parquet_sha256=sha256_of(parquet),
        job=job.digest,
        stage_seconds={name: round(s, 3) for name, s in sorted(worker.stage_seconds.items())},
        video_seconds=round(sum(row["duration"] or 0 for row in rows if not row["reason"]), 3),
        started=started.isoformat(timespec="seconds"),
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _publish_record(dataset: str, record: ShardRecord) -> None:
    url = shard_url(dataset, record.number, "_stats.json")
    storage.publish_json(url, {"format_version": FORMAT_VERSION} | asdict(record))
