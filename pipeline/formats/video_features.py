"""The layout of v-iashin/video_features: a .npy a video and feature.

ROOT/FEATURE/ID_FEATURE.npy        (rows, columns)
ROOT/FEATURE/ID_timestamps_ms.npy  (rows,): the time of each row, in milliseconds
ROOT/FEATURE/ID_fps.npy            a number: rows a second

Read: these at any depth, as that program puts them (resnet/resnet152/ID_resnet.npy); where a
feature has no timestamps, its hop is `--hop FEATURE=SECONDS`, else 1 / fps.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import Reason, UsageError, VideoError
from extractors.tracks import Track
from pipeline import storage
from pipeline.formats.arrays import npy_bytes, read_npy
from pipeline.formats.captions import Lookup
from pipeline.formats.exporting import Entry, Files
from pipeline.formats.layout import (
    Features,
    Timing,
    broken,
    check_track,
    key_for,
    publish,
    rows_of,
    to_track,
)
from pipeline.samples import VideoSample
from pipeline.sources import SourceVideo

TRACKS = {"resnet": "visual_2d", "r21d": "visual_3d"}
"""The features that are tracks of ours by default; others go by the track's own name."""
EXTRAS = ("timestamps_ms", "fps")

Paths = dict[str, dict[str, str]]
"""Video's id to the URL of each of its files, by `FEATURE`, and `FEATURE/timestamps_ms`."""


@dataclass(frozen=True)
class VideoFeaturesExport:
    """See `pipeline.formats.exporting.Exporter`."""

    tracks: Mapping[str, str]
    """Feature to track."""
    with_text = False
    one_file = False

    def check(self, tracks: dict[str, Any]) -> None:
        """Any shape will do."""
        for name, track in self.tracks.items():
            check_track(tracks, track, f"video-features {name}")

    def write_shard(
        self, output: str, number: int, samples: Iterable[VideoSample]
    ) -> tuple[Files, list[Entry]]:
        """Three files a feature and video."""
        files = Files()
        for sample in samples:
            for feature, track in self.tracks.items():
                rows, facts = rows_of(sample, track), sample.meta["tracks"][track]
                times = (facts["start"] + np.arange(len(rows)) * facts["hop"]) * 1000
                fps = np.array(1 / facts["hop"])
                arrays = {feature: rows, "timestamps_ms": times, "fps": fps}
                for suffix, array in arrays.items():
                    name = f"{feature}/{sample.key}_{suffix}.npy"
                    files |= publish(output, name, npy_bytes(array))
        return files, []

    def finish(
        self, output: str, entries: Callable[[], Iterator[Entry]], numbers: list[int]
    ) -> Files:
        """Nothing: there is no list."""
        return {}


def find_files(source: str, features: Iterable[str]) -> Paths:
    """The files of a folder by video, in the order of their ids; one listing.

    Raises UsageError: no such features, or one of a video that is there twice.
    """
    wanted = list(features)
    filesystem, root = storage.locate(source)
    found: Paths = {}
    folders: dict[str, dict[str, str]] = {feature: {} for feature in wanted}
    listing = [path for path in sorted(filesystem.find(root)) if path.endswith(".npy")]
    for path in listing:
        folder, _, name = path.rpartition("/")
        for feature in wanted:
            stem = name.removesuffix(f"_{feature}.npy")
            if stem == name:
                continue
            if (first := folders[feature].setdefault(stem, folder)) != folder:
                raise UsageError(f"{source}: {name} is there twice: in {first} and {folder}")
            found.setdefault(stem, {})[feature] = _url(filesystem, path)
    if not found:
        raise UsageError(f"{source}: holds no *_{'.npy, *_'.join(wanted)}.npy; choose the features "
                         "with --track FEATURE=TRACK")  # fmt: skip
    _add_extras(found, folders, set(listing), filesystem)
    return dict(sorted(found.items()))


