"""What our own two exchange formats, `npy` and `parquet`, say of each video: one parquet row.

key, path, label, split, duration (seconds), text_source, transcript (start, end, text, source),
and of each track NAME the times of its rows: NAME_start and NAME_hop, row i at start + i * hop.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from extractors.errors import UsageError
from extractors.tracks import Segment
from pipeline import storage
from pipeline.formats.layout import Timing, broken, key_for
from pipeline.samples import VideoSample
from pipeline.sources import SourceVideo

SEGMENT = pa.struct(
    [
        pa.field("start", pa.float64()),
        pa.field("end", pa.float64()),
        pa.field("text", pa.string()),
        pa.field("source", pa.string()),
    ]
)
FIELDS = [
    pa.field("key", pa.string()),
    pa.field("path", pa.string()),
    pa.field("label", pa.string()),
    pa.field("split", pa.string()),
    pa.field("duration", pa.float64()),
    pa.field("text_source", pa.string()),
    pa.field("transcript", pa.list_(SEGMENT)),
]


def schema(tracks: Iterable[str]) -> list[pa.Field]:
    """The columns for these tracks."""
    times = [pa.field(f"{t}_{what}", pa.float64()) for t in tracks for what in ("start", "hop")]
    return [*FIELDS, *times]


def row(sample: VideoSample, tracks: Mapping[str, str]) -> dict[str, Any]:
    """The row of a video; `tracks` maps the names in the file to ours."""
    facts = sample.meta["tracks"]
    found: dict[str, Any] = {
        "key": sample.key,
        "path": sample.meta.get("path"),
        "label": sample.meta.get("label"),
        "split": sample.meta.get("split"),
        "duration": sample.duration,
        "text_source": sample.meta.get("text_source") or None,
        "transcript": [
            {"start": s.start, "end": s.end, "text": s.text, "source": s.source}
            for s in sample.segments
        ],
    }
    for name, track in tracks.items():
        found |= {f"{name}_{what}": facts[track][what] for what in ("start", "hop")}
    return found


def read_table(url: str, columns: Iterable[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file, a row group in memory at a time.

    Raises UsageError where it is none, or has no column `key`.
    """
    wanted = None if columns is None else list(columns)
    with open_parquet(url) as file:
        for group in range(file.num_row_groups):
            there = [c for c in wanted if c in file.schema_arrow.names] if wanted else None
            yield from file.read_row_group(group, columns=there).to_pylist()


def open_parquet(url: str) -> pq.ParquetFile:
    """A parquet file with a column `key`. Raises UsageError for anything else."""
    try:
        file = pq.ParquetFile(storage.open_binary(url), pre_buffer=False)
    except FileNotFoundError as err:
        raise UsageError(f"{url}: no such file") from err
    except pa.ArrowInvalid as err:
        raise UsageError(f"{url}: not a parquet file: {err}") from err
    if "key" not in file.schema_arrow.names:
        raise UsageError(f"{url}: needs a column 'key', has: {', '.join(file.schema_arrow.names)}")
    return file


def video_of(row: Mapping[str, Any], uri: str) -> SourceVideo:
    """As the plan lists it."""
    key = str(row["key"])
    path, label, split = row.get("path"), row.get("label"), row.get("split")
    return SourceVideo(key_for(key), uri, str(path or key), label=label, split=split)


def segments_of(row: Mapping[str, Any]) -> tuple[Segment, ...]:
    """The transcript. Raises VideoError for one of other fields."""
    try:
        return tuple(
            Segment(float(s["start"]), float(s["end"]), str(s["text"]), s.get("source", "captions"))
            for s in row.get("transcript") or ()
        )
    except (KeyError, TypeError, ValueError) as err:
        raise broken(f"{row['key']}: its transcript is not start, end, text: {err!r}") from err


def timing_of(
    row: Mapping[str, Any], name: str, given: Mapping[str, Timing | None]
) -> Timing | None:
    """What the row says of a track's times, else what was given."""
    start, hop = row.get(f"{name}_start"), row.get(f"{name}_hop")
    if start is None or hop is None:
        return given.get(name)
    return Timing(float(start), float(hop))
