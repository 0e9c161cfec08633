"""Plain .npy files: a folder a track, a file a video, a table of the rest.

ROOT/TRACK/KEY.npy       (rows, columns) float16
ROOT/text/KEY.npy        (segments, columns): the vectors of the transcript
ROOT/metadata.parquet    a row a video, see `pipeline.formats.metadata`

Read: these, and folders without a table (the videos are then those of the first track's folder,
or of `--list`, column `key`), where the rows' times are the usual ones or `--hop`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from extractors.errors import UsageError
from extractors.tracks import Track
from pipeline import storage
from pipeline.formats import metadata
from pipeline.formats.arrays import npy_bytes, read_npy
from pipeline.formats.captions import Lookup
from pipeline.formats.exporting import Entry, Files
from pipeline.formats.layout import (
    Features,
    Timing,
    broken,
    check_track,
    publish,
    read_column,
    rows_of,
    to_track,
)
from pipeline.samples import VideoSample
from pipeline.sources import SourceVideo

TABLE = "metadata.parquet"
ROWS_PER_GROUP = 10_000


@dataclass(frozen=True)
class NpyExport:
    """See `pipeline.formats.exporting.Exporter`."""

    tracks: Mapping[str, str]
    """Folder to track."""
    with_text = True
    one_file = False

    def check(self, tracks: dict[str, Any]) -> None:
        """Any shape will do."""
        for name, track in self.tracks.items():
            check_track(tracks, track, f"npy {name}")

    def write_shard(
        self, output: str, number: int, samples: Iterable[VideoSample]
    ) -> tuple[Files, list[Entry]]:
        """A file a track and video; a track that the video cannot have is an array of no rows."""
        files, entries = Files(), []
        for sample in samples:
            arrays = {name: rows_of(sample, track) for name, track in self.tracks.items()}
            if sample.text is not None:
                arrays["text"] = sample.text
            for name, array in arrays.items():
                files |= publish(output, f"{name}/{sample.key}.npy", npy_bytes(array))
            entries.append(metadata.row(sample, self.tracks))
        return files, entries

    def finish(
        self, output: str, entries: Callable[[], Iterator[Entry]], numbers: list[int]
    ) -> Files:
        """metadata.parquet."""
        schema = pa.schema(metadata.schema(self.tracks))
        with storage.publishing(storage.join(output, TABLE)) as temporary:
            with pq.ParquetWriter(temporary, schema) as writer:
                for group in _groups(entries()):
                    writer.write_table(pa.Table.from_pylist(group, schema=schema))
            size = temporary.stat().st_size
        return {TABLE: size}


def _groups(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Lists of ROWS_PER_GROUP."""
    remaining = iter(entries)
    while group := list(islice(remaining, ROWS_PER_GROUP)):
        yield group


def list_videos(
    source: str, list_url: str | None, tracks: Mapping[str, str]
) -> tuple[list[SourceVideo], dict[str, dict[str, Any]]]:
    """The videos, and the row of each in metadata.parquet (empty where there is no table).

    Raises UsageError where no video is listed.
    """
    table = storage.join(source, TABLE)
    if list_url is None and storage.exists(table):
        rows = list(metadata.read_table(table))
    elif list_url is not None:
        rows = [{"key": key} for key in read_column(list_url, "key")]
    else:
        first = next(iter(tracks))
        names = storage.names(storage.join(source, first))
        rows = [{"key": n.removesuffix(".npy")} for n in names if n.endswith(".npy")]
    if not rows:
        raise UsageError(f"{source}: no videos: needs {TABLE}, or folders of KEY.npy named as the "
                         f"tracks are: {', '.join(tracks)}")  # fmt: skip
    videos = [metadata.video_of(row, storage.join(source, str(row["key"]))) for row in rows]
    known = {video.key: row for video, row in zip(videos, rows, strict=True)}
    return videos, known


def read_video(
    source: str,
    row: Mapping[str, Any],
    tracks: Mapping[str, str],
    given: Mapping[str, Timing | None],
    captions: Lookup,
    *,
    text: bool,
) -> Features:
    """The arrays of one video. Raises VideoError: a file is missing or damaged."""
    name = str(row["key"])
    read: dict[str, Track] = {}
    for folder, track in tracks.items():
        url = storage.join(source, folder, f"{name}.npy")
        timing = metadata.timing_of(row, folder, given)
        if timing is None:
            raise broken(f"{url}: its rows have no times; give --hop {folder}=SECONDS")
        read[track] = to_track(url, read_npy(url), timing)
    segments = metadata.segments_of(row) if "transcript" in row else captions(name)
    vectors = read_npy(storage.join(source, "text", f"{name}.npy")) if text and segments else None
    return Features(read, segments, row.get("duration"), vectors)
