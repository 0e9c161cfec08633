"""A dataset's part of `pipeline report`: what is in it, what failed, what took the time."""

import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from extractors.errors import AbortError
from pipeline.charts import SERIES, Chart, bars, histogram, number_text
from pipeline.dataset import read_dataset_card, read_records
from pipeline.failures import count_failed, failed_videos
from pipeline.inspection import Inspected, inspect_videos, times_of
from pipeline.inspection_page import byte_text, clock
from pipeline.pictures import contact_sheet
from pipeline.report_page import Picture, Section, Sheet, Table
from pipeline.scan import scan_rows
from pipeline.shards import shard_name
from pipeline.status import Status, read_status

COLUMNS = ("status", "duration", "label", "split", "text_source", "num_segments", "rows")
MOST_NAMES = 15
"""Bars of a plot; what is rarer is summed."""
SHOWN_FAILURES = 200
SHEETS = 8
"""Videos whose frames are shown, of as many shards."""
FRAMES = 6


def report_dataset(dataset: str) -> list[Section]:
    """Sections of a dataset, from the shards that are published now.

    Raises UsageError where there is no dataset, AbortError for a foreign one.
    """
    status = read_status(dataset)
    records = [record for record in read_records(dataset) if record.count]
    rows = scan_rows(dataset, [record.number for record in records], COLUMNS)
    good = rows.filter(pc.equal(rows.column("status"), "success"))
    sections = [_overview(status, good)]
    if status.reasons:
        sections.append(_failures(dataset))
    sections.append(_contents(dataset, good))
    sheets = tuple(_sheets(dataset, [r.number for r in records if r.successes]))
    if sheets:
        note = "Evenly spaced frames of a video a shard, shards evenly spaced."
        sections.append(Section("Contact sheets", note, sheets=sheets))
    return sections


def _overview(status: Status, good: pa.Table) -> Section:
    failed = status.videos - status.successes
    missing = max(0, status.planned_videos - status.videos)
    shares = {"done": status.successes, "failed": failed, "not made yet": missing}
    shown = {name: count for name, count in shares.items() if count or name == "done"}
    colours = {"done": SERIES[2], "failed": SERIES[1], "not made yet": SERIES[6]}
    charts = [bars("Videos by status", shown, "videos", colours=[colours[name] for name in shown])]
    if status.stage_seconds:
        charts.append(bars("Seconds by stage", _largest(status.stage_seconds), "worker seconds"))
    durations = good.column("duration").drop_null().to_numpy()
    if len(durations):
        charts.append(histogram("Length of videos", durations, "seconds", "videos"))
    worked = sum(status.stage_seconds.values())
    facts = [
        ("videos", f"{status.videos:,}"),
        ("hours of video", number_text(round(status.video_seconds / 3600, 3))),
        ("shards", f"{status.shards:,} of {max(status.planned_shards, status.shards):,}"),
        ("size", byte_text(status.tar_bytes)),
        ("worker hours", number_text(round(worked / 3600, 3))),
        ("takes longest", status.bottleneck or "–"),
        *((f"decoded on {place}", f"{count:,}") for place, count in status.decoded_on.items()),
    ]
    if worked:
        speed = status.video_seconds / worked
        facts.insert(5, ("seconds of video a worker second", number_text(round(speed, 2))))
    return Section("Dataset", facts=tuple(facts), charts=tuple(charts))


def _failures(dataset: str) -> Section:
    failed = failed_videos(dataset)
    charts = [
        bars(f"Failures by {by}", _counted(count_failed(failed, by)), "videos")
        for by in ("reason", "stage")
    ]
    listed = failed.slice(0, SHOWN_FAILURES).select(["key", "reason", "error_message"])
    rows = tuple(tuple(str(value or "") for value in row.values()) for row in listed.to_pylist())
    title = "Failed videos" if len(failed) == len(rows) else f"First {len(rows)} failed videos"
    table = Table(title, ("key", "reason", "message"), rows)
    return Section("Failures", charts=tuple(charts), tables=(table,))


