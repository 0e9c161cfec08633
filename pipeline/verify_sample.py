"""Whether the members of one sample are what its meta.json and its row of the parquet say."""

import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import VideoError
from extractors.proxy_reader import ProxyReader
from extractors.tracks import Segment
from pipeline.samples import decode_segments

CONTENT_ID = re.compile(r"[0-9a-f]{64}")
FRAME_SLACK = 2
"""Frames that a proxy may have less than rate x duration: the last is cut at either end."""


def sample_problems(members: Mapping[str, bytes], row: Mapping[str, Any]) -> Iterator[str]:
    """One line a problem. `members` by extension; `row` of the parquet, `rows` as a dict."""
    try:
        meta = json.loads(members["meta.json"])
        segments = decode_segments(members["transcript.json"])
        tracks = dict(meta["tracks"])
        duration = float(meta["duration"])
    except (KeyError, TypeError, ValueError) as err:
        yield f"meta.json or transcript.json is not as it should be: {err!r}"
        return
    yield from _meta_problems(meta, row, duration)
    yield from _member_problems(members, tracks)
    for name, facts in tracks.items():
        if f"{name}.npy" in members:
            wanted = (row["rows"] or {}).get(name, 0)
            yield from _track_problems(name, members[f"{name}.npy"], facts, wanted)
    yield from _speech_problems(members, segments, row, duration)
    if "proxy.mp4" in members:
        yield from _proxy_problems(members["proxy.mp4"], meta.get("proxy"), duration)


def _meta_problems(
    meta: Mapping[str, Any], row: Mapping[str, Any], duration: float
) -> Iterator[str]:
    if not CONTENT_ID.fullmatch(str(meta.get("content_id"))):
        yield f"content_id {meta.get('content_id')!r} is no sha256 of a file"
    for name in ("content_id", "label", "split"):
        if meta.get(name) != row[name]:
            yield f"meta.json says {name} {meta.get(name)!r}, the parquet {row[name]!r}"
    if not (math.isfinite(duration) and duration >= 0):
        yield f"duration {duration} is no length"
    elif row["duration"] is None or abs(duration - row["duration"]) > 1e-6:
        yield f"meta.json says duration {duration}, the parquet {row['duration']}"


def _member_problems(members: Mapping[str, bytes], tracks: Mapping[str, Any]) -> Iterator[str]:
    expected = {"meta.json", "transcript.json", *(f"{name}.npy" for name in tracks)}
    for name in sorted(expected - set(members)):
        yield f"no member {name}"
    for name in sorted(set(members) - expected - {"text.npy", "proxy.mp4"}):
        yield f"member {name}, of which meta.json knows nothing"


def _track_problems(
    name: str, content: bytes, facts: Mapping[str, Any], wanted_rows: int
) -> Iterator[str]:
    try:
        array = _load(content)
        shape, dtype = (int(facts["rows"]), int(facts["dim"])), str(facts["dtype"])
        hop = float(facts["hop"])
    except (ValueError, EOFError, KeyError, TypeError) as err:
        yield f"{name}.npy or its facts cannot be read: {err}"
        return
    if array.shape != shape:
        yield f"{name}.npy is {array.shape}, meta.json says {shape}"
    if array.dtype != dtype:
        yield f"{name}.npy is {array.dtype}, meta.json says {dtype}"
    if len(array) != wanted_rows:
        yield f"{name}.npy has {len(array)} rows, the parquet says {wanted_rows}"
    if not hop > 0:
        yield f"{name}: a hop of {hop} s"
    if bool(len(array)) == bool(facts.get("absent")):
        yield f"{name}.npy has {len(array)} rows, absent is {facts.get('absent')!r}"
    yield from _number_problems(name, array)


def _number_problems(name: str, array: NDArray[np.generic]) -> Iterator[str]:
    if not np.issubdtype(array.dtype, np.number):
        yield f"{name}.npy holds no numbers but {array.dtype}"
    elif not np.isfinite(array).all():
        bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
        yield f"{name}.npy: {len(bad)} rows that are not finite, the first is row {bad[0]}"


def _speech_problems(
    members: Mapping[str, bytes], segments: list[Segment], row: Mapping[str, Any], duration: float
) -> Iterator[str]:
    if len(segments) != row["num_segments"]:
        yield f"{len(segments)} segments in transcript.json, the parquet says {row['num_segments']}"
    for number, segment in enumerate(segments):
        if not (0 <= segment.start <= segment.end and math.isfinite(segment.end)):
            yield f"segment {number} lasts from {segment.start} to {segment.end} s"
            break
    if "text.npy" not in members:
        return
    try:
        vectors = _load(members["text.npy"])
    except (ValueError, EOFError) as err:
        yield f"text.npy cannot be read: {err}"
        return
    if len(vectors) != len(segments):
        yield f"text.npy has {len(vectors)} rows for {len(segments)} segments"
    yield from _number_problems("text", vectors)


def _proxy_problems(
    content: bytes, facts: Mapping[str, Any] | None, duration: float
) -> Iterator[str]:
    if facts is None:
        yield "a proxy.mp4, of which meta.json knows nothing"
        return
    rate = float(facts.get("rate", 0))
    if not content:
        if not facts.get("absent"):
            yield "proxy.mp4 is empty, and meta.json does not say why"
        return
    try:
        reader = ProxyReader(content)
        reader.read([(reader.num_frames - 1) / reader.rate])
    except VideoError as err:
        yield f"proxy.mp4 {err.message}"
        return
    if abs(reader.rate - rate) > 1e-3 * rate:
        yield f"proxy.mp4 has {reader.rate:g} frames/s, meta.json says {rate:g}"
    elif reader.num_frames > duration * rate + FRAME_SLACK:
        yield f"proxy.mp4 has {reader.num_frames} frames for {duration:g} s at {rate:g}/s"


def _load(content: bytes) -> NDArray[np.generic]:
    array: NDArray[np.generic] = np.load(io.BytesIO(content), allow_pickle=False)
    return array
