"""The modules of the formats, by name."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

from extractors.errors import UsageError
from pipeline.formats import captions as caption_files
from pipeline.formats import howto100m, mcn_pickle, npy, tables, video_features
from pipeline.formats.exporting import Exporter
from pipeline.formats.layout import (
    HOWTO100M_TIMING,
    MCN_TRACKS,
    FeatureSource,
    Format,
    Items,
    Timing,
    chosen_tracks,
    only_known,
)
from pipeline.sources import SourceVideo

OWN_TRACKS = {"visual_2d": "2d", "visual_3d": "3d", "audio": "audio"}
"""The usual names of our tracks, and MCN's of them: their usual times."""


@dataclass(frozen=True)
class Reading:
    """How foreign files are to be read."""

    tracks: Mapping[str, str] = field(default_factory=dict)
    """The format's names to our tracks, over its defaults; '' leaves one out."""
    hops: Mapping[str, float] = field(default_factory=dict)
    """Seconds from row to row by the format's names."""
    list_url: str | None = None
    captions: str | None = None
    audio_root: str | None = None
    trust_pickle: bool = False
    keep_text: bool = False


def check_format(name: str) -> Format:
    """Raises UsageError that lists the formats."""
    for known in get_args(Format):
        if name == known:
            found: Format = known
            return found
    raise UsageError(f"--format {name}: allowed are {', '.join(get_args(Format))}")


def check_items(name: str) -> Items:
    """Raises UsageError that lists the kinds of items."""
    for known in get_args(Items):
        if name == known:
            found: Items = known
            return found
    raise UsageError(f"--items {name}: allowed are {', '.join(get_args(Items))}")


def make_exporter(
    fmt: Format, dataset_tracks: Mapping[str, Any], given: Mapping[str, str], items: Items
) -> Exporter:
    """What writes a format, for a dataset of these tracks. Raises UsageError for a wrong name."""
    own = {name: name for name in dataset_tracks}
    match fmt:
        case "howto100m" | "mcn-pickle":
            only_known(fmt, MCN_TRACKS, given, "--track")
            tracks = chosen_tracks(MCN_TRACKS, given)
            if fmt == "howto100m":
                return howto100m.HowTo100MExport(tracks)
            return mcn_pickle.McnPickleExport(tracks, items)
        case "video-features":
            usual = {track: name for name, track in video_features.TRACKS.items()}
            defaults = {usual.get(track, track): track for track in own}
            return video_features.VideoFeaturesExport(_renamed(defaults, given))
        case "parquet":
            return tables.ParquetExport(_renamed(own, given))
        case "npy":
            return npy.NpyExport(_renamed(own, given))


