"""What the formats share: their names of our tracks, what an export writes, an import reads."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extractors.errors import Reason, UsageError, VideoError
from extractors.tracks import Segment, Track
from pipeline import storage
from pipeline.samples import VideoSample
from pipeline.sources import KEY, SourceVideo, key_of

Format = Literal["howto100m", "mcn-pickle", "video-features", "parquet", "npy"]
Items = Literal["youcook2", "msrvtt"]

MCN_TRACKS = {"2d": "visual_2d", "3d": "visual_3d", "audio": "audio"}
"""MCN's names of its three features, and the tracks they are by default."""
BANDS = 40
"""Mel bands of MCN's sound."""
DURATION_DECIMALS = 3


@dataclass(frozen=True)
class Timing:
    """The time base of a track that has none of its own: row i is at `start + i * hop` seconds."""

    start: float
    hop: float


HOWTO100M_TIMING = {
    "2d": Timing(0.5, 1.0),
    "3d": Timing(1 / 3, 2 / 3),
    "audio": Timing(0.0, 0.01),
}
"""1 frame a second; 16 frames of 24 a second; a spectrogram's frame each 10 ms."""


@dataclass(frozen=True)
class Features:
    """What an import has read of one video."""

    tracks: dict[str, Track] = field(repr=False)
    """By our names; those without rows too."""
    segments: tuple[Segment, ...] = ()
    duration: float | None = None
    """Seconds; None where the format does not say."""
    text: NDArray[np.generic] | None = field(default=None, repr=False)
    """(segments, columns) vectors of the segments, where the format holds them."""


@dataclass(frozen=True)
class FeatureSource:
    """What an import is made from."""

    format: Format
    uri: str
    videos: Sequence[SourceVideo]
    read: Callable[[SourceVideo], Features] = field(repr=False)
    """Raises VideoError: a file is missing, damaged, or not what the format says."""
    timing: Mapping[str, Timing | None]
    """For each of our tracks; None where each video has its own."""
    captions: str | None = None
    """Where transcripts come from, if not out of the features' own files."""


def chosen_tracks(defaults: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """The format's names to our tracks: the defaults with what was given; '' leaves one out.

    Raises UsageError where nothing is left.
    """
    chosen = {name: track for name, track in {**defaults, **given}.items() if track}
    if not chosen:
        raise UsageError("--track: leaves no track; give NAME=TRACK")
    return chosen


def only_known(fmt: str, known: Iterable[str], given: Iterable[str], option: str) -> None:
    """Raises UsageError for a name that a format does not have."""
    names = sorted(known)
    for name in given:
        if name not in names:
            raise UsageError(f"{option} {name}=…: {fmt} has {', '.join(names)}")


def check_track(
    tracks: Mapping[str, Mapping[str, Any]],
    name: str,
    wanted_by: str,
    *,
    dim: int | None = None,
    timing: Timing | None = None,
) -> None:
    """Raises UsageError where a dataset lacks a track or it is of another shape than is needed.

    `tracks` is what dataset.json says of them.
    """
    facts = tracks.get(name)
    if facts is None:
        there = ", ".join(sorted(tracks)) or "none"
        raise UsageError(
            f"{wanted_by}: the dataset has no track {name!r}, it has: {there}; "
            "choose with --track NAME=TRACK, leave it out with --track NAME="
        )
    if dim is not None and facts["dim"] != dim:
        raise UsageError(
            f"{wanted_by}: track {name!r} has {facts['dim']} columns, {dim} are needed"
        )
    if timing is not None and not _same_timing(facts, timing):
        raise UsageError(
            f"{wanted_by}: track {name!r} has a row each {facts['hop']} s from {facts['start']} s "
            f"on, needed is one each {timing.hop:.6g} s from {timing.start:.6g} s on"
        )


def _same_timing(facts: Mapping[str, Any], timing: Timing) -> bool:
    if facts["hop"] is None or facts["start"] is None:
        return False
    return bool(
        np.isclose(facts["hop"], timing.hop, rtol=1e-3, atol=0)  # an hour's rows stay within 4 s
        and abs(facts["start"] - timing.start) <= timing.hop / 2
    )


def key_for(name: str) -> str:
    """A key from a foreign id: the id itself where it can be one (YouTube's can)."""
    return name if KEY.fullmatch(name) else key_of(f"{name}.id")


def to_track(where: str, rows: NDArray[Any], timing: Timing) -> Track:
    """A track of float16 rows. Raises VideoError for other than finite (T, D) numbers."""
    if rows.ndim != 2 or rows.dtype.kind not in "fiu":
        raise broken(f"{where}: a (rows, columns) array of numbers is wanted, got {rows.dtype} "
                     f"{rows.shape}")  # fmt: skip
    with np.errstate(over="ignore"):  # too large for float16: not finite below
        half = rows.astype(np.float16)
    if not np.isfinite(half).all():
        raise broken(f"{where}: holds numbers that are not finite as float16")
    return Track(half, start=timing.start, hop=timing.hop)


def broken(message: str) -> VideoError:
    """A video whose features cannot be used."""
    return VideoError(Reason.UNREADABLE, "import", message)


def end_of(tracks: Iterable[Track]) -> float:
    """How long a video lasts, as well as its tracks tell: the end of the one with the shortest hop.

    A row owns half a hop on either side of its centre, but none before 0 seconds; row 0 at 0
    seconds (a centred spectrogram) has a last row that is the end.
    """
    filled = [track for track in tracks if len(track.rows)]
    if not filled:
        return 0.0
    finest = min(filled, key=lambda track: track.hop)
    last = finest.start + (len(finest.rows) - 1) * finest.hop
    return round(last + min(finest.start, finest.hop / 2), DURATION_DECIMALS)


def source_path(key: str, path: str) -> str:
    """The path under which a video is filed: its source's where that ends in its key."""
    stem = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", path)
    safe = not stem.startswith("/") and ".." not in stem.split("/")
    return stem if safe and stem.rpartition("/")[2] == key else key


def rows_of(sample: VideoSample, track: str) -> Any:
    """(T, D) float16; no rows where the video has no such track."""
    if track in sample.tracks:
        return sample.tracks[track].rows.astype(np.float16)
    return np.zeros((0, sample.meta["tracks"].get(track, {}).get("dim", 0)), np.float16)


def publish(output: str, name: str, content: bytes) -> dict[str, int]:
    """Publishes one file of an export; gives its name and size in bytes."""
    storage.publish_bytes(storage.join(output, name), content)
    return {name: len(content)}


def read_column(url: str, column: str) -> Iterator[str]:
    """A column of a csv, streamed. Raises UsageError: no such file or column, not UTF-8."""
    try:
        with storage.open_binary(url) as binary:
            text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
            rows = csv.DictReader(text)
            if column not in (rows.fieldnames or ()):
                there = ", ".join(rows.fieldnames or ()) or "none"
                raise UsageError(f"{url}: needs a column {column!r}, has: {there}")
            yield from (row[column] for row in rows if row[column])
    except FileNotFoundError as err:
        raise UsageError(f"{url}: no such file") from err
    except (UnicodeDecodeError, csv.Error) as err:
        raise UsageError(f"{url}: not a csv: {err}") from err
