"""A job is the work on one shard. `run_job` knows nothing of the executors that call it."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from extractors.errors import AbortError, Reason, VideoError
from pipeline import storage
from pipeline.attempts import UNWATCHED, Watch
from pipeline.batching import InProgress
from pipeline.plan import PlannedVideo, read_plan
from pipeline.provenance import digest
from pipeline.published import (
    PublishedShard,
    StoredVideo,
    forget_withdrawn,
    published_shard,
    reinstate,
    withdraw,
)
from pipeline.quarantine import read_quarantine
from pipeline.samples import VideoSample, encode_sample, write_tar
from pipeline.shards import (
    ShardRecord,
    publish_record,
    sha256_of,
    shard_url,
    write_rows,
)
from pipeline.sources import SourceVideo
from pipeline.worker import Worker

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One shard to make."""

    dataset: str
    number: int
    videos: tuple[SourceVideo, ...]
    digest: str
    """Of the videos and the settings: a record that carries it needs no second run."""
    quarantined: tuple[str, ...] = ()
    """Keys of its videos that are not to be opened."""
    retry: tuple[str, ...] = ()
    """Keys of its failed videos that are to be tried again, though nothing has changed."""
    drop_failed: bool = False
    """Make it even where that loses a video which it has and which fails now."""


def make_jobs(
    dataset: str,
    plan: Iterable[PlannedVideo],
    fingerprint: str,
    quarantine: Iterable[str] = (),
    retry: Mapping[int, Sequence[str]] | None = None,
    *,
    drop_failed: bool = False,
) -> Iterator[Job]:
    """The jobs of a plan, by shard number. `fingerprint` is the dataset's (pipeline.provenance);
    `quarantine` holds keys of the dataset, `retry` keys by shard number."""
    shards: dict[int, list[SourceVideo]] = {}
    for planned in plan:
        shards.setdefault(planned.shard, []).append(planned.video)
    aside = frozenset(quarantine)
    for number in sorted(shards):
        videos = tuple(shards.pop(number))
        quarantined = tuple(video.key for video in videos if video.key in aside)
        content = digest([fingerprint, videos, quarantined])
        tried = tuple(retry.get(number, ())) if retry else ()
        yield Job(dataset, number, videos, content, quarantined, tried, drop_failed)


def planned_jobs(dataset: str, fingerprint: str) -> Iterator[Job]:
    """The jobs of a dataset's own plan, its quarantine heeded."""
    return make_jobs(dataset, read_plan(dataset), fingerprint, read_quarantine(dataset))


def run_job(job: Job, worker: Worker, watch: Watch = UNWATCHED) -> ShardRecord:
    """Makes one shard: tar, parquet, then its record. Killed at any point, no shard exists.

    What an earlier run published of it and is still true is carried over. A failed video is a row;
    only what makes the whole shard impossible raises. A shard that has a video which would have to
    be opened and fails now (its disk is not mounted) stays as it is, unless `job.drop_failed`: then
    the record is the old one. `watch` is of an attempt at it (pipeline.attempts), told which video
    is being read. Raises AbortError for a damaged shard of which a video is out of reach.
    """
    worker.stage_seconds.clear()
    with published_shard(job.dataset, job.number) as old:
        try:
            record = _make_shard(job, worker, watch, old)
        except _WouldLoseError as err:
            assert old is not None, "what is lost was there"
            _log.warning("shard %s is left as it was: %s", old.record.name, err)
            reinstate(job.dataset, old.record)
            return old.record
    publish_record(shard_url(job.dataset, job.number, "_stats.json"), record)
    forget_withdrawn(job.dataset, job.number)
    return record


class _WouldLoseError(Exception):
    """A video that the shard has fails now."""