def _renamed(defaults: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """A track that is given a name goes by it alone."""
    names = {name: track for name, track in defaults.items() if track not in given.values()}
    for name in given:
        if "/" in name or name.startswith("."):
            raise UsageError(f"--track {name}=…: the name becomes part of a file's name")
    return chosen_tracks(names, given)


@contextmanager
def open_source(fmt: Format, source: str, reading: Reading) -> Iterator[FeatureSource]:
    """What an import of a format reads, ready. Raises UsageError where it cannot be."""
    match fmt:
        case "howto100m":
            opened = _howto100m(source, reading)
        case "mcn-pickle":
            opened = _mcn_pickle(source, reading)
        case "video-features":
            opened = _video_features(source, reading)
        case "parquet":
            opened = _parquet(source, reading)
        case "npy":
            opened = _npy(source, reading)
    with opened as found:
        yield found


@contextmanager
def _howto100m(source: str, reading: Reading) -> Iterator[FeatureSource]:
    only_known("howto100m", MCN_TRACKS, [*reading.tracks, *reading.hops], "--track or --hop")
    tracks = chosen_tracks(MCN_TRACKS, reading.tracks)
    timing = {name: _timing(name, reading.hops) for name in tracks}
    videos = howto100m.list_videos(source, reading.list_url)
    url = reading.captions or caption_files.find_caption_file(source)
    ids = {video.path.rpartition("/")[2] for video in videos}
    trust = reading.trust_pickle
    with caption_files.open_captions(url, ids, trust_pickle=trust) as captions:

        def read(video: SourceVideo) -> Any:
            return howto100m.read_video(video, reading.audio_root, tracks, timing, captions)

        ours = {track: timing[name] for name, track in tracks.items()}
        yield FeatureSource("howto100m", source, videos, read, ours, url)


@contextmanager
def _mcn_pickle(source: str, reading: Reading) -> Iterator[FeatureSource]:
    only_known("mcn-pickle", MCN_TRACKS, [*reading.tracks, *reading.hops], "--track or --hop")
    tracks = chosen_tracks(MCN_TRACKS, reading.tracks)
    timing = {name: _timing(name, reading.hops) for name in tracks}
    items = mcn_pickle.read_items(source, trust_pickle=reading.trust_pickle)

    def read(video: SourceVideo) -> Any:
        return mcn_pickle.read_item(video.uri, items[video.key], tracks, timing)

    videos = mcn_pickle.list_videos(source, items)
    # pooled rows last as long as their item: the times are each video's own
    ours: dict[str, Timing | None] = dict.fromkeys(tracks.values())
    if "audio" in tracks:
        ours[tracks["audio"]] = timing["audio"]
    yield FeatureSource("mcn-pickle", source, videos, read, ours)


@contextmanager
def _video_features(source: str, reading: Reading) -> Iterator[FeatureSource]:
    tracks = chosen_tracks({} if reading.tracks else video_features.TRACKS, reading.tracks)
    only_known("video-features", tracks, reading.hops, "--hop")
    paths = video_features.find_files(source, tracks)
    video_features.check_timing(paths, tracks, reading.hops)
    trust = reading.trust_pickle
    with caption_files.open_captions(reading.captions, paths, trust_pickle=trust) as captions:

        def read(video: SourceVideo) -> Any:
            files = paths[video.path]
            return video_features.read_video(video.path, files, tracks, reading.hops, captions)

        videos = video_features.list_videos(source, paths)
        ours: dict[str, Timing | None] = dict.fromkeys(tracks.values())
        yield FeatureSource("video-features", source, videos, read, ours, reading.captions)


@contextmanager
def _parquet(source: str, reading: Reading) -> Iterator[FeatureSource]:
    tracks = _own_tracks(reading)
    videos, places = tables.list_videos(source)
    if places:
        tables.check_columns(places, tracks)
    given = {name: _own_timing(name, tracks[name], reading.hops) for name in tracks}

    def read(video: SourceVideo) -> Any:
        return tables.read_video(places[video.key], tracks, given, text=reading.keep_text)

    ours: dict[str, Timing | None] = dict.fromkeys(tracks.values())
    yield FeatureSource("parquet", source, videos, read, ours)


@contextmanager
def _npy(source: str, reading: Reading) -> Iterator[FeatureSource]:
    tracks = _own_tracks(reading)
    videos, rows = npy.list_videos(source, reading.list_url, tracks)
    given = {name: _own_timing(name, tracks[name], reading.hops) for name in tracks}
    ids = {str(row["key"]) for row in rows.values()}
    trust = reading.trust_pickle
    with caption_files.open_captions(reading.captions, ids, trust_pickle=trust) as captions:

        def read(video: SourceVideo) -> Any:
            row = rows[video.key]
            return npy.read_video(source, row, tracks, given, captions, text=reading.keep_text)

        ours: dict[str, Timing | None] = dict.fromkeys(tracks.values())
        yield FeatureSource("npy", source, videos, read, ours, reading.captions)


def _own_tracks(reading: Reading) -> dict[str, str]:
    """Our three usual tracks, or exactly those that were given."""
    defaults = {name: name for name in OWN_TRACKS}
    only_left_out = all(not track for track in reading.tracks.values())
    tracks = chosen_tracks(defaults if only_left_out else {}, reading.tracks)
    only_known("the import", tracks, reading.hops, "--hop")
    return tracks


def _own_timing(name: str, track: str, hops: Mapping[str, float]) -> Timing | None:
    """The usual times of our tracks, or a hop that was given."""
    if name in hops:
        return _timing(name, hops)
    usual = OWN_TRACKS.get(track)
    return HOWTO100M_TIMING[usual] if usual else None


def _timing(name: str, hops: Mapping[str, float]) -> Timing:
    """The usual times of a feature; with a hop given, sound from 0 on, the rest centred in it."""
    if name not in hops:
        return HOWTO100M_TIMING[name]
    hop = hops[name]
    return Timing(0.0 if name == "audio" else hop / 2, hop)
