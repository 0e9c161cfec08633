"""A dataset's shards in the layout of another program: streamed, resumable, whole files only.

OUTPUT/.export/card.json     of which dataset, in which format, with which tracks
OUTPUT/.export/000000.json   what shard 0 became: files and sizes, and what the lists need of it
OUTPUT/.export/finished.json the same of the files that span all shards
"""

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from extractors.errors import UsageError
from pipeline import storage
from pipeline.dataset import read_dataset_card, read_records
from pipeline.provenance import digest
from pipeline.samples import VideoSample, read_shard
from pipeline.shards import ShardRecord, shard_name

VERSION = 1
"""Of what the formats write: one up, and every finished file is written anew."""

Files = dict[str, int]
"""Names below the output, and their sizes in bytes."""
Entry = dict[str, Any]
"""What the lists and captions of a format need of one video; JSON."""


class Exporter(Protocol):
    """One format, set up: a frozen dataclass, whose fields decide what is written."""

    @property
    def tracks(self) -> Mapping[str, str]:
        """The format's names, to the tracks of ours that are written as these."""
        ...

    @property
    def with_text(self) -> bool:
        """Whether the vectors of transcripts are written too."""
        ...

    @property
    def one_file(self) -> bool:
        """Whether what shards become are parts (`part_url`) of one file, which go once it is."""
        ...

    def check(self, tracks: dict[str, Any]) -> None:
        """Raises UsageError where a dataset of these tracks cannot be written."""
        ...

    def write_shard(
        self, output: str, number: int, samples: Iterable[VideoSample]
    ) -> tuple[Files, list[Entry]]:
        """Publishes what one shard becomes."""
        ...

    def finish(
        self, output: str, entries: Callable[[], Iterator[Entry]], numbers: list[int]
    ) -> Files:
        """Publishes what spans all shards, from their entries in order."""
        ...


@dataclass(frozen=True)
class Exported:
    """What an export came to."""

    videos: int
    kept: int
    """Shards whose files were there already."""
    files: int
    size_bytes: int
    finished: Files = field(default_factory=dict)
    """The files that span all shards."""


def export_dataset(
    dataset: str,
    output: str,
    fmt: str,
    exporter: Exporter,
    on_video: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Writes all published shards; run again, it writes only what is missing or out of date.

    One video is in memory at a time. Raises UsageError before anything is written: no dataset,
    no shards, tracks that the format cannot take, an output that holds something else.
    """
    card = read_dataset_card(dataset)
    exporter.check(card["tracks"])
    records = read_records(dataset)
    if not records:
        raise UsageError(f"{dataset}: has no finished shards to export")
    options = {"format": fmt, "version": VERSION, "exporter": repr(exporter)}
    _claim(output, {"dataset": _place(dataset)} | options)
    total, done = sum(record.successes for record in records), 0
    whole = digest([options, [record.tar_sha256 for record in records]])
    finished = _finished(output, "finished", whole)
    if finished and exporter.one_file:
        on_video(total, total)
        return _summary(total, len(records), [], finished["files"])
    sizes = array("Q")
    kept = 0
    for record in records:
        wanted = digest([options, record.tar_sha256])
        known = _finished(output, record.name, wanted)
        if known is None:
            samples = _counted(dataset, record, exporter, on_video, done, total)
            made, entries = exporter.write_shard(output, record.number, samples)
            known = {"digest": wanted, "files": made, "entries": entries}
            storage.publish_json(_ledger_url(output, record.name), known)
        else:
            kept += 1
        done += record.successes
        on_video(done, total)
        sizes.extend(known["files"].values())
    if finished is None or kept < len(records):
        finished = _finish(output, exporter, records, whole)
    return _summary(total, kept, [] if exporter.one_file else sizes, finished["files"])


def _summary(total: int, kept: int, sizes: Sequence[int], finished: Files) -> Exported:
    every = [*sizes, *finished.values()]
    return Exported(total, kept, len(every), sum(every), finished)


def _counted(
    dataset: str,
    record: ShardRecord,
    exporter: Exporter,
    on_video: Callable[[int, int], None],
    done: int,
    total: int,
) -> Iterator[VideoSample]:
    needed = {*exporter.tracks.values(), *(["text"] if exporter.with_text else [])}
    for count, sample in enumerate(read_shard(dataset, record.number, needed), start=1):
        yield sample
        on_video(done + count, total)


def _finish(
    output: str, exporter: Exporter, records: list[ShardRecord], wanted: str
) -> dict[str, Any]:
    """Makes the files of all shards; gives their ledger."""

    def entries() -> Iterator[Entry]:
        for record in records:
            yield from storage.read_json(_ledger_url(output, record.name))["entries"]

    numbers = [record.number for record in records]
    ledger = {"digest": wanted, "files": exporter.finish(output, entries, numbers)}
    storage.publish_json(_ledger_url(output, "finished"), ledger)
    for number in numbers if exporter.one_file else ():
        storage.remove(part_url(output, number))
    return ledger


def part_url(output: str, number: int) -> str:
    """Where a shard's part of a file that spans all shards waits for the others."""
    return storage.join(output, ".export", f"{shard_name(number)}.part")


def _ledger_url(output: str, name: str) -> str:
    return storage.join(output, ".export", f"{name}.json")


def _finished(output: str, name: str, wanted: str) -> dict[str, Any] | None:
    """A ledger whose files are all there with their sizes; None where something is to be done."""
    try:
        ledger: dict[str, Any] = storage.read_json(_ledger_url(output, name))
    except (FileNotFoundError, ValueError):
        return None
    if ledger.get("digest") != wanted:
        return None
    whole = all(
        storage.size(storage.join(output, f)) == size for f, size in ledger["files"].items()
    )
    return ledger if whole else None


def _claim(output: str, card: dict[str, Any]) -> None:
    """Raises UsageError where the output is a dataset, a run, an index or another export."""
    for other in ("dataset.json", "card.json", "index_infos.json"):
        if storage.exists(storage.join(output, other)):
            raise UsageError(f"{output}: holds {other}, it is no export; choose another folder")
    url = _ledger_url(output, "card")
    if not storage.exists(url):
        storage.publish_json(url, card)
    elif (there := storage.read_json(url)) != card:
        different = [name for name in card if there.get(name) != card[name]]
        raise UsageError(
            f"{output}: holds an export with another {', '.join(different)} "
            f"({json.dumps(there.get(different[0]))}); choose another folder"
        )


def _place(url: str) -> str:
    """The same for each way to name a place."""
    filesystem, path = storage.locate(url)
    return str(filesystem.unstrip_protocol(path))
