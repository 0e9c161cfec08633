"""Captions of many videos in one JSON file, as HowTo100M publishes them:

    {VIDEO_ID: {"start": [seconds, …], "end": [seconds, …], "text": ["…", …]}, …}

Such a file is some gigabytes for a million videos. It is read once, as a stream, into an index
(SQLite, beside the weights in the cache) in which a video is found in a millisecond.
"""

import fcntl
import hashlib
import json
import os
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import ijson

from extractors.cues import Cue, plain, segments_of
from extractors.errors import Reason, UsageError, VideoError
from extractors.tracks import Segment
from extractors.weights import cache_folder

INDEX_SUFFIX = ".sqlite"
MAX_ENTRY_BYTES = 50 * 2**20  # of one video: ten thousand times the usual
VERSION = 2


def build_index(table: str) -> Path:
    """The index of a table, made where it is not there yet; a table that is an index is its own.

    One process makes it, others on the machine wait for it. A table that changes (size, time of
    change) gets another index. Memory is that of one video's captions.
    Raises UsageError where the table is gone or is not such JSON.
    """
    path = Path(table)
    if not path.is_file():
        raise UsageError(f"speech.caption_table = {table}: no such file")
    if path.suffix == INDEX_SUFFIX:
        return path
    status = path.stat()
    identity = [VERSION, str(path.resolve()), status.st_size, status.st_mtime_ns]
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    index = cache_folder() / "caption_tables" / (name + INDEX_SUFFIX)
    if not index.is_file():
        index.parent.mkdir(parents=True, exist_ok=True)
        with _locked(index.with_suffix(".lock")):
            if not index.is_file():
                _write_index(path, index)
    return index


def table_digest(table: str) -> str:
    """The sha256 in hex of the table's bytes; an index knows that of the table it was made from.

    Raises UsageError as `build_index` does, or where an index is none.
    """
    index = build_index(table)
    with _reading(index) as database:
        (digest,) = database.execute("SELECT sha256 FROM table_file").fetchone()
    return str(digest)


def find_entry(table: str, ids: tuple[str, ...]) -> tuple[str, bytes] | None:
    """The first of these ids that the table has, with its JSON; None where it has none of them.

    Raises UsageError as `build_index` does, or where an index is none.
    """
    with _reading(build_index(table)) as database:
        for video in ids:
            row = database.execute("SELECT entry FROM captions WHERE id = ?", [video])
            if (found := row.fetchone()) is not None:
                return video, _inflate(found[0], f"{table}: {video}")
    return None


@contextmanager
def _reading(index: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(f"{index.resolve().as_uri()}?mode=ro", uri=True)) as database:
            yield database
    except sqlite3.Error as err:
        raise UsageError(
            f"speech.caption_table = {index}: not a caption index of this version: {err}"
        ) from err


def read_entry(entry: bytes, where: str) -> list[Segment]:
    """The segments of one video of a table. Raises VideoError (bad_captions)."""
    try:
        columns = json.loads(entry)
        starts, ends, texts = (columns[name] for name in ("start", "end", "text"))
        rows = list(zip(starts, ends, texts, strict=True))
        cues = [
            Cue(float(start), float(end), (line,))
            for start, end, text in rows
            if isinstance(text, str) and (line := plain(text))  # some tables have NaN for silence
            if 0 <= float(start) < float(end) < float("inf")
        ]
    except (ValueError, TypeError, KeyError) as err:
        message = (
            f"{where}: not {{start: [...], end: [...], text: [...]}} of one length "
            f"({type(err).__name__}: {err})"
        )
        raise VideoError(Reason.BAD_CAPTIONS, "captions", message) from err
    cues.sort(key=lambda cue: (cue.start, cue.end))
    return segments_of(cues)


def _write_index(table: Path, index: Path) -> None:
    """Under another name first: a killed run leaves no half of an index."""
    with tempfile.TemporaryDirectory(dir=index.parent, prefix=".partial-") as folder:
        staged = Path(folder) / index.name
        with closing(sqlite3.connect(staged)) as database, table.open("rb") as file:
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.execute("CREATE TABLE captions (id TEXT PRIMARY KEY, entry BLOB NOT NULL)")
            database.execute("CREATE TABLE table_file (sha256 TEXT NOT NULL)")
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            database.execute("INSERT INTO table_file VALUES (?)", [digest])
            file.seek(0)
            rows = _rows(file, f"speech.caption_table = {table}")
            database.executemany("INSERT OR REPLACE INTO captions VALUES (?, ?)", rows)
            database.commit()
        os.replace(staged, index)


def _rows(file: IO[bytes], where: str) -> Iterator[tuple[str, bytes]]:
    for video, value in stream_table(file, where):
        yield video, zlib.compress(json.dumps(value, default=_number).encode(), level=1)


def stream_table(file: IO[bytes], where: str) -> Iterator[tuple[str, Any]]:
    """Each video's id and value in a table, from the start of a seekable file, one in memory at a
    time. Raises UsageError, beginning with `where`, for what is no JSON object."""
    start = file.read(2**10).lstrip()[:1]
    file.seek(0)
    if start not in (b"{", b""):
        raise UsageError(f"{where}: not a JSON object of videos")
    try:
        yield from ijson.kvitems(file, "", use_float=True)
    except ijson.JSONError as err:
        raise UsageError(f"{where}: not a JSON object: {' '.join(str(err).split())}") from err


def _number(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"no JSON of {type(value).__name__}")


def _inflate(content: bytes, where: str) -> bytes:
    inflater = zlib.decompressobj()
    try:
        entry = inflater.decompress(content, MAX_ENTRY_BYTES)
    except zlib.error as err:
        raise VideoError(Reason.BAD_CAPTIONS, "captions", f"{where}: damaged index: {err}") from err
    if inflater.unconsumed_tail:
        message = f"{where}: over {MAX_ENTRY_BYTES} bytes of captions"
        raise VideoError(Reason.BAD_CAPTIONS, "captions", message)
    return entry


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a file's lock; the system lets go of it when a process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
