"""A dataset of ours out of features that others extracted: plan, shards, records, manifest.

dataset.json says `imported`: the format, the source, the times that rows were given.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.errors import Reason, UsageError, VideoError
from extractors.speech_config import WordVectorsConfig
from extractors.text import build_text_encoder
from extractors.tracks import Segment
from pipeline import storage
from pipeline.config import RESERVED
from pipeline.dataset import read_records, write_manifest
from pipeline.formats.imported_card import (
    ImportOptions,
    check_same,
    first_look,
    import_card,
    import_config,
    known_making,
    own_card,
    stored_widths,
)
from pipeline.formats.layout import Features, FeatureSource, broken, end_of
from pipeline.jobs import Job, make_jobs
from pipeline.plan import PlannedVideo, read_plan, write_plan
from pipeline.provenance import digest
from pipeline.samples import VideoSample, encode_sample, write_tar
from pipeline.settings import dump_settings
from pipeline.shards import FORMAT_VERSION, ShardRecord, sha256_of, shard_url, write_rows
from pipeline.sources import SourceVideo, check_keys


@dataclass(frozen=True)
class ImportPlan:
    """What an import has before it."""

    dataset: str
    source: FeatureSource
    options: ImportOptions
    card: Mapping[str, Any] = field(repr=False)
    """dataset.json."""
    made_by: Mapping[str, dict[str, Any]] = field(repr=False)
    """What decides each track's numbers, as far as it is known."""
    jobs: tuple[Job, ...] = field(repr=False)
    """Shards to make."""
    done: tuple[ShardRecord, ...] = field(repr=False)
    """Shards that are there already."""


def plan_import(source: FeatureSource, dataset: str, options: ImportOptions) -> ImportPlan:
    """Publishes dataset.json and the plan, and finds the shards to make.

    Raises UsageError before anything is written: no videos, keys that two share, an output that
    holds something else or an import from elsewhere, none of the first videos readable.
    """
    if not source.videos:
        raise UsageError(f"{source.uri}: lists no videos")
    for track in source.timing:
        if track in RESERVED or not track.replace("_", "").isalnum() or track != track.lower():
            raise UsageError(
                f"--track …={track}: a track's name is lower-case letters, digits and _"
            )
    check_keys(source.videos)
    known = own_card(dataset)
    widths = first_look(source) if known is None else stored_widths(known, source.timing)
    made_by = known_making(source, options, widths)
    card = import_card(source, options, widths, made_by)
    if known is not None:
        check_same(dataset, known, card)
    config = import_config(options)
    plan = _extend(read_plan(dataset), source.videos, options.videos_per_shard)
    write_plan(dataset, plan)
    storage.publish_bytes(storage.join(dataset, "config.yaml"), dump_settings(config).encode())
    made_by_url = storage.join(dataset, "provenance", f"{card['fingerprint']}.json")
    storage.publish_json(made_by_url, made_by)
    storage.publish_json(storage.join(dataset, "dataset.json"), card)
    jobs = tuple(make_jobs(dataset, plan, card["fingerprint"]))
    wanted = {job.number: job.digest for job in jobs}
    done = tuple(r for r in read_records(dataset) if wanted.get(r.number) == r.job)
    numbers = {record.number for record in done}
    todo = tuple(job for job in jobs if job.number not in numbers)
    return ImportPlan(dataset, source, options, card, made_by, todo, done)


