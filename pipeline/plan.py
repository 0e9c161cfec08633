"""The plan: which video is in which shard. Appended to, never reshuffled.

It is fixed by the source's order and the settings, never by the number of workers.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config import ExtractConfig
from pipeline.sources import SourceVideo

PLAN_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("uri", pa.string()),
        ("path", pa.string()),
        ("size_bytes", pa.int64()),
        ("captions", pa.string()),
        ("version", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("shard", pa.int32()),
    ]
)


@dataclass(frozen=True)
class PlannedVideo:
    """One row of the plan."""

    video: SourceVideo
    shard: int


def plan_url(dataset: str) -> str:
    """Where a dataset keeps its plan."""
    return storage.join(dataset, "plan.parquet")


def read_plan(dataset: str) -> list[PlannedVideo]:
    """The plan of a dataset; empty where there is none yet."""
    if not storage.exists(plan_url(dataset)):
        return []
    content = storage.read_bytes(plan_url(dataset))
    rows = pq.read_table(pa.BufferReader(content), schema=PLAN_SCHEMA).to_pylist()
    return [PlannedVideo(shard=row.pop("shard"), video=SourceVideo(**row)) for row in rows]


def write_plan(dataset: str, plan: Sequence[PlannedVideo]) -> None:
    """Publishes the plan."""
    rows = [asdict(planned.video) | {"shard": planned.shard} for planned in plan]
    with storage.publishing(plan_url(dataset)) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=PLAN_SCHEMA), temporary)


def extend_plan(
    plan: Sequence[PlannedVideo], videos: Iterable[SourceVideo], config: ExtractConfig
) -> list[PlannedVideo]:
    """The old plan with each known video's facts renewed, then new videos in new shards.

    Videos that the source no longer lists stay: a dataset does not lose what it has.
    """
    listed = {video.key: video for video in videos}
    kept = [replace(old, video=listed.pop(old.video.key, old.video)) for old in plan]
    first = max((old.shard for old in plan), default=-1) + 1
    new_shards = _fill_shards(listed.values(), config)
    new = [
        PlannedVideo(video, first + number)
        for number, shard in enumerate(new_shards)
        for video in shard
    ]
    return kept + new


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
