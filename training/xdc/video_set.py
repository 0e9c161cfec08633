"""The videos of a dataset that XDC trains on, and where their pictures and spectrograms lie.

Members of a shard's tar are read by their offset: any clip of any video is one small read, and the
order of reading is free. Shapes: N videos.
"""

import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extractors.config import LogMelConfig
from extractors.decode_config import DecodeConfig
from extractors.errors import AbortError, UsageError
from pipeline import storage
from pipeline.config import ExtractConfig
from pipeline.dataset import read_dataset_card
from pipeline.scan import map_shards
from pipeline.shards import read_rows, shard_numbers, shard_url
from training.sampling import HELD_OUT_SPLITS, TEST_SPLIT
from training.xdc.config import XdcConfig
from training.xdc.supervision import Modality

Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Member = tuple[int, int]
"""Offset and size, in bytes."""

LEAST = 4
"""Videos to train on."""


@dataclass(frozen=True)
class VideoSet:
    """Columns over the videos, in the order of the shards. No arrays of theirs."""

    dataset: str
    keys: tuple[str, ...]
    shard_N: Numbers
    duration_N: NDArray[np.float64]
    """Seconds."""
    proxy_N2: Numbers
    """Offset and size of the proxy in the shard's tar; size 0 where there is none."""
    mel_N2: Numbers
    """The same of the spectrogram's .npy."""
    seen_N: Flags
    """Which have a picture."""
    heard_N: Flags
    """Which have sound."""
    held_out_N: Flags
    """Which are never trained on."""
    label_N: Numbers
    """The plan's labels as numbers, -1 without one: only to compare with."""
    mel: LogMelConfig
    """The front end of the spectrograms."""
    uris: tuple[str, ...] = ()
    """The videos' own files, where clips are read from those; empty: from proxies."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How the dataset's files were decoded."""

    @property
    def input(self) -> Literal["proxies", "raw"]:
        """What clips of frames are read from."""
        return "raw" if self.uris else "proxies"

    def __len__(self) -> int:
        return len(self.keys)

    def has(self, modality: Modality) -> Flags:
        """(N,) which have it."""
        return self.seen_N if modality == "video" else self.heard_N


@dataclass(frozen=True)
class Readable:
    """What of a dataset clips are read from."""

    mel: LogMelConfig
    """The front end of the spectrograms."""
    decode: DecodeConfig
    """How its files were decoded."""
    raw: bool
    """Whether frames come from the videos' own files, not from proxies."""


def open_video_set(dataset: str, config: XdcConfig, *, test: bool = False) -> VideoSet:
    """Lists the videos of all splits but test and validation (with `test` those of the split
    `test`) and finds their members in the shards.

    Raises UsageError for a dataset without what `xdc.input` asks for or without XDC's log-mel,
    AbortError for one without enough videos or with a tar that does not hold what its parquet
    lists.
    """
    found = check_dataset(dataset, config)
    read = partial(
        shard_columns,
        dataset,
        config.audio_track,
        lambda row: row["split"] == TEST_SPLIT if test else row["split"] not in HELD_OUT_SPLITS,
        raw=found.raw,
    )
    parts = map_shards(dataset, read, shard_numbers(dataset))
    rows = [row for part in parts for row in part]
    if len(rows) < (1 if test else LEAST):
        which = "the split test" if test else "a split other than test and validation"
        raise AbortError(
            f"{dataset}: {len(rows)} videos, extracted and of {which}; XDC needs at least {LEAST} "
            "to train on"
        )
    labels = {label: i for i, label in enumerate(sorted({r["label"] for r in rows} - {None}))}
    videos = VideoSet(
        dataset=dataset,
        keys=tuple(row["key"] for row in rows),
        shard_N=np.array([row["shard"] for row in rows], np.int64),
        duration_N=np.array([row["duration"] for row in rows], np.float64),
        proxy_N2=np.array([row["proxy"] for row in rows], np.int64),
        mel_N2=np.array([row["mel"] for row in rows], np.int64),
        seen_N=np.array([row["seen"] for row in rows], np.bool_),
        heard_N=np.array([row["heard"] for row in rows], np.bool_),
        held_out_N=_hold_out(len(rows), config),
        label_N=np.array([labels.get(row["label"], -1) for row in rows], np.int64),
        mel=found.mel,
        uris=tuple(row["uri"] for row in rows) if found.raw else (),
        decode=found.decode,
    )
    trainable = int((videos.seen_N & videos.heard_N & ~videos.held_out_N).sum())
    if trainable < 2 and not test:
        raise AbortError(
            f"{dataset}: {trainable} videos with both picture and sound to train on; XDC needs two"
        )
    return videos


