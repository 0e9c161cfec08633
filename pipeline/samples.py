"""The tar of a shard: one WebDataset sample a video, members sorted, byte-reproducible.

Written and read through webdataset, so that any WebDataset reader reads it too. Arrays are .npy
(never pickle), the rest is JSON.
"""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds
from numpy.typing import NDArray
from webdataset.tariterators import group_by_keys, tar_file_expander

from extractors.tracks import Segment, Track, Word
from pipeline import storage
from pipeline.shards import shard_numbers, shard_url


@dataclass(frozen=True)
class VideoSample:
    """One video of a shard: what it says of itself, its tracks, its transcript."""

    key: str
    meta: dict[str, Any]
    """meta.json: uri, content_id, duration, label, split, video, audio, tracks, text_source …"""
    tracks: dict[str, Track] = field(repr=False)
    """By name; a track that the video cannot have (no sound, no picture) is absent."""
    segments: tuple[Segment, ...] = ()
    text: NDArray[np.generic] | None = field(default=None, repr=False)
    """(S, D), row i is the vector of segment i; of word vectors (R, D). None without rows."""
    text_offsets: NDArray[np.generic] | None = None
    """(S + 1,) int64, of word vectors: segment i has the rows `offsets[i]:offsets[i + 1]`."""
    proxy: bytes | None = field(default=None, repr=False)
    """A small mp4 of the video (extractors.proxy), empty for one without a picture; None where
    none was asked for."""
    carried: dict[str, bytes] = field(default_factory=dict, repr=False)
    """Members that are copied as they lie in an earlier shard; none in a sample that was read."""

    @property
    def duration(self) -> float:
        """Seconds."""
        return float(self.meta["duration"])


def encode_sample(sample: VideoSample) -> dict[str, bytes]:
    """The members of one video, by extension. The same sample gives the same bytes.

    A track that the video cannot have is an empty array: every sample of a shard has the same
    members, as some readers want (Hugging Face datasets).
    """
    segments = [
        {"start": s.start, "end": s.end, "text": s.text, "source": s.source}
        | ({"words": [[w.start, w.end, w.text] for w in s.words]} if s.words else {})
        for s in sample.segments
    ]
    members = {
        "meta.json": _json_bytes(sample.meta),
        "transcript.json": _json_bytes(segments),
    }
    for name, facts in sample.meta["tracks"].items():
        track = sample.tracks.get(name)
        empty = np.zeros((0, facts.get("dim", 0)), facts.get("dtype", "float16"))
        members[f"{name}.npy"] = _npy_bytes(empty if track is None else track.rows)
    if sample.text is not None:
        members["text.npy"] = _npy_bytes(sample.text)
    if sample.text_offsets is not None:
        members["text_offsets.npy"] = _npy_bytes(sample.text_offsets)
    if sample.proxy is not None:
        members["proxy.mp4"] = sample.proxy
    return members | sample.carried


def write_tar(path: Path, samples: Iterable[tuple[str, dict[str, bytes]]]) -> None:
    """Writes (key, members) in the order given, members sorted; fixed mtime, owner and mode."""
    with (
        path.open("wb") as file,
        wds.TarWriter(
            file, encoder=False, mtime=0, user="pipeline", group="pipeline", mode=0o644
        ) as tar,
    ):
        for key, members in samples:
            tar.write({"__key__": key} | dict(sorted(members.items())))


def read_shard(dataset: str, number: int, tracks: set[str] | None = None) -> Iterator[VideoSample]:
    """The videos of one shard in order, streamed: one video's arrays in memory at a time.

    `tracks` names the tracks to decode (all by default; 'text' is the segments' vectors,
    'proxy' the video's proxy).
    """

    def wanted(name: str) -> bool:
        member, _, kind = name.partition(".")[2].rpartition(".")
        return tracks is None or kind == "json" or member.removesuffix("_offsets") in tracks

    with storage.open_binary(shard_url(dataset, number, ".tar")) as stream:
        files = tar_file_expander([{"url": "shard", "stream": stream}], select_files=wanted)
        yield from map(decode_sample, group_by_keys(files))


def read_dataset(dataset: str, tracks: set[str] | None = None) -> Iterator[VideoSample]:
    """The videos of all published shards, in the order of the plan."""
    for number in shard_numbers(dataset):
        yield from read_shard(dataset, number, tracks)


def decode_sample(raw: dict[str, Any]) -> VideoSample:
    """From a raw WebDataset sample ({'__key__': …, 'meta.json': bytes, …}).

    Tracks without rows, and those whose member was left out of `raw`, are left out of the result.
    """
    meta = json.loads(raw["meta.json"])
    stored = {
        name: _load_npy(raw[f"{name}.npy"]) for name in meta["tracks"] if f"{name}.npy" in raw
    }
    facts = meta["tracks"]
    tracks = {
        name: Track(rows=rows, start=facts[name]["start"], hop=facts[name]["hop"])
        for name, rows in stored.items()
        if len(rows)
    }
    text = _load_npy(raw["text.npy"]) if "text.npy" in raw else None
    return VideoSample(
        key=raw["__key__"],
        meta=meta,
        tracks=tracks,
        segments=tuple(decode_segments(raw["transcript.json"])),
        text=text if text is not None and len(text) else None,
        text_offsets=_load_npy(raw["text_offsets.npy"]) if "text_offsets.npy" in raw else None,
        proxy=raw.get("proxy.mp4") or None,
    )


def decode_segments(transcript: bytes) -> list[Segment]:
    """The segments of a transcript.json."""
    return [
        Segment(**piece | {"words": tuple(Word(*word) for word in piece.get("words", ()))})
        for piece in json.loads(transcript)
    ]


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True).encode()


def _npy_bytes(array: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _load_npy(content: bytes) -> NDArray[np.generic]:
    array: NDArray[np.generic] = np.load(io.BytesIO(content), allow_pickle=False)
    return array