def _contents(dataset: str, good: pa.Table) -> Section:
    charts = list(_content_charts(good))
    tracks = read_dataset_card(dataset)["tracks"]
    columns = (
        "track",
        "columns",
        "seconds a row",
        "videos",
        "rows",
        "rows a video, median",
        "most",
    )
    rows = tuple(_track_row(name, facts, good) for name, facts in tracks.items())
    table = Table("Tracks", columns, rows, frozenset(range(1, len(columns))))
    return Section("Contents", charts=tuple(charts), tables=(table,) if rows else ())


def _content_charts(good: pa.Table) -> Iterator[Chart]:
    hours = pc.divide(pc.fill_null(good.column("duration"), 0), 3600)
    for name in ("split", "label"):
        column = good.column(name)
        if column.null_count < len(column):
            table = pa.table({"name": column, "hours": hours})
            summed = table.group_by("name").aggregate([("hours", "sum")])
            named = {
                "none" if row["name"] is None else row["name"]: round(row["hours_sum"], 4)
                for row in summed.to_pylist()
            }
            yield bars(f"Hours by {name}", _largest(named), "hours")
    sources = Counter(
        source or "no transcript" for source in good.column("text_source").to_pylist()
    )
    if sources:
        yield bars("Transcripts by source", _largest(dict(sources.most_common())), "videos")
    segments = good.column("num_segments").drop_null().to_numpy()
    if segments.any():
        yield histogram("Segments of speech a video", segments, "segments", "videos")


def _track_row(name: str, facts: dict[str, object], good: pa.Table) -> tuple[str, ...]:
    counts = pc.map_lookup(good.column("rows"), pa.scalar(name), "first").drop_null().to_numpy()
    counts = counts[counts > 0]
    middle, most = (np.median(counts), counts.max()) if len(counts) else (0, 0)
    hop = facts.get("hop")
    return (
        name,
        str(facts.get("dim", "–")),
        number_text(float(hop)) if isinstance(hop, int | float) else "–",
        f"{len(counts):,}",
        f"{int(counts.sum()):,}",
        number_text(float(middle)),
        number_text(float(most)),
    )


def _sheets(dataset: str, shards: Sequence[int]) -> Iterator[Sheet]:
    """Of up to SHEETS shards, evenly spaced, the first videos that have a picture."""
    chosen = np.unique(np.linspace(0, len(shards) - 1, min(SHEETS, len(shards))).astype(int))
    videos = max(1, SHEETS // max(1, len(chosen)))
    for place in chosen:
        try:
            found = inspect_videos(dataset, [shards[place]], limit=videos)
        except (AbortError, OSError, tarfile.TarError) as err:  # the rest is still worth reading
            yield Sheet(f"Shard {shard_name(shards[place])}", (), f"cannot be read: {err}")
            continue
        yield from (_sheet(video) for video in found if video.sample.meta.get("picture"))


def _sheet(video: Inspected) -> Sheet:
    sample = video.sample
    frames = contact_sheet(sample.proxy, video.uri, times_of(sample.duration, FRAMES))
    pictures = tuple(
        Picture(thumbnail, f"{sample.key} at {clock(time)}", clock(time))
        for time, thumbnail in frames
    )
    said = " ".join(segment.text for segment in sample.segments)
    note = said if len(said) <= 240 else said[:239] + "…"
    return Sheet(f"{sample.key}, {clock(sample.duration)}", pictures, note)


def _counted(counts: Sequence[tuple[str | int | None, int]]) -> dict[str, float]:
    return _largest({str(name) if name is not None else "none": count for name, count in counts})


def _largest(values: dict[str, float] | dict[str, int]) -> dict[str, float]:
    """Largest first; beyond MOST_NAMES summed as `N others`."""
    ordered = sorted(values.items(), key=lambda pair: -pair[1])
    first, rest = ordered[:MOST_NAMES], ordered[MOST_NAMES:]
    if rest:
        first.append((f"{len(rest)} others", sum(value for _, value in rest)))
    return dict(first)