@dataclass
class _Made:
    """What is counted while a shard is written."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    decoded_on: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    """Of video, by what was made of it."""
    carried: int = 0

    def count(self, progress: InProgress, sample: VideoSample, made: Iterable[str]) -> None:
        """A video that succeeded. `made` names what was not carried."""
        if progress.decoded is None:
            self.carried += 1
        else:
            self.decoded_on[_decoder(progress)] += 1
            made = ("decode", *made)
        self.seconds.update(dict.fromkeys(made, sample.duration))


def _make_shard(job: Job, worker: Worker, watch: Watch, old: PublishedShard | None) -> ShardRecord:
    """Publishes the tar, then the parquet; gives the record that is to vouch for them."""
    started, made = datetime.now(UTC), _Made()
    with (
        storage.publishing(shard_url(job.dataset, job.number, ".parquet")) as parquet,
        storage.publishing(shard_url(job.dataset, job.number, ".tar")) as tar,
    ):
        write_tar(tar, _samples(job, worker, watch, old, made))
        write_rows(parquet, made.rows)
        record = _record(job, made, worker, started, tar, parquet)
        if old is not None:
            withdraw(job.dataset, old.record)
        else:  # damaged: nothing of it is to be kept
            storage.remove(shard_url(job.dataset, job.number, "_stats.json"))
    return record


def _samples(
    job: Job, worker: Worker, watch: Watch, old: PublishedShard | None, made: _Made
) -> Iterator[tuple[str, dict[str, bytes]]]:
    def find(video: SourceVideo) -> StoredVideo | None:
        return _set_aside(job, watch, video) or _find(job, worker, old, video)

    videos = _watched(job.videos, watch)
    for progress, sample in worker.extract(videos, find, isolate=watch.isolated):
        previous = old.rows.get(progress.video.key) if old else None
        if progress.failure is not None and not job.drop_failed:
            _check_nothing_lost(progress.failure, previous)
            _check_not_all_lost(progress.failure, job, old)
        made.rows.append(_row(progress, sample, previous))
        if sample is not None:
            made.count(progress, sample, worker.fingerprints.keys() - progress.carried)
            yield sample.key, encode_sample(sample)


def _check_nothing_lost(failure: VideoError, previous: dict[str, Any] | None) -> None:
    """A file that fails now says nothing of the features that were made of it."""
    wanted = failure.reason is Reason.QUARANTINED
    if previous and previous["status"] == "success" and not wanted:
        raise _WouldLoseError(failure)


def _check_not_all_lost(failure: VideoError, job: Job, old: PublishedShard | None) -> None:
    """Of a damaged shard nobody knows which videos it has: it is not made anew without a file."""
    gone = failure.reason in (Reason.NOT_FOUND, Reason.UNREADABLE)
    tar = shard_url(job.dataset, job.number, ".tar")
    if old is None and gone and storage.exists(tar):
        raise AbortError(
            f"{tar}: is damaged, and cannot be made anew as a whole ({failure}); bring the file "
            "back, or give --drop-failed to go without it"
        )


def _watched(videos: Iterable[SourceVideo], watch: Watch) -> Iterator[SourceVideo]:
    for video in videos:
        watch.start(video.key)
        yield video
    watch.start("")


def _set_aside(job: Job, watch: Watch, video: SourceVideo) -> StoredVideo | None:
    """The failure of a video that is not to be opened, None for all others."""
    if video.key in watch.suspects:
        return StoredVideo({"status": "failed"} | watch.blame(video))
    if video.key not in job.quarantined:
        return None
    message = f"{video.uri}: put aside by `pipeline quarantine`; `--release` tries it again"
    why = {"reason": str(Reason.QUARANTINED), "stage": "plan", "error_message": message}
    return StoredVideo({"status": "failed"} | why)


def _find(
    job: Job, worker: Worker, old: PublishedShard | None, video: SourceVideo
) -> StoredVideo | None:
    """What the shard has of a video; a failure only where nothing speaks for trying again."""
    stored = old.find(video) if old else None
    if old is None or stored is None or not stored.failed:
        return stored
    same = stored.is_of(video) and old.record.made_by == worker.fingerprint
    known = stored.row["reason"] in set(Reason) - {Reason.QUARANTINED}
    return stored if same and known and video.key not in job.retry else None


def _decoder(progress: InProgress) -> str:
    """What decoded a video; a fall-back from NVDEC with its reason."""
    assert progress.decoded is not None
    decoded = progress.decoded
    return decoded.device + (f" (NVDEC: {decoded.fallback})" if decoded.fallback else "")


def _row(
    progress: InProgress, sample: VideoSample | None, previous: dict[str, Any] | None
) -> dict[str, Any]:
    """A video's row of the parquet; what was not opened keeps what the previous one found."""
    video, failure, probed = progress.video, progress.failure, progress.probed
    kept = previous if previous and not progress.opened else {}
    tracks = sample.meta["tracks"] if sample else {}
    return {
        "key": video.key,
        "uri": video.uri,
        "version": video.version,
        "content_id": progress.content_id or kept.get("content_id"),
        "status": "failed" if failure else "success",
        "reason": failure and str(failure.reason),
        "stage": failure and failure.stage,
        "error_message": failure and failure.message,
        "attempts": _attempts(progress, previous),
        "duration": sample.duration if sample else probed and probed.duration,
        "label": video.label,
        "split": video.split,
        "text_source": (sample and sample.meta["text_source"]) or None,
        "num_segments": len(sample.segments) if sample else 0,
        "rows": {name: facts["rows"] for name, facts in tracks.items() if facts["rows"]},
    }


def _attempts(progress: InProgress, previous: dict[str, Any] | None) -> int:
    """How often the video was opened since it last succeeded, this time included."""
    before = previous["attempts"] if previous else 0
    if not progress.opened:
        return int(before)
    return int(before) + 1 if previous and previous["status"] == "failed" else 1


def _record(
    job: Job, made: _Made, worker: Worker, started: datetime, tar: Path, parquet: Path
) -> ShardRecord:
    reasons = Counter(row["reason"] for row in made.rows if row["reason"])
    seconds = sum(row["duration"] or 0 for row in made.rows if not row["reason"])
    stages = {name: round(spent, 3) for name, spent in worker.stage_seconds.items()}
    return ShardRecord(
        number=job.number,
        count=len(made.rows),
        successes=len(made.rows) - reasons.total(),
        reasons=dict(sorted(reasons.items())),
        tar_sha256=sha256_of(tar),
        tar_bytes=tar.stat().st_size,
        parquet_sha256=sha256_of(parquet),
        job=job.digest,
        stage_seconds={name: spent for name, spent in sorted(stages.items()) if spent},
        video_seconds=round(seconds, 3),
        started=started.isoformat(timespec="seconds"),
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        made_by=worker.fingerprint,
        decoded_on=dict(sorted(made.decoded_on.items())),
        carried=made.carried,
        made_seconds={name: round(spent, 3) for name, spent in sorted(made.seconds.items())},
    )