def _add_extras(
    found: Paths, folders: Mapping[str, Mapping[str, str]], listed: set[str], filesystem: Any
) -> None:
    """The timestamps and fps beside each feature."""
    for feature, places in folders.items():
        for stem, folder in places.items():
            for extra in EXTRAS:
                path = f"{folder}/{stem}_{extra}.npy"
                if path in listed:
                    url = _url(filesystem, path)
                    found[stem][f"{feature}/{extra}"] = url


def _url(filesystem: Any, path: str) -> str:
    """A local path as it is, a remote one with its protocol."""
    return str(filesystem.unstrip_protocol(path)).removeprefix("file://")


def list_videos(source: str, paths: Paths) -> list[SourceVideo]:
    """One video an id."""
    return [SourceVideo(key_for(name), storage.join(source, name), name) for name in paths]


def check_timing(paths: Paths, tracks: Mapping[str, str], hops: Mapping[str, float]) -> None:
    """Raises UsageError where a feature's rows have no time and no hop was given."""
    for feature in tracks:
        files = next((files for files in paths.values() if feature in files), None)
        if files is None:
            raise UsageError(f"no video has a feature {feature!r}; leave it out with "
                             f"--track {feature}=")  # fmt: skip
        if feature not in hops and not any(f"{feature}/{extra}" in files for extra in EXTRAS):
            raise UsageError(
                f"{files[feature]}: has neither timestamps_ms nor fps beside it; give the "
                f"seconds from row to row with --hop {feature}=SECONDS"
            )


def read_video(
    name: str,
    files: Mapping[str, str],
    tracks: Mapping[str, str],
    hops: Mapping[str, float],
    captions: Lookup,
) -> Features:
    """The features of one video. Raises VideoError: one is missing or damaged, or its rows are not
    evenly spaced."""
    read: dict[str, Track] = {}
    for feature, track in tracks.items():
        if feature not in files:
            message = f"{name}: has no {name}_{feature}.npy"
            raise VideoError(Reason.NOT_FOUND, "import", message)
        rows = read_npy(files[feature])
        timing = _timing(feature, files, len(rows) if rows.ndim else 0, hops.get(feature))
        read[track] = to_track(files[feature], rows, timing)
    return Features(read, captions(name))


def _timing(feature: str, files: Mapping[str, str], count: int, hop: float | None) -> Timing:
    """Of the rows: from their timestamps, else from a hop, rows centred in it."""
    fps = files.get(f"{feature}/fps")
    if hop is None and fps is not None:
        rate = read_npy(fps)
        if rate.size != 1 or not np.isfinite(rate).all() or rate.item() <= 0:
            raise broken(f"{fps}: a number of rows a second is wanted, got {rate!r}")
        hop = 1 / float(rate.item())
    stamps = files.get(f"{feature}/timestamps_ms")
    if stamps is not None:
        return _even(stamps, read_npy(stamps), count, hop)
    if hop is None:
        message = f"{files[feature]}: no timestamps_ms or fps beside it, and no --hop {feature}=…"
        raise VideoError(Reason.NOT_FOUND, "import", message)
    return Timing(hop / 2, hop)


def _even(url: str, stamps: NDArray[Any], count: int, hop: float | None) -> Timing:
    """The line through evenly spaced timestamps. One that is off by half a hop is refused."""
    if stamps.shape != (count,) or stamps.dtype.kind not in "fiu" or not np.isfinite(stamps).all():
        raise broken(f"{url}: {count} times are wanted, got {stamps.dtype} {stamps.shape}")
    if count < 2:
        hop = hop or 1.0
        return Timing(float(stamps[0]) / 1000 if count else hop / 2, hop)
    seconds = stamps.astype(np.float64) / 1000
    even = (seconds[-1] - seconds[0]) / (count - 1)
    line = seconds[0] + np.arange(count) * even
    if even <= 0 or np.abs(seconds - line).max() > even / 2:
        raise broken(f"{url}: the rows are not evenly spaced in time, which a track's must be")
    return Timing(round(float(seconds[0]), 9), round(float(even), 9))