def check_dataset(dataset: str, config: XdcConfig) -> Readable:
    """What clips can be read from. Raises UsageError, saying what to extract, where the dataset has
    no log-mel of XDC's, or proxies are to be read and it has none or none that are fit."""
    made = ExtractConfig.model_validate(read_dataset_card(dataset).get("config") or {})
    again = "run `pipeline run extract` again with"
    raw = config.input == "raw" or (config.input == "auto" and made.proxy is None)
    if not raw:
        _check_proxies(dataset, made, config, again)
    track = made.wanted.get(config.audio_track)
    if not isinstance(track, LogMelConfig) or track.front_end != "xdc":
        raise UsageError(
            f"xdc.audio_track = {config.audio_track}: {dataset} has no such track of XDC's "
            f"log-mel; {again} --set 'extract.extractors.{config.audio_track}="
            "{kind: log_mel, front_end: xdc}' (what is there is kept)"
        )
    return Readable(track, made.decode, raw)


def _check_proxies(dataset: str, made: ExtractConfig, config: XdcConfig, again: str) -> None:
    if made.proxy is None:
        raise UsageError(
            f"{dataset}: has no proxies, from which xdc.input = proxies reads clips; {again} "
            "--set extract.proxy={} (what is there is kept), or read the videos' own files with "
            "xdc.input=raw"
        )
    for name in ("rate", "short_side"):
        wanted, held = getattr(config.video, name), getattr(made.proxy, name)
        if wanted > held:
            raise UsageError(
                f"xdc.video.{name} = {wanted}: the proxies of {dataset} have {held}; lower it, "
                f"{again} --set extract.proxy.{name}={wanted}, or read the videos' own files with "
                "xdc.input=raw"
            )


def shard_columns(
    dataset: str,
    track: str,
    wanted: Callable[[dict[str, Any]], bool],
    number: int,
    *,
    raw: bool = False,
) -> list[dict[str, Any]]:
    """Of a shard's videos that succeeded and are wanted, by their row: key, uri, duration, label,
    shard, where log-mel and, unless `raw`, proxy lie in the tar, whether there is a picture
    (`seen`) and sound (`heard`).

    Raises AbortError where the tar lacks one of them.
    """
    # without a proxy meta.json says whether there is a picture
    url, pictured = shard_url(dataset, number, ".tar"), ".meta.json" if raw else ".proxy.mp4"
    stored = _members(url, (pictured, f".{track}.npy"))
    found = []
    for row in read_rows(dataset, number):
        if row["status"] != "success" or not wanted(row):
            continue
        try:
            proxy = stored[row["key"] + pictured]
            mel = stored[f"{row['key']}.{track}.npy"]
        except KeyError as err:
            raise AbortError(
                f"{dataset}: shard {number:06d} lists video {row['key']}, its tar has no "
                f"{err.args[0]}; extract the shard again"
            ) from err
        facts = {name: row[name] for name in ("key", "uri", "duration", "label")}
        facts |= {"shard": number, "proxy": proxy, "mel": mel, "seen": proxy[1] > 0}
        found.append(facts | {"heard": row["rows"].get(track, 0) > 0})
    return _with_pictures(url, found) if raw else found


def _with_pictures(url: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a shard, whose `proxy` is where meta.json lies, with `seen` as that says."""
    found = []
    with storage.open_binary(url) as file:
        for row in rows:
            offset, size = row["proxy"]
            file.seek(offset)
            seen = json.loads(file.read(size)).get("picture") is not None
            found.append(row | {"proxy": (0, 0), "seen": seen})
    return found


def _members(url: str, suffixes: tuple[str, ...]) -> dict[str, Member]:
    """Where the members with these endings lie in a tar."""
    try:
        with storage.open_binary(url) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            return {
                member.name: (member.offset_data, member.size)
                for member in tar
                if member.name.endswith(suffixes)
            }
    except tarfile.TarError as err:
        raise AbortError(f"{url}: cannot be read: {err}; extract the shard again") from err


def _hold_out(count: int, config: XdcConfig) -> Flags:
    chosen = round(count * config.sampling.held_out)
    if config.sampling.held_out > 0:
        chosen = max(1, chosen)
    held_out = np.zeros(count, np.bool_)
    held_out[np.random.default_rng((config.seed, 0)).permutation(count)[:chosen]] = True
    return held_out
