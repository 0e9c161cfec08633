"""What a published shard still has to give when it is made again: its rows and its samples' bytes.

A track whose fingerprint is still the wanted one, of a video that is still the same, is carried
over byte for byte; only the rest is made.
"""

import contextlib
import json
import logging
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extractors.errors import DamagedError
from extractors.tracks import Segment
from pipeline import storage
from pipeline.recovery import has_parquet, has_tar, recover_rows, restore_parquet
from pipeline.samples import decode_segments
from pipeline.shards import (
    ShardRecord,
    publish_record,
    read_record,
    read_record_at,
    read_rows,
    sha256_of,
    shard_name,
    shard_url,
)
from pipeline.sources import SourceVideo

_log = logging.getLogger(__name__)

WITHDRAWN = "_withdrawn.json"
MEMBERS = {
    "transcript": ("transcript.json",),
    "proxy": ("proxy.mp4",),
    "text": ("text.npy", "text_offsets.npy"),
}
"""Members by name; a track is `NAME.npy`. The first is always there."""


def member_names(name: str) -> tuple[str, ...]:
    """The members that hold a track, `text`, `transcript` or `proxy`."""
    return MEMBERS.get(name, (f"{name}.npy",))


@dataclass(frozen=True)
class StoredVideo:
    """One video as its shard has it."""

    row: dict[str, Any]
    """Its row of the parquet."""
    meta: dict[str, Any] = field(default_factory=dict)
    """meta.json; empty for a failed video."""
    members: dict[str, bytes] = field(default_factory=dict, repr=False)
    """By extension, as they lie in the tar; none for a failed video."""

    @property
    def failed(self) -> bool:
        """Whether it is a row without a sample."""
        return bool(self.row["status"] == "failed")

    @property
    def segments(self) -> list[Segment]:
        """Its transcript."""
        return decode_segments(self.members["transcript.json"])

    def is_of(self, video: SourceVideo) -> bool:
        """Whether the source says that file and captions are the same, unread."""
        same = self.row["key"] == video.key and self.row.get("version") == video.version
        return same and bool(video.version)

    @property
    def captions_id(self) -> str:
        """The sha256 of the captions that its transcript is of; empty where it is of the sound."""
        return str(self.meta.get("captions_id", ""))

    def current(self, fingerprints: dict[str, str]) -> set[str]:
        """Names of what it holds that was made as `fingerprints` want it."""
        made = self.meta.get("provenance", {})
        return {
            name
            for name, wanted in fingerprints.items()
            if made.get(name, {}).get("fingerprint") == wanted
            and member_names(name)[0] in self.members
        }

    def members_of(self, names: Iterable[str]) -> dict[str, bytes]:
        """The bytes that hold these."""
        wanted = {member for name in names for member in member_names(name)}
        return {member: content for member, content in self.members.items() if member in wanted}


@dataclass(frozen=True)
class PublishedShard:
    """A whole shard of an earlier run, open for reading."""

    record: ShardRecord
    rows: dict[str, dict[str, Any]]
    """By key."""
    tar: tarfile.TarFile
    members: dict[str, list[tarfile.TarInfo]]
    """By key."""

    def find(self, video: SourceVideo) -> StoredVideo | None:
        """The video by its key; one that was renamed by its version (size and time of change)."""
        row = self.rows.get(video.key)
        if row is None and video.version and not video.out_of_reach:
            row = next((r for r in self.rows.values() if r.get("version") == video.version), None)
        if row is None:
            return None
        if row["status"] == "failed":
            return StoredVideo(row)
        contents = {
            member.name.partition(".")[2]: self.tar.extractfile(member).read()  # type: ignore[union-attr]
            for member in self.members.get(row["key"], ())
        }
        return StoredVideo(row, json.loads(contents.pop("meta.json")), contents)


