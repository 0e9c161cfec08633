"""Why each shard of a run's list is there, and what making it will cost."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from extractors.decode_config import DecodeConfig
from extractors.errors import DamagedError, UsageError, VideoError
from extractors.probe import probe
from pipeline import storage
from pipeline.config import ExtractConfig
from pipeline.dataset import read_provenance
from pipeline.extract import Todo
from pipeline.jobs import Job
from pipeline.provenance import Provenance, changes, digest, joint_fingerprint, provenance
from pipeline.scan import read_table
from pipeline.shards import ShardRecord
from pipeline.sources import SourceVideo

PROBED_VIDEOS = 8
"""Videos that are looked into where nothing is known of any duration."""
OWN = "this dataset"
"""Where a rate is from that the dataset's own shards took."""


@dataclass(frozen=True)
class ShardChange:
    """One shard that is to be made, or made again."""

    number: int
    videos: int
    state: str
    """`missing`: no such shard yet; `stale`: it is of other videos or settings; `retry`."""
    reasons: tuple[str, ...]
    tracks: dict[str, int]
    """Of how many videos each track is to be made; of the others it is carried over."""

    @property
    def opened(self) -> int:
        """Videos that are to be opened; of the others everything needed is in the shard."""
        return max((n for name, n in self.tracks.items() if name != "text"), default=0)


@dataclass(frozen=True)
class StageCost:
    """What one stage of a run will take."""

    stage: str
    video_hours: float
    """Hours of video that go through it."""
    rate: float | None
    """Seconds of work a second of video; None: never measured."""
    rate_from: str = ""
    """Where the rate is from; empty without one."""

    @property
    def worker_hours(self) -> float | None:
        """Hours of one worker."""
        return None if self.rate is None else self.video_hours * self.rate


def explain(todo: Todo, dataset: str, config: ExtractConfig) -> list[ShardChange]:
    """A change for each job, in order."""
    wanted = provenance(config)
    known: dict[str, Provenance | None] = {joint_fingerprint(wanted): wanted}
    for record in todo.stale.values():
        if record.made_by not in known:
            known[record.made_by] = read_provenance(dataset, record.made_by)
    return [_explain(job, todo, wanted, known, dataset) for job in todo.jobs]


def _explain(
    job: Job,
    todo: Todo,
    wanted: Provenance,
    known: dict[str, Provenance | None],
    dataset: str,
) -> ShardChange:
    count, record = len(job.videos), todo.stale.get(job.number)
    if record is None:
        tracks = dict.fromkeys(wanted, count)
        return ShardChange(job.number, count, "missing", ("not made yet",), tracks)
    old = known[record.made_by]
    unknown = ["made by settings that are not on record"]
    reasons = unknown if old is None else changes(old, wanted)
    stale = {n for n in wanted if old is None or digest(old.get(n)) != digest(wanted[n])}
    versions = None if job.number in todo.broken else _versions(dataset, job.number)
    if versions is None:
        reasons = [*reasons, "its files are lost or damaged"]
    lines, changed = _changed_videos(job, versions or {})
    if job.retry:
        lines.append("failed videos are tried again")
        changed |= set(job.retry)
    tracks = {name: count if name in stale else len(changed) for name in wanted}
    state = "retry" if job.retry and record.job == job.digest else "stale"
    tracks = {name: number for name, number in tracks.items() if number}
    why = tuple(reasons + lines) or ("paths, labels, splits or the quarantine changed",)
    return ShardChange(job.number, count, state, why, tracks)


def _versions(dataset: str, number: int) -> dict[str, str] | None:
    """The version of each video of a published shard, by key; None where they cannot be read."""
    try:
        table = read_table(dataset, number, ["key", "version"])
    except (FileNotFoundError, DamagedError):
        return None
    keys, versions = (table.column(name).to_pylist() for name in ("key", "version"))
    return {key: version or "" for key, version in zip(keys, versions, strict=True)}


def _changed_videos(job: Job, versions: dict[str, str]) -> tuple[list[str], set[str]]:
    """A line each on videos that are not as the shard has them; the keys that are to be opened."""
    aside = set(job.quarantined)
    here = {video.key for video in job.videos}
    changed = {v.key for v in job.videos if versions.get(v.key) != v.version} - aside
    gone = set(versions) - here
    by_version = {versions[key]: key for key in gone if versions[key]}
    lines = []
    for video in job.videos:
        if video.key in changed and video.key in versions:
            lines.append(f"file or captions of {video.key} changed")
        elif video.key in changed and video.version in by_version:
            lines.append(f"{by_version[video.version]} is now called {video.key}")
            gone -= {by_version[video.version]}
    lines += [f"{key} is no longer listed" for key in sorted(gone)]
    lines += [f"{key} is quarantined" for key in job.quarantined]
    return lines, changed


def estimate(
    changed: Sequence[ShardChange], records: Iterable[ShardRecord], seconds: float
) -> list[StageCost]:
    """The cost of each stage, from what the dataset's shards took; `seconds` is how long a video is
    (`seconds_a_video`)."""
    hours = seconds / 3600
    rates = _rates(records)
    passes = Counter[str]()
    for change in changed:
        passes.update(change.tracks)
        passes["decode"] += change.opened
    return [
        StageCost(stage, count * hours, rates.get(stage), OWN if stage in rates else "")
        for stage, count in ((_stage(name), count) for name, count in passes.most_common())
        if count
    ]


def _rates(records: Iterable[ShardRecord]) -> dict[str, float]:
    """Seconds of work a second of video that went through the stage, by stage."""
    spent: dict[str, float] = defaultdict(float)
    seconds: dict[str, float] = defaultdict(float)
    for record in records:
        for name, made in record.made_seconds.items():
            spent[_stage(name)] += record.stage_seconds.get(_stage(name), 0.0)
            seconds[_stage(name)] += made
    return {stage: spent[stage] / made for stage, made in seconds.items() if made}


def _stage(track: str) -> str:
    """Whose seconds a track takes."""
    return "speech" if track == "transcript" else track


def seconds_a_video(todo: Todo, records: Sequence[ShardRecord], config: ExtractConfig) -> float:
    """Mean duration: of the published videos, else of a few of the jobs', looked into now."""
    successes = sum(record.successes for record in records)
    if successes:
        return sum(record.video_seconds for record in records) / successes
    videos = [video for job in todo.jobs for video in job.videos]
    step = max(1, len(videos) // PROBED_VIDEOS)
    probed = [_duration(video, config.decode) for video in videos[::step][:PROBED_VIDEOS]]
    found = [duration for duration in probed if duration is not None]
    return sum(found) / len(found) if found else 0.0


def _duration(video: SourceVideo, config: DecodeConfig) -> float | None:
    """Seconds as the container declares them; None for a file that cannot be read."""
    try:
        with storage.local_copy(video.uri) as path:
            return probe(path, config).duration
    except (VideoError, UsageError, OSError):
        return None
