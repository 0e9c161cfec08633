"""Ranges of a plan's shards, which several runs extract at once, each under a lease of its own.

A run of a range reads the plan and writes its shards, nothing else: plan, card and manifest are a
whole run's. Its lease is `<dataset>/ranges/000000-000010/run.json`, so that runs of other ranges
go on beside it, while a whole run waits for all of them and they for it. As with any lease, two
that start within the same moment may overlook each other; then both make the same shards.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from extractors.errors import AbortError, UsageError
from pipeline import storage
from pipeline.lease import Holder, Lease, holding, read_lease
from pipeline.shards import shard_name


@dataclass(frozen=True)
class ShardRange:
    """Shards by number, half open."""

    first: int
    end: int | None
    """None: to the plan's end."""

    def __contains__(self, number: object) -> bool:
        assert isinstance(number, int)
        return self.first <= number and (self.end is None or number < self.end)

    def __str__(self) -> str:
        return f"{self.first}:{'' if self.end is None else self.end}"

    def overlaps(self, other: "ShardRange") -> bool:
        """Whether a shard may be in both."""
        return max(self.first, other.first) in self and max(self.first, other.first) in other


def parse_range(text: str) -> ShardRange:
    """`A:B`, A inclusive, B exclusive; without A from 0 on, without B to the end. Raises
    UsageError."""
    found = re.fullmatch(r"(\d*):(\d*)", text)
    if found is None:
        raise UsageError(f"--shards {text}: expected A:B, as in 0:100, 100:200 or 200:")
    first, end = int(found[1] or 0), int(found[2]) if found[2] else None
    if end is not None and end <= first:
        raise UsageError(f"--shards {text}: holds no shard; B, which is exclusive, must be above A")
    return ShardRange(first, end)


@contextmanager
def holding_range(dataset: str, shards: ShardRange, *, take_over: bool = False) -> Iterator[Holder]:
    """Holds the lease of a range, as `lease.holding` does of a dataset.

    Raises AbortError where a whole run, or a run of a range that overlaps, is at work.
    """
    with holding(range_url(dataset, shards), take_over=take_over) as holder:
        whole = read_lease(dataset)  # after our own is there: one of two sees the other
        if whole is not None and whole.valid and not take_over:
            raise AbortError(_refusal(dataset, "it", whole))
        if not take_over:
            _check_free(dataset, shards, but=shards)
        yield holder


@contextmanager
def holding_whole(dataset: str, *, take_over: bool = False) -> Iterator[Holder]:
    """Holds the lease of a dataset, all its shards with it. Raises AbortError also where a run of a
    range is at work. What dead ones left is removed."""
    with holding(dataset, take_over=take_over) as holder:
        if not take_over:
            _check_free(dataset, ShardRange(0, None))
        _forget_ranges(dataset)
        yield holder


def _check_free(dataset: str, shards: ShardRange, but: ShardRange | None = None) -> None:
    for other, lease in ranges_at_work(dataset).items():
        if other != but and other.overlaps(shards):
            raise AbortError(_refusal(dataset, f"its shards {other}", lease))


def _refusal(dataset: str, what: str, lease: Lease) -> str:
    return (
        f"{dataset}: another run works on {what} ({lease}); wait for its end, or take over with "
        "--take-over if it is dead"
    )


def ranges_at_work(dataset: str) -> dict[ShardRange, Lease]:
    """The ranges that runs work on now, with their leases."""
    leases = {shards: read_lease(range_url(dataset, shards)) for shards in _ranges(dataset)}
    return {shards: lease for shards, lease in leases.items() if lease is not None and lease.valid}


def _ranges(dataset: str) -> list[ShardRange]:
    found = map(
        re.compile(r"(\d+)-(\d*)").fullmatch, storage.names(storage.join(dataset, "ranges"))
    )
    return [ShardRange(int(m[1]), int(m[2]) if m[2] else None) for m in found if m is not None]


def _forget_ranges(dataset: str) -> None:
    for shards in _ranges(dataset):
        folder = range_url(dataset, shards)
        for name in storage.names(folder):
            storage.remove(storage.join(folder, name))
        _remove_folder(folder)
    _remove_folder(storage.join(dataset, "ranges"))


def _remove_folder(url: str) -> None:
    """An empty one of a disk."""
    folder = storage.local_path(url)
    if folder is not None:
        with suppress(OSError):
            folder.rmdir()


def range_url(dataset: str, shards: ShardRange) -> str:
    """The folder of a range's lease and metrics, until the next whole run."""
    end = "" if shards.end is None else shard_name(shards.end)
    return storage.join(dataset, "ranges", f"{shard_name(shards.first)}-{end}")