@contextlib.contextmanager
def published_shard(dataset: str, number: int) -> Iterator[PublishedShard | None]:
    """A shard as it was published; None where there is none that is whole.

    Its files are held against its record first: damage must not be carried into a new shard. One
    that was withdrawn by a run that died before its replacement was there is found too.
    """
    with contextlib.ExitStack() as stack:
        try:
            shard = _open_shard(dataset, _record_of(dataset, number), stack)
        except FileNotFoundError:
            shard = None
        except (tarfile.TarError, DamagedError) as err:
            _log.warning("shard %06d is damaged and is made anew as a whole: %s", number, err)
            shard = None
        yield shard


def _open_shard(dataset: str, record: ShardRecord, stack: contextlib.ExitStack) -> PublishedShard:
    path = stack.enter_context(storage.local_copy(shard_url(dataset, record.number, ".tar")))
    if sha256_of(Path(path)) != record.tar_sha256:
        raise DamagedError(f"{record.name}.tar: its sha256 is not what its record says")
    rows = {row["key"]: row for row in _rows(dataset, record)}
    tar = stack.enter_context(tarfile.TarFile.open(path, "r:"))
    return PublishedShard(record, rows, tar, _members_by_key(tar))


def _rows(dataset: str, record: ShardRecord) -> list[dict[str, Any]]:
    """Of the parquet; of the manifest where the parquet is not what the record says."""
    if has_parquet(dataset, record):
        return read_rows(dataset, record.number)
    recovered = recover_rows(dataset, record)
    if recovered is None:
        raise DamagedError(f"{record.name}.parquet: missing, or not what its record says")
    return recovered


def repair_shard(dataset: str, record: ShardRecord) -> str:
    """For a shard that is not what its record says: its parquet out of the manifest where that is
    what is wrong, else its record is withdrawn and the next `run extract` makes it again. Says
    which. To be called under the dataset's lease."""
    try:
        if read_record(dataset, record.number) != record:
            return f"shard {record.name}: has been made again meanwhile"
    except (FileNotFoundError, DamagedError):
        return f"shard {record.name}: has no record any more"
    lost = has_tar(dataset, record) and not has_parquet(dataset, record)
    if lost and restore_parquet(dataset, record) is not None:
        return f"shard {record.name}: its parquet is written anew out of the manifest"
    withdraw(dataset, record)
    return f"shard {record.name}: its record is withdrawn, `pipeline run extract` makes it again"


def withdraw(dataset: str, record: ShardRecord) -> None:
    """Takes a shard's record away, since its files are about to be replaced: it must not vouch for
    others. Until `forget_withdrawn` it is kept aside: a run that dies before the first file is
    replaced loses nothing."""
    publish_record(_withdrawn_url(dataset, record.number), record)
    storage.remove(shard_url(dataset, record.number, "_stats.json"))


def reinstate(dataset: str, record: ShardRecord) -> None:
    """Puts back what a shard that stays as it is lacks: its record, where a run died after it had
    withdrawn it, and its parquet, where that is lost."""
    if not has_parquet(dataset, record):
        record = restore_parquet(dataset, record) or record
    publish_record(shard_url(dataset, record.number, "_stats.json"), record)
    forget_withdrawn(dataset, record.number)


def forget_withdrawn(dataset: str, number: int) -> None:
    """For when the new edition's record is there."""
    storage.remove(_withdrawn_url(dataset, number))


def withdrawn_shards(dataset: str) -> list[int]:
    """Numbers of the shards whose record is kept aside."""
    names = storage.names(storage.join(dataset, "attempts"))
    return [int(n.removesuffix(WITHDRAWN)) for n in names if n.endswith(WITHDRAWN)]


def _record_of(dataset: str, number: int) -> ShardRecord:
    try:
        return read_record(dataset, number)
    except FileNotFoundError:
        return read_record_at(_withdrawn_url(dataset, number))


def _withdrawn_url(dataset: str, number: int) -> str:
    return storage.join(dataset, "attempts", shard_name(number) + WITHDRAWN)


def _members_by_key(tar: tarfile.TarFile) -> dict[str, list[tarfile.TarInfo]]:
    found: dict[str, list[tarfile.TarInfo]] = {}
    for member in tar:
        if member.isfile():
            found.setdefault(member.name.partition(".")[0], []).append(member)
    return found
