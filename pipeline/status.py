"""How far a dataset is: read from its plan, its records and its lease, from any machine."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset import read_dataset_card, read_records
from pipeline.lease import Lease, read_lease
from pipeline.parquet import read_columns
from pipeline.plan import plan_url
from pipeline.shard_range import ranges_at_work
from pipeline.shards import ShardRecord

RECENT = timedelta(minutes=10)
"""What counts for the rate."""


@dataclass(frozen=True)
class Rate:
    """What was made lately."""

    videos_per_hour: float
    video_seconds_per_second: float
    """Seconds of video a second."""
    seconds_left: float
    """At this rate, until every planned video is done."""


@dataclass(frozen=True)
class Status:
    """What is done, what is missing, what failed and why."""

    dataset: str
    planned_shards: int
    shards: int
    """Published ones; those that the plan does not know count too."""
    planned_videos: int
    videos: int
    """Of the published shards, failed ones too."""
    successes: int
    reasons: dict[str, int]
    """Failed videos by reason."""
    video_seconds: float
    tar_bytes: int
    stage_seconds: dict[str, float]
    """Summed over all workers, most first."""
    decoded_on: dict[str, int]
    """Videos by what decoded them; empty where the records do not say."""
    rate: Rate | None
    """None where nothing was finished lately, or nothing is left to do."""
    lease: Lease | None
    """Of the run that is at work, or was when it died."""
    ranges: dict[str, Lease]
    """Of the runs that are at work on ranges of shards, by range."""

    @property
    def bottleneck(self) -> str | None:
        """The stage that took most of the workers' time."""
        found = bottleneck(self.stage_seconds)
        return found[0] if found else None

    @property
    def running(self) -> bool:
        """Whether a run is alive."""
        return bool(self.ranges) or (self.lease is not None and self.lease.valid)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        derived = {"bottleneck": self.bottleneck, "running": self.running}
        return asdict(self) | derived


def read_status(dataset: str, now: datetime | None = None) -> Status:
    """Right while a run goes on: a shard counts from the moment its record is there.

    Raises UsageError where there is no dataset, AbortError for a foreign one.
    """
    read_dataset_card(dataset)
    now = now or datetime.now(UTC)
    planned = _planned_shards(dataset)
    records = read_records(dataset)
    videos = sum(record.count for record in records)
    decoded_on = _summed(record.decoded_on for record in records)
    return Status(
        dataset=dataset,
        planned_shards=pc.count_distinct(planned).as_py(),
        shards=len(records),
        planned_videos=len(planned),
        videos=videos,
        successes=sum(record.successes for record in records),
        reasons={name: int(count) for name, count in sorted(_summed(r.reasons for r in records))},
        video_seconds=round(sum(record.video_seconds for record in records), 3),
        tar_bytes=sum(record.tar_bytes for record in records),
        stage_seconds={
            name: round(seconds, 3)
            for name, seconds in _summed(record.stage_seconds for record in records)
        },
        decoded_on={name: int(count) for name, count in decoded_on},
        rate=_rate(records, len(planned) - videos, now),
        lease=read_lease(dataset),
        ranges={str(shards): lease for shards, lease in ranges_at_work(dataset).items()},
    )


def bottleneck(stage_seconds: Mapping[str, float]) -> tuple[str, float] | None:
    """The stage that took most of the workers' time, and its share of all stages' (0 to 1).

    None where no stage took any time.
    """
    total = sum(stage_seconds.values())
    if total <= 0:
        return None
    stage = max(stage_seconds, key=lambda name: stage_seconds[name])
    return stage, stage_seconds[stage] / total


def _planned_shards(dataset: str) -> pa.ChunkedArray:
    """The shard of every planned video."""
    try:
        return read_columns(plan_url(dataset), ["shard"]).column("shard")
    except FileNotFoundError:
        return pa.chunked_array([], pa.int32())


def _summed(parts: Iterable[dict[str, Any]]) -> Sequence[tuple[str, float]]:
    """Counts by name, most first."""
    total = Counter[str]()
    for part in parts:
        total.update(part)
    return total.most_common()


def _rate(records: Sequence[ShardRecord], videos_left: int, now: datetime) -> Rate | None:
    """From the shards that ended within RECENT, by the time since the first of them was begun."""
    ended = [(record, datetime.fromisoformat(record.ended)) for record in records if record.ended]
    recent = [record for record, end in ended if now - RECENT <= end]
    videos = sum(record.count for record in recent)
    if videos_left <= 0 or not videos:
        return None
    first = min(datetime.fromisoformat(record.started) for record in recent)
    seconds = max(1.0, (now - max(first, now - RECENT)).total_seconds())
    return Rate(
        videos_per_hour=round(3600 * videos / seconds, 3),
        video_seconds_per_second=round(sum(r.video_seconds for r in recent) / seconds, 3),
        seconds_left=round(videos_left * seconds / videos, 1),
    )
