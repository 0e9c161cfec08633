"""What is in a shard: the members of each video, what made them, and a page that shows them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow.compute as pc
from webdataset.tariterators import group_by_keys, tar_file_expander

from extractors.errors import AbortError, UsageError
from pipeline import storage
from pipeline.dataset import read_dataset_card
from pipeline.parquet import read_columns
from pipeline.plan import plan_url
from pipeline.samples import VideoSample, decode_sample
from pipeline.shards import read_rows, shard_name, shard_numbers, shard_url


@dataclass(frozen=True)
class Member:
    """One file of a sample."""

    name: str
    """Its extension: `audio.npy`."""
    num_bytes: int
    shape: tuple[int, ...] | None = None
    """Of an array."""
    dtype: str | None = None


@dataclass(frozen=True)
class Inspected:
    """One video as its shard has it."""

    shard: int
    uri: str
    """Where it was when it was extracted."""
    sample: VideoSample = field(repr=False)
    members: tuple[Member, ...]
    provenance: Mapping[str, Mapping[str, Any]] = field(repr=False)
    """For each track, transcript, text and proxy: what made it."""

    def as_json(self) -> dict[str, Any]:
        """For programs: everything but the arrays."""
        return {
            "key": self.sample.key,
            "shard": self.shard,
            "uri": self.uri,
            "members": [vars(member) for member in self.members],
            "meta": self.sample.meta,
            "segments": [vars(segment) for segment in self.sample.segments],
        }


def find_shards(target: str, key: str | None) -> tuple[str, list[int]]:
    """The dataset and the numbers of the shards that `target` means: DATASET/shards/000000.tar,
    or a DATASET, of which `key` chooses the one shard it is planned in.

    Raises UsageError for what is neither, and for a key that is not planned or not made.
    """
    dataset, separator, name = target.rpartition("/shards/")
    if separator:
        number = name.removesuffix(".tar")
        if not number.isdecimal() or int(number) not in shard_numbers(dataset):
            raise UsageError(f"{target}: not a published shard; expected DATASET/shards/000000.tar")
        return dataset, [int(number)]
    if target.endswith((".tar", ".parquet")):
        raise UsageError(f"{target}: not a published shard; expected DATASET/shards/000000.tar")
    read_dataset_card(target)
    numbers = shard_numbers(target)
    return target, numbers if key is None else [_shard_of(target, key, numbers)]


def _shard_of(dataset: str, key: str, published: list[int]) -> int:
    planned = read_columns(plan_url(dataset), ["key", "shard"])
    found = planned.filter(pc.equal(planned.column("key"), key)).column("shard").to_pylist()
    if not found:
        raise UsageError(f"--key {key}: no such video in {dataset}")
    if found[0] not in published:
        raise UsageError(f"--key {key}: its shard {shard_name(found[0])} is not made yet")
    return int(found[0])


def inspect_videos(
    dataset: str, numbers: list[int], *, key: str | None = None, limit: int | None = None
) -> list[Inspected]:
    """The first `limit` videos of some shards, or the one with this key.

    Raises UsageError for a key that is not there, with the reason where its video failed.
    """
    videos = (video for number in numbers for video in _inspect_shard(dataset, number, key))
    found = list(islice(videos, 1 if key is not None else limit))
    if key is not None and not found:
        raise UsageError(f"--key {key}: {_why_missing(dataset, numbers, key)}")
    return found


def _why_missing(dataset: str, numbers: list[int], key: str) -> str:
    for number in numbers:
        for row in read_rows(dataset, number):
            if row["key"] == key:
                return f"it failed: {row['reason']}: {row['error_message']}"
    return f"no such video in shard {', '.join(map(shard_name, numbers))} of {dataset}"


def _inspect_shard(dataset: str, number: int, key: str | None) -> Iterator[Inspected]:
    def wanted(name: str) -> bool:
        return key is None or name.partition(".")[0] == key

    uris = {row["key"]: row["uri"] for row in read_rows(dataset, number)}
    url = shard_url(dataset, number, ".tar")
    with storage.open_binary(url) as stream:
        files = tar_file_expander([{"url": url, "stream": stream}], select_files=wanted)
        for raw in group_by_keys(files):
            try:
                yield _inspect(number, uris.get(raw["__key__"], ""), raw)
            except (KeyError, TypeError, ValueError) as err:
                raise AbortError(
                    f"{url}: {raw['__key__']}: cannot be read ({err!r}); see `pipeline verify`"
                ) from err


def _inspect(number: int, uri: str, raw: dict[str, Any]) -> Inspected:
    sample = decode_sample(raw)
    members = [
        _member(name, content, sample)
        for name, content in sorted(raw.items())
        if not name.startswith("__")
    ]
    made = sample.meta.get("provenance", {})
    return Inspected(number, uri, sample, tuple(members), made)


def _member(name: str, content: bytes, sample: VideoSample) -> Member:
    track = name.removesuffix(".npy")
    if track == name:
        return Member(name, len(content))
    if track == "text":
        array = sample.text
    else:
        array = sample.tracks[track].rows if track in sample.tracks else None
    if array is None:  # empty: what it would be, meta.json says
        facts = sample.meta["tracks"].get(track, {})
        return Member(name, len(content), (0, facts.get("dim", 0)), facts.get("dtype"))
    return Member(name, len(content), tuple(array.shape), str(array.dtype))


def times_of(duration: float, count: int) -> list[float]:
    """The middles of `count` equal parts of a video; fewer where it is short."""
    count = max(1, min(count, int(duration * 4)))
    return [round(float(time), 3) for time in (np.arange(count) + 0.5) * duration / count]
