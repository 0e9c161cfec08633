"""One pass over the tar of a shard: its digest, what kind of members it has, what is in them."""

import hashlib
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from pipeline.sources import KEY
from pipeline.verify_sample import sample_problems

BLOCK = 2**20
MEMBER = re.compile(r"[^/]+\.(npy|json|mp4)")


class HashingReader:
    """Reads a file from its start to its end, once, and hashes what is read."""

    def __init__(self, file: IO[bytes], on_bytes: Callable[[int], None] = lambda _: None) -> None:
        self._file = file
        self._on_bytes = on_bytes
        self._digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        """At most `size` bytes."""
        block = self._file.read(size)
        self._digest.update(block)
        self._on_bytes(len(block))
        return block

    def drain(self) -> None:
        """Reads what is left."""
        while self.read(BLOCK):
            pass

    @property
    def sha256(self) -> str:
        """Hex digest of what was read so far."""
        return self._digest.hexdigest()


def tar_problems(
    reader: HashingReader, rows: Mapping[str, Mapping[str, Any]], *, deep: bool
) -> tuple[list[str], list[str]]:
    """The keys of the samples of a tar in order, and what is wrong with it, a line each.

    `rows` are the rows of the videos that the tar is to hold, by key. Without `deep` the members'
    names, kinds and order are looked at, with it their contents too.
    """
    problems: list[str] = []
    keys: list[str] = []
    try:
        # a stream: nothing is ever unpacked, and every byte is read once
        with tarfile.open(fileobj=reader, mode="r|", bufsize=BLOCK) as tar:  # type: ignore[call-overload]
            for key, members in _samples(tar, problems, read=deep):
                problems += _name_problems(key, list(members), seen=key in keys)
                keys.append(key)
                if deep and key in rows:
                    problems += (f"{key}: {p}" for p in sample_problems(members, rows[key]))
    except tarfile.TarError as err:
        problems.append(f"cannot be read: {err}")
    return keys, problems


def _samples(
    tar: tarfile.TarFile, problems: list[str], *, read: bool
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Adjacent members of one key, by extension; empty contents unless they are to be read."""
    key, members = "", dict[str, bytes]()
    for member in tar:
        if unsafe := _unsafe(member):
            problems.append(f"member {member.name!r}: {unsafe}")
            continue
        found, _, extension = member.name.partition(".")
        if found != key and members:
            yield key, members
            members = {}
        key = found
        if extension in members:
            problems.append(f"member {member.name!r}: there twice")
        file = tar.extractfile(member) if read else None
        members[extension] = file.read() if file is not None else b""
    if members:
        yield key, members


def _unsafe(member: tarfile.TarInfo) -> str | None:
    """Why a member is none of ours: what unpacking it could do."""
    if member.issym() or member.islnk():
        return f"a link to {member.linkname!r}"
    if not member.isreg():
        return "neither a file nor part of a sample (a folder, a device, a pipe)"
    if "/" in member.name or "\\" in member.name:
        return "a path; members lie beside each other"
    if not MEMBER.fullmatch(member.name):
        return "not named KEY.NAME.npy, .json or .mp4"
    return None


def _name_problems(key: str, extensions: list[str], *, seen: bool) -> Iterator[str]:
    if not KEY.fullmatch(key):
        yield f"key {key!r}: only letters, digits, _ and - are allowed"
    if seen:
        yield f"{key}: its members are not adjacent, or it is there twice"
    if extensions != sorted(extensions):
        yield f"{key}: its members are not sorted by name"
    for needed in {"meta.json", "transcript.json"}.difference(extensions):
        yield f"{key}: no {needed}"
