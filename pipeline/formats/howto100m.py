"""HowTo100M's features as MCN and AVLnet read them.

ROOT/PATH/ID_2d.npz, ID_3d.npz   key `features`, (rows, 2048) float16, 1 and 1.5 rows a second
ROOT/PATH/ID_spec.npz            key `arr_0`, (40, frames) float16, 100 frames a second
ROOT/videos.csv                  column `path`; ID is its last part
ROOT/caption.pickle, .json       {ID: {start: [s], end: [s], text: [str]}}

MCN draws clips from captions and stops at a video without any, so those are listed apart, in
videos_without_captions.csv. A video without picture or sound has arrays without rows.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extractors.errors import UsageError
from extractors.tracks import Track
from pipeline import storage
from pipeline.formats import pickles
from pipeline.formats.arrays import npz_bytes, read_npz
from pipeline.formats.captions import Lookup, caption_lists
from pipeline.formats.exporting import Entry, Files
from pipeline.formats.layout import (
    BANDS,
    HOWTO100M_TIMING,
    Features,
    Timing,
    check_track,
    key_for,
    publish,
    read_column,
    rows_of,
    source_path,
    to_track,
)
from pipeline.samples import VideoSample
from pipeline.sources import SourceVideo

FILES = {"2d": ("2d", "features"), "3d": ("3d", "features"), "audio": ("spec", "arr_0")}
"""Each feature's suffix and the key in its .npz."""
LISTS = ("videos.csv", "videos_without_captions.csv")


@dataclass(frozen=True)
class HowTo100MExport:
    """See `pipeline.formats.exporting.Exporter`."""

    tracks: Mapping[str, str]
    """2d, 3d, audio: which track each is."""
    with_text = False
    one_file = False

    def check(self, tracks: dict[str, Any]) -> None:
        """MCN cuts clips by fixed rates, and its sound network takes 40 bands."""
        for name, track in self.tracks.items():
            dim = BANDS if name == "audio" else None
            check_track(tracks, track, f"howto100m {name}", dim=dim, timing=HOWTO100M_TIMING[name])

    def write_shard(
        self, output: str, number: int, samples: Iterable[VideoSample]
    ) -> tuple[Files, list[Entry]]:
        """The .npz files of each video."""
        files, entries = Files(), []
        for sample in samples:
            path = source_path(sample.key, str(sample.meta.get("path") or ""))
            for name, track in self.tracks.items():
                suffix, key = FILES[name]
                array = rows_of(sample, track)
                content = npz_bytes(key, array.T if name == "audio" else array)
                files |= publish(output, f"{path}/{sample.key}_{suffix}.npz", content)
            entries.append({"path": path} | caption_lists(sample.segments))
        return files, entries

    def finish(
        self, output: str, entries: Callable[[], Iterator[Entry]], numbers: list[int]
    ) -> Files:
        """The lists and the captions."""
        spoken = [entry["path"] for entry in entries() if entry["text"]]
        silent = [entry["path"] for entry in entries() if not entry["text"]]
        files = Files()
        for name, paths in zip(LISTS, (spoken, silent), strict=True):
            files |= publish(output, name, _csv(paths))

        def captions() -> Iterator[tuple[str, Any]]:
            for entry in entries():
                lists = {name: entry[name] for name in ("start", "end", "text")}
                yield entry["path"].rpartition("/")[2], lists

        for name, write in (("caption.json", write_json), ("caption.pickle", pickles.write_dict)):
            with storage.publishing(storage.join(output, name)) as temporary:
                write(temporary, captions())
                files[name] = temporary.stat().st_size
        return files


def write_json(path: Path, items: Iterable[tuple[str, Any]]) -> None:
    """A JSON object of the (key, value) pairs, one a line."""
    with path.open("w", encoding="utf-8") as file:
        separator = "{\n"
        for key, value in items:
            file.write(f"{separator}{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
            separator = ",\n"
        file.write("\n}\n" if separator != "{\n" else "{}\n")


def _csv(paths: Iterable[str]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["path"])
    writer.writerows([path] for path in paths)
    return buffer.getvalue().encode()


def list_videos(source: str, list_url: str | None) -> list[SourceVideo]:
    """The videos of the list (column `path`); without one, of the source's own lists.

    A leading `None/` is left out, as MCN does. Raises UsageError: no list, no such column.
    """
    there = storage.names(source)
    urls = [list_url] if list_url else [storage.join(source, n) for n in LISTS if n in there]
    if not urls:
        raise UsageError(f"{source}: has no {LISTS[0]}; give the list of videos with --list")
    return [_video(source, path) for url in urls for path in read_column(url, "path")]


def _video(source: str, path: str) -> SourceVideo:
    path = path.replace("None/", "").strip("/")
    if ".." in path.split("/"):
        raise UsageError(f"{source}: path {path!r} leads out of the folder")
    name = path.rpartition("/")[2]
    return SourceVideo(key=key_for(name), uri=storage.join(source, path, name), path=path)


def read_video(
    video: SourceVideo,
    audio_root: str | None,
    tracks: Mapping[str, str],
    timing: Mapping[str, Timing],
    captions: Lookup,
) -> Features:
    """The arrays of one video; its spectrogram from `audio_root` where that is another folder.

    Raises VideoError: a file is missing or damaged, or an array has another shape.
    """
    name = video.path.rpartition("/")[2]
    read: dict[str, Track] = {}
    for feature, track in tracks.items():
        suffix, key = FILES[feature]
        base = video.uri
        if feature == "audio" and audio_root is not None:
            base = storage.join(audio_root, video.path, name)
        url = f"{base}_{suffix}.npz"
        array = read_npz(url, key)
        rows = array.T if feature == "audio" else array
        read[track] = to_track(url, rows, timing[feature])
    return Features(read, captions(name))