def _extend(
    plan: Sequence[PlannedVideo], videos: Sequence[SourceVideo], per_shard: int
) -> list[PlannedVideo]:
    """The old plan, then new videos in new shards: what is published stays."""
    known = {planned.video.key for planned in plan}
    first = max((planned.shard for planned in plan), default=-1) + 1
    new = [video for video in videos if video.key not in known]
    return [*plan, *(PlannedVideo(v, first + n // per_shard) for n, v in enumerate(new))]


def run_import(
    plan: ImportPlan,
    device: torch.device,
    on_video: Callable[[bool], None] = lambda failed: None,
) -> list[ShardRecord]:
    """Makes the shards and the manifest; gives the records of the whole dataset.

    A video whose files are missing or damaged is a failed row. `on_video` hears of each video
    whether it failed. Raises AbortError for a sentence encoder without weights.
    """
    if plan.jobs:
        with _encoder(plan.options, device) as encode:
            for job in plan.jobs:
                _import_shard(plan, job, encode, on_video)
    records = read_records(plan.dataset)
    write_manifest(plan.dataset, records)
    return records


Vectors = tuple[NDArray[np.generic] | None, NDArray[np.int64] | None]
"""Of a transcript: `VideoSample.text` and `text_offsets`."""
Encode = Callable[[Sequence[Segment]], Vectors]


@contextmanager
def _encoder(options: ImportOptions, device: torch.device) -> Iterator[Encode | None]:
    """What makes the vectors of segments; None where none are made."""
    if options.text is None or options.keep_text:
        yield None
        return
    encoder = build_text_encoder(options.text)
    has_words = isinstance(options.text, WordVectorsConfig)

    def encode(segments: Sequence[Segment]) -> Vectors:
        found = encoder.encode_rows([segment.text for segment in segments])
        return found.rows.astype(encoder.dtype), found.offsets if has_words else None

    encoder.setup(device)
    try:
        yield encode
    finally:
        encoder.close()


def _import_shard(
    plan: ImportPlan, job: Job, encode: Encode | None, on_video: Callable[[bool], None]
) -> None:
    """Tar, parquet, record last, as `run extract` publishes them."""
    started = datetime.now(UTC)
    rows: list[dict[str, Any]] = []

    def samples() -> Iterator[tuple[str, dict[str, bytes]]]:
        for video in job.videos:
            try:
                sample = _sample(plan, video, encode)
            except VideoError as err:
                rows.append(_failed_row(video, err))
            else:
                rows.append(_row(video, sample))
                yield sample.key, encode_sample(sample)
            on_video(rows[-1]["status"] == "failed")

    with (
        storage.publishing(shard_url(job.dataset, job.number, ".tar")) as tar,
        storage.publishing(shard_url(job.dataset, job.number, ".parquet")) as parquet,
    ):
        write_tar(tar, samples())
        write_rows(parquet, rows)
        record = _record(job, rows, started, tar, parquet, plan.card["fingerprint"])
        storage.remove(shard_url(job.dataset, job.number, "_stats.json"))
    url = shard_url(job.dataset, job.number, "_stats.json")
    storage.publish_json(url, {"format_version": FORMAT_VERSION} | asdict(record))


def _sample(plan: ImportPlan, video: SourceVideo, encode: Encode | None) -> VideoSample:
    """One video as a sample. Raises VideoError."""
    found = plan.source.read(video)
    facts = plan.card["tracks"]
    for name, track in found.tracks.items():
        width = track.rows.shape[1]
        if width != facts[name]["dim"] and (width or len(track.rows)):
            raise broken(f"{video.uri}: {name} has {width} columns, the dataset has "
                         f"{facts[name]['dim']}")  # fmt: skip
    duration = found.duration if found.duration is not None else end_of(found.tracks.values())
    if not np.isfinite(duration) or duration <= 0:
        raise VideoError(Reason.EMPTY_FILE, "import", f"{video.uri}: its features have no rows")
    text, offsets = _vectors(video, found, encode, plan.options)
    return VideoSample(
        key=video.key,
        meta=_meta(plan, video, found, duration),
        tracks={name: track for name, track in found.tracks.items() if len(track.rows)},
        segments=found.segments,
        text=text,
        text_offsets=offsets,
    )


def _vectors(
    video: SourceVideo, found: Features, encode: Encode | None, options: ImportOptions
) -> Vectors:
    if encode is not None:
        return encode(found.segments)
    if not options.keep_text:
        return None, None
    if found.text is None:
        return np.zeros((0, 0), np.float16), None
    if found.text.shape[:1] != (len(found.segments),) or found.text.ndim != 2:
        raise broken(f"{video.uri}: {len(found.segments)} segments have text vectors "
                     f"{found.text.shape}")  # fmt: skip
    return found.text.astype(np.float16), None


def _meta(plan: ImportPlan, video: SourceVideo, found: Features, duration: float) -> dict[str, Any]:
    """meta.json, with the keys that `run extract` writes; of the file nothing is known."""
    tracks = {
        name: {
            "start": track.start,
            "hop": track.hop,
            "rows": len(track.rows),
            "dim": plan.card["tracks"][name]["dim"],
            "dtype": "float16",
            "absent": "" if len(track.rows) else "no rows in the source",
        }
        for name, track in found.tracks.items()
    }
    return {
        "path": video.path,
        "content_id": None,
        "label": video.label,
        "split": video.split,
        "duration": round(duration, 3),
        "damage": "",
        "decoded_on": "",
        "decode_fallback": "",
        "picture": None,
        "sound": None,
        "captions_id": "",
        "text_source": found.segments[0].source if found.segments else "",
        "tracks": tracks,
        "provenance": {
            name: {"fingerprint": digest(facts), **facts} for name, facts in plan.made_by.items()
        },
    }


def _row(video: SourceVideo, sample: VideoSample) -> dict[str, Any]:
    return {
        "key": video.key,
        "uri": video.uri,
        "status": "success",
        "attempts": 1,
        "duration": sample.duration,
        "label": video.label,
        "split": video.split,
        "text_source": sample.meta["text_source"] or None,
        "num_segments": len(sample.segments),
        "rows": {name: len(track.rows) for name, track in sample.tracks.items()},
    }


def _failed_row(video: SourceVideo, err: VideoError) -> dict[str, Any]:
    return {
        "key": video.key,
        "uri": video.uri,
        "status": "failed",
        "reason": str(err.reason),
        "stage": err.stage,
        "error_message": err.message,
        "attempts": 1,
        "label": video.label,
        "split": video.split,
        "num_segments": 0,
        "rows": {},
    }


def _record(
    job: Job,
    rows: Sequence[Mapping[str, Any]],
    started: datetime,
    tar: Path,
    parquet: Path,
    fingerprint: str,
) -> ShardRecord:
    ended = datetime.now(UTC)
    reasons = Counter(row["reason"] for row in rows if row["status"] == "failed")
    return ShardRecord(
        number=job.number,
        count=len(rows),
        successes=len(rows) - reasons.total(),
        reasons=dict(sorted(reasons.items())),
        tar_sha256=sha256_of(tar),
        tar_bytes=tar.stat().st_size,
        parquet_sha256=sha256_of(parquet),
        job=job.digest,
        stage_seconds={"import": round((ended - started).total_seconds(), 3)},
        video_seconds=round(sum(row["duration"] for row in rows if row["status"] == "success"), 3),
        started=started.isoformat(timespec="seconds"),
        ended=ended.isoformat(timespec="seconds"),
        made_by=fingerprint,
    )
