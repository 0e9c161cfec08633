"""The pickles of MCN's and EAO's evaluation sets: a list of dicts.

youcook2   an item a segment of transcript: `id` (KEY_0000), `caption`; `2d`, `3d` (columns,) by
           their maximum over the clip; `2d_full`, `3d_full` (rows, columns); `audio` tensor
           (40, frames); `start`, `end` in seconds of the video
msrvtt     an item a video: `id`, `2d`, `3d` (rows, columns), `2d_pooled`, `3d_pooled`, `audio`,
           `caption` (all of them), `eval_caption` (the first), `duration` in seconds

Numbers are float32, as the readers feed them to torch. Read: these, and the variants of LSMDC,
UCF101 and HMDB51 (`class`, `video`, `training`, `has_audio`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.errors import Reason, UsageError, VideoError
from extractors.tracks import Segment, Track
from pipeline import storage
from pipeline.formats import pickles
from pipeline.formats.exporting import Entry, Files, part_url
from pipeline.formats.layout import (
    BANDS,
    HOWTO100M_TIMING,
    Features,
    Items,
    Timing,
    broken,
    check_track,
    end_of,
    key_for,
    rows_of,
    to_track,
)
from pipeline.restricted_pickle import read_pickle
from pipeline.samples import VideoSample
from pipeline.sources import SourceVideo

BLOCK = 2**20
SPLITS = {1: "train", 0: "test", 2: "other"}
UNKNOWN_SECONDS = 1.0
"""The length of an item that has neither sound nor rows over time."""

Item = Mapping[str, Any]


@dataclass(frozen=True)
class McnPickleExport:
    """See `pipeline.formats.exporting.Exporter`."""

    tracks: Mapping[str, str]
    items: Items
    with_text = False
    one_file = True

    def check(self, tracks: dict[str, Any]) -> None:
        """MCN's sound network takes 40 bands of 100 frames a second."""
        for name, track in self.tracks.items():
            if name == "audio":
                timing = HOWTO100M_TIMING[name]
                check_track(tracks, track, "mcn-pickle audio", dim=BANDS, timing=timing)
            else:
                check_track(tracks, track, f"mcn-pickle {name}")

    def write_shard(
        self, output: str, number: int, samples: Iterable[VideoSample]
    ) -> tuple[Files, list[Entry]]:
        """A part of the list, put together by `finish`."""
        url, items = part_url(output, number), 0
        with storage.publishing(url) as temporary:
            with temporary.open("wb") as file:
                for sample in samples:
                    for item in self._items(sample):
                        file.write(pickles.list_item(item))
                        items += 1
            size = temporary.stat().st_size
        return {f".export/{url.rpartition('/')[2]}": size}, [{"items": items}]

    def finish(
        self, output: str, entries: Callable[[], Iterator[Entry]], numbers: list[int]
    ) -> Files:
        """OUTPUT/youcook2.pickle or msrvtt.pickle, of the parts, which go."""
        name = f"{self.items}.pickle"
        with storage.publishing(storage.join(output, name)) as temporary:
            pickles.write_list(temporary, _parts(output, numbers))
            size = temporary.stat().st_size
        return {name: size}

    def _items(self, sample: VideoSample) -> Iterator[dict[str, Any]]:
        if self.items == "msrvtt":
            yield self._video_item(sample)
            return
        for number, segment in enumerate(sample.segments):
            if segment.end > segment.start:
                yield self._clip_item(sample, number, segment)

    def _clip_item(self, sample: VideoSample, number: int, segment: Segment) -> dict[str, Any]:
        item: dict[str, Any] = {"id": f"{sample.key}_{number:04d}", "caption": segment.text}
        item |= {"start": segment.start, "end": segment.end}
        for name, track in self.tracks.items():
            rows = rows_of(sample, track)
            if track in sample.tracks:
                rows = sample.tracks[track].between(segment.start, segment.end)
            if name == "audio":
                item[name] = _tensor(rows)
            else:
                item |= {name: _pooled(rows), f"{name}_full": rows.astype(np.float32)}
        return item

    def _video_item(self, sample: VideoSample) -> dict[str, Any]:
        captions = [segment.text for segment in sample.segments]
        item: dict[str, Any] = {"id": sample.key, "duration": sample.duration}
        item |= {"caption": captions, "eval_caption": captions[0] if captions else ""}
        for name, track in self.tracks.items():
            rows = rows_of(sample, track)
            if name == "audio":
                item[name] = _tensor(rows)
            else:
                item |= {name: rows.astype(np.float32), f"{name}_pooled": _pooled(rows)}
        return item


