"""The plan: which video is in which shard. Appended to, never reshuffled.

It is fixed by the source's order and the settings, never by the number of workers. Written and read
by columns and in batches: a plan may hold millions of videos.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from extractors.errors import DamagedError
from pipeline import storage
from pipeline.config import ExtractConfig
from pipeline.parquet import open_parquet
from pipeline.sources import SourceVideo

VIDEO_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("uri", pa.string()),
        ("path", pa.string()),
        ("size_bytes", pa.int64()),
        ("captions", pa.string()),
        ("version", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
    ]
)
PLAN_SCHEMA = VIDEO_SCHEMA.append(pa.field("shard", pa.int32()))
BATCH_ROWS = 10_000
_in_order = attrgetter(*VIDEO_SCHEMA.names)


class PlannedVideo(NamedTuple):
    """One row of the plan. A tuple, for there may be millions."""

    video: SourceVideo
    shard: int


@dataclass(frozen=True)
class PlanUpdate:
    """A plan held against what the source lists now."""

    plan: list[PlannedVideo]
    added: int
    """Videos that are new, in new shards."""
    unlisted: tuple[str, ...]
    """Keys that the source no longer lists: kept, unless they were to be pruned."""
    renamed: dict[str, str]
    """Old key to new: same size and time of change. They keep their place."""
    out_of_reach: tuple[str, ...] = ()
    """Keys that are listed, but whose files are not there now: planned as they were."""
    changed: bool = False
    """Whether the plan is another than the one that is published."""


def plan_url(dataset: str) -> str:
    """Where a dataset keeps its plan."""
    return storage.join(dataset, "plan.parquet")


def read_plan(dataset: str) -> list[PlannedVideo]:
    """The plan of a dataset; empty where there is none yet. Raises DamagedError."""
    if not storage.exists(plan_url(dataset)):
        return []
    with open_parquet(plan_url(dataset)) as stored:
        if missing := set(PLAN_SCHEMA.names).difference(stored.schema_arrow.names):
            raise DamagedError(f"{plan_url(dataset)}: lacks {', '.join(sorted(missing))}: it is of "
                               "another version, or no plan")  # fmt: skip
        batches = stored.iter_batches(BATCH_ROWS, columns=PLAN_SCHEMA.names)
        return [planned for batch in batches for planned in _from_batch(batch)]


def _from_batch(batch: pa.RecordBatch) -> Iterator[PlannedVideo]:
    facts = [batch.column(name).to_pylist() for name in SourceVideo._fields]
    return map(PlannedVideo, map(SourceVideo, *facts), batch.column("shard").to_pylist())


def write_plan(dataset: str, plan: Sequence[PlannedVideo]) -> None:
    """Publishes the plan."""
    with (
        storage.publishing(plan_url(dataset)) as temporary,
        pq.ParquetWriter(temporary, PLAN_SCHEMA) as writer,
    ):
        for first in range(0, len(plan), BATCH_ROWS):
            writer.write_batch(_to_batch(plan[first : first + BATCH_ROWS]))


def _to_batch(plan: Sequence[PlannedVideo]) -> pa.RecordBatch:
    rows = [(*_in_order(planned.video), planned.shard) for planned in plan]
    columns = map(pa.array, zip(*rows, strict=True), PLAN_SCHEMA.types)
    return pa.RecordBatch.from_arrays(list(columns), schema=PLAN_SCHEMA)


def extend_plan(
    plan: Sequence[PlannedVideo],
    videos: Iterable[SourceVideo],
    config: ExtractConfig,
    *,
    prune: bool = False,
) -> PlanUpdate:
    """The old plan with each known video's facts renewed, then new videos in new shards.

    Videos that the source no longer lists stay, unless `prune`: a dataset does not lose what it
    has. Nor does a file that is not there now make stale what was made of it. A video that was
    renamed keeps its shard under its new key.
    """
    listed = {video.key: video for video in videos}
    out_of_reach = _keep_out_of_reach(plan, listed)
    unlisted = [old.video for old in plan if old.video.key not in listed]
    renamed = _renamed(unlisted, listed, plan)
    gone = {video.key for video in unlisted} - renamed.keys()
    kept = [
        PlannedVideo(listed.pop(renamed.get(old.video.key, old.video.key), old.video), old.shard)
        for old in plan
        if not (prune and old.video.key in gone)
    ]
    first = max((old.shard for old in plan), default=-1) + 1
    new = [
        PlannedVideo(video, first + number)
        for number, shard in enumerate(_fill_shards(listed.values(), config))
        for video in shard
    ]
    updated = kept + new
    missing = tuple(sorted(gone))
    return PlanUpdate(updated, len(new), missing, renamed, out_of_reach, updated != plan)


def _keep_out_of_reach(
    plan: Sequence[PlannedVideo], listed: dict[str, SourceVideo]
) -> tuple[str, ...]:
    """Listed videos whose file is not there now keep the version that is planned; their keys."""
    absent = {video.key for video in listed.values() if video.out_of_reach}
    found = {
        old.video.key: old.video.version
        for old in plan
        if old.video.key in absent and not old.video.out_of_reach
    }
    listed.update({key: listed[key]._replace(version=known) for key, known in found.items()})
    return tuple(found)


def _renamed(
    unlisted: Sequence[SourceVideo], listed: dict[str, SourceVideo], plan: Sequence[PlannedVideo]
) -> dict[str, str]:
    """Old key to new, where just one new video has the version of just one that is gone."""
    if not unlisted:
        return {}
    known = {planned.video.key for planned in plan}
    fresh = [video for video in listed.values() if video.key not in known]
    times = Counter(video.version for video in (*unlisted, *fresh))
    by_version = {
        video.version: video.key for video in fresh if video.version and not video.out_of_reach
    }
    return {
        video.key: by_version[video.version]
        for video in unlisted
        if video.version in by_version and times[video.version] == 2
    }


def _fill_shards(
    videos: Iterable[SourceVideo], config: ExtractConfig
) -> Iterator[list[SourceVideo]]:
    """Videos in order, a new shard whenever one of the two bounds would be passed."""
    limit = (config.source_mb_per_shard or float("inf")) * 2**20
    shard: list[SourceVideo] = []
    size = 0
    for video in videos:
        video_size = video.size_bytes or 0
        if shard and (len(shard) >= config.videos_per_shard or size + video_size > limit):
            yield shard
            shard, size = [], 0
        shard.append(video)
        size += video_size
    if shard:
        yield shard
