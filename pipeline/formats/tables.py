"""Parquet as pandas and Hugging Face datasets read it: a file a shard, a row a video.

ROOT/data/000000.parquet   the columns of `pipeline.formats.metadata`; each track as a column of
                           its name, a list (rows) of fixed-size lists (columns) of float16, null
                           where the video has no such track; `text`, the same a segment

Each video is a row group of its own, so that one can be read without its neighbours.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from extractors.errors import UsageError
from extractors.tracks import Track
from pipeline import storage
from pipeline.formats import metadata
from pipeline.formats.exporting import Entry, Files
from pipeline.formats.layout import Features, Timing, broken, check_track, to_track
from pipeline.samples import VideoSample
from pipeline.shards import shard_name
from pipeline.sources import SourceVideo

LISTED = ("key", "path", "label", "split")


@dataclass(frozen=True)
class ParquetExport:
    """See `pipeline.formats.exporting.Exporter`."""

    tracks: Mapping[str, str]
    """Column to track."""
    with_text = True
    one_file = False

    def check(self, tracks: dict[str, Any]) -> None:
        """Any shape will do, and a column has one name."""
        taken = {field.name for field in metadata.schema(self.tracks)} | {"text"}
        for name, track in self.tracks.items():
            if name in taken:
                raise UsageError(f"--track {name}={track}: parquet has a column {name} already")
            check_track(tracks, track, f"parquet {name}")

    def write_shard(
        self, output: str, number: int, samples: Iterable[VideoSample]
    ) -> tuple[Files, list[Entry]]:
        """One file; a shard without videos gives none."""
        name = f"data/{shard_name(number)}.parquet"
        remaining = iter(samples)
        first = next(remaining, None)
        if first is None:
            return {}, []
        columns = metadata.schema(self.tracks)
        columns += [_field(n, first.meta["tracks"][t]["dim"]) for n, t in self.tracks.items()]
        schema = pa.schema([*columns, pa.field("text", pa.list_(pa.list_(pa.float16())))])
        with storage.publishing(storage.join(output, name)) as temporary:
            with pq.ParquetWriter(temporary, schema) as writer:
                writer.write_table(self._row(first, schema))
                for sample in remaining:
                    writer.write_table(self._row(sample, schema))
            size = temporary.stat().st_size
        return {name: size}, []

    def finish(
        self, output: str, entries: Callable[[], Iterator[Entry]], numbers: list[int]
    ) -> Files:
        """Nothing: each file is whole in itself."""
        return {}

    def _row(self, sample: VideoSample, schema: pa.Schema) -> pa.Table:
        facts = metadata.row(sample, self.tracks)
        arrays = {
            name: sample.tracks[track].rows if track in sample.tracks else None
            for name, track in self.tracks.items()
        } | {"text": sample.text}
        columns = [
            _list_column(arrays[field.name], field.type)
            if field.name in arrays
            else pa.array([facts[field.name]], field.type)
            for field in schema
        ]
        return pa.Table.from_arrays(columns, schema=schema)


def _field(name: str, dim: int) -> pa.Field:
    return pa.field(name, pa.list_(pa.list_(pa.float16(), dim)))


def _list_column(rows: NDArray[Any] | None, kind: pa.DataType) -> pa.Array:
    """One value: the rows as a list of lists, or null."""
    if rows is None:
        return pa.array([None], kind)
    flat = pa.array(np.ascontiguousarray(rows, np.float16).reshape(-1))
    if pa.types.is_fixed_size_list(kind.value_type):
        inner = pa.FixedSizeListArray.from_arrays(flat, kind.value_type.list_size)
    else:
        offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
        inner = pa.ListArray.from_arrays(pa.array(offsets), flat)
    return pa.ListArray.from_arrays(pa.array([0, len(rows)], pa.int32()), inner).cast(kind)


Place = tuple[str, int, int]
"""URL of a file, row group, row in it."""


def list_videos(source: str) -> tuple[list[SourceVideo], dict[str, Place]]:
    """The videos of a folder's parquet files (or of one file), and where each lies.

    Raises UsageError: no such file, or one without a column `key`.
    """
    videos, places = [], {}
    for url in _files(source):
        with metadata.open_parquet(url) as file:
            there = [name for name in LISTED if name in file.schema_arrow.names]
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=there).to_pylist()
                for number, row in enumerate(rows):
                    video = metadata.video_of(row, f"{url}#{row['key']}")
                    videos.append(video)
                    places[video.key] = (url, group, number)
    return videos, places


def _files(source: str) -> list[str]:
    if source.endswith(".parquet"):
        return [source]
    for folder in (storage.join(source, "data"), source):
        names = [name for name in storage.names(folder) if name.endswith(".parquet")]
        if names:
            return [storage.join(folder, name) for name in names]
    raise UsageError(f"{source}: holds no .parquet files, nor does its folder data")


def check_columns(places: Mapping[str, Place], tracks: Mapping[str, str]) -> None:
    """Raises UsageError where a column is missing from the first file."""
    url = next(iter(places.values()))[0]
    with metadata.open_parquet(url) as file:
        there = file.schema_arrow.names
    for name in tracks:
        if name not in there:
            raise UsageError(
                f"{url}: has no column {name!r}, it has: {', '.join(there)}; choose with "
                "--track COLUMN=TRACK, leave it out with --track COLUMN="
            )


def read_video(
    place: Place,
    tracks: Mapping[str, str],
    given: Mapping[str, Timing | None],
    *,
    text: bool,
) -> Features:
    """One row. Raises VideoError: a column is missing or holds no rows of numbers."""
    url, group, number = place
    table = _row_group(url, group, (*tracks, *(("text",) if text else ())))
    row = table.slice(number, 1)
    facts = row.select(
        [n for n in row.column_names if n not in tracks and n != "text"]
    ).to_pylist()[0]
    where = f"{url}: {facts['key']}"
    read: dict[str, Track] = {}
    for name, track in tracks.items():
        timing = metadata.timing_of(facts, name, given)
        if timing is None:
            raise broken(f"{where}: the rows of {name} have no times; give --hop {name}=SECONDS")
        read[track] = to_track(f"{where} {name}", _rows(where, row, name), timing)
    segments = metadata.segments_of(facts)
    vectors = _rows(where, row, "text") if text and segments else None
    return Features(read, segments, facts.get("duration"), vectors)


@functools.lru_cache(maxsize=1)
def _row_group(url: str, group: int, arrays: tuple[str, ...]) -> pa.Table:
    """Kept for the next row of it: files of others hold many rows a group."""
    with metadata.open_parquet(url) as file:
        times = [f"{name}_{what}" for name in arrays for what in ("start", "hop")]
        wanted = {*arrays, *times, *(field.name for field in metadata.FIELDS)}
        return file.read_row_group(
            group, columns=[n for n in file.schema_arrow.names if n in wanted]
        )


def _rows(where: str, row: pa.Table, name: str) -> NDArray[Any]:
    """(T, D) of a list of lists; (0, D) where it is null."""
    if name not in row.column_names:
        raise broken(f"{where}: has no column {name!r}")
    column = row.column(name).combine_chunks()
    kind = column.type
    if not pa.types.is_list(kind) and not pa.types.is_large_list(kind):
        raise broken(f"{where}: column {name!r} is {kind}, a list of lists is wanted")
    width = kind.value_type.list_size if pa.types.is_fixed_size_list(kind.value_type) else None
    inner = column.flatten()
    if len(inner) == 0:
        return np.zeros((0, width or 0), np.float16)
    try:
        flat = inner.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat).reshape(len(inner), width or -1)
    except (pa.ArrowInvalid, ValueError, AttributeError) as err:
        raise broken(f"{where}: column {name!r}: rows of one length are wanted: {err}") from err