def _pooled(rows: NDArray[Any]) -> NDArray[np.float32]:
    """The maximum over time; zeros where there are no rows."""
    pooled = rows.max(axis=0) if len(rows) else np.zeros(rows.shape[1])
    return pooled.astype(np.float32)


def _tensor(rows: NDArray[Any]) -> torch.Tensor:
    """(40, frames), which the readers index as a tensor."""
    return torch.from_numpy(np.ascontiguousarray(rows.T.astype(np.float32)))


def _parts(output: str, numbers: Iterable[int]) -> Iterator[bytes]:
    for number in numbers:
        with storage.open_binary(part_url(output, number)) as file:
            yield from _blocks(file)


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def read_items(url: str, *, trust_pickle: bool) -> dict[str, Item]:
    """The items by key, in order; an id that comes again gets a number behind it.

    Raises UsageError without `trust_pickle`, and for anything but a list of dicts with ids.
    """
    content = read_pickle(url, trust_pickle)
    if not isinstance(content, list) or not content:
        raise UsageError(f"{url}: a list of dicts is wanted, got {type(content).__name__}")
    items: dict[str, Item] = {}
    for number, item in enumerate(content):
        if not isinstance(item, dict):
            raise UsageError(f"{url}: item {number} is a {type(item).__name__}, not a dict")
        name = item.get("id", item.get("video"))
        if not isinstance(name, str) or not name:
            raise UsageError(f"{url}: item {number} needs a text `id` or `video`")
        items[_free(items, key_for(name))] = item
    return items


def _free(items: Mapping[str, Item], key: str) -> str:
    """The key, or the first of key-2, key-3 … that is free."""
    if key not in items:
        return key
    return next(name for n in count(2) if (name := f"{key}-{n}") not in items)


def list_videos(url: str, items: Mapping[str, Item]) -> list[SourceVideo]:
    """One video an item; `class` is its label, `training` its split."""
    return [
        SourceVideo(
            key=key,
            uri=f"{url}#{key}",
            path=str(item.get("id", item.get("video"))),
            label=str(item["class"]) if "class" in item else None,
            split=SPLITS.get(int(item["training"])) if "training" in item else None,
        )
        for key, item in items.items()
    ]


def read_item(
    where: str, item: Item, tracks: Mapping[str, str], timing: Mapping[str, Timing]
) -> Features:
    """The tracks of one item: over time where it holds that, else one row over all of it.

    Raises VideoError: a feature is missing or of another shape.
    """
    read, pooled = {}, {}
    for name, track in tracks.items():
        rows = _rows(where, item, name)
        if rows.ndim == 1:
            pooled[track] = rows
        else:
            rows = rows.T if name == "audio" else rows
            read[track] = to_track(f"{where} {name}", rows, timing[name])
    seconds = _seconds(item) or end_of(read.values()) or UNKNOWN_SECONDS
    for track, row in pooled.items():
        whole = Timing(seconds / 2, seconds)
        read[track] = to_track(f"{where} {track}", row[None], whole)
    ordered: dict[str, Track] = {track: read[track] for track in tracks.values()}
    return Features(ordered, _segments(where, item, seconds), round(seconds, 3))


def _seconds(item: Item) -> float | None:
    """How long an item of ours lasts."""
    if "duration" in item:
        return float(item["duration"])
    return float(item["end"]) - float(item["start"]) if {"start", "end"} <= item.keys() else None


def _rows(where: str, item: Item, name: str) -> NDArray[Any]:
    value = item.get(f"{name}_full", item.get(name, item.get(f"{name}_pooled")))
    if value is None:
        message = f"{where}: has no {name!r}; leave it out with --track {name}="
        raise VideoError(Reason.NOT_FOUND, "import", message)
    array: NDArray[Any] = value.numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.ndim not in ((2,) if name == "audio" else (1, 2)):
        raise broken(f"{where}: {name!r} is (rows, columns) or pooled, got {array.shape}")
    if name == "audio" and not item.get("has_audio", True):
        return array[:, :0]
    return array


def _segments(where: str, item: Item, seconds: float) -> tuple[Segment, ...]:
    """Each caption is said of the whole item."""
    captions = item.get("caption", [])
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
        message = f"{where}: `caption` is a text or a list of texts"
        raise VideoError(Reason.BAD_CAPTIONS, "captions", message)
    return tuple(Segment(0.0, seconds, caption, "captions") for caption in captions if caption)
