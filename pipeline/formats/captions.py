"""Transcripts beside foreign features: HowTo100M's caption files, or one file a video."""

import json
import sqlite3
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from extractors.caption_tables import stream_table
from extractors.captions import SUFFIXES, read_captions
from extractors.errors import Reason, UsageError, VideoError
from extractors.tracks import Segment
from pipeline import storage
from pipeline.restricted_pickle import read_pickle

PICKLES = (".pickle", ".pkl")

Lookup = Callable[[str], tuple[Segment, ...]]
"""From a video's id; empty where nothing is known of it. Raises VideoError (bad_captions)."""


def find_caption_file(folder: str) -> str | None:
    """HowTo100M's caption file in a folder; the JSON before the pickle."""
    there = storage.names(folder)
    found = [name for name in ("caption.json", "caption.pickle") if name in there]
    return storage.join(folder, found[0]) if found else None


@contextmanager
def open_captions(
    url: str | None, wanted: Collection[str], *, trust_pickle: bool
) -> Iterator[Lookup]:
    """The transcripts of the wanted ids: from a caption file, or a folder of one file a video.

    A caption file is read once, a JSON without holding it, into a temporary database. Raises
    UsageError for a file that is none, and for a pickle without `trust_pickle`.
    """
    if url is None:
        yield lambda _: ()
    elif storage.locate(url)[0].isdir(storage.locate(url)[1]):
        known = set(storage.names(url))
        yield lambda video: _from_folder(url, known, video)
    else:
        with (
            tempfile.TemporaryDirectory() as folder,
            closing(sqlite3.connect(str(Path(folder, "captions.sqlite")))) as database,
        ):
            _fill(database, url, set(wanted), trust_pickle=trust_pickle)
            yield lambda video: _from_database(database, url, video)


def parse_captions(where: str, value: Any) -> tuple[Segment, ...]:
    """Segments of {start: [s], end: [s], text: [str]}. Raises VideoError for anything else."""
    try:
        columns = [value[name] for name in ("start", "end", "text")]
        return tuple(
            Segment(float(start), float(end), str(text), "captions")
            for start, end, text in zip(*columns, strict=True)
        )
    except (KeyError, TypeError, ValueError, IndexError) as err:
        message = f"{where}: captions are lists start, end and text of one length: {err!r}"
        raise VideoError(Reason.BAD_CAPTIONS, "captions", message) from err


def caption_lists(segments: Collection[Segment]) -> dict[str, list[Any]]:
    """The inverse of `parse_captions`."""
    return {
        "start": [segment.start for segment in segments],
        "end": [segment.end for segment in segments],
        "text": [segment.text for segment in segments],
    }


def _from_folder(folder: str, known: set[str], video: str) -> tuple[Segment, ...]:
    for suffix in (".json", *SUFFIXES):
        if f"{video}{suffix}" not in known:
            continue
        url = storage.join(folder, f"{video}{suffix}")
        if suffix == ".json":
            return parse_captions(url, _json(url))
        with storage.local_copy(url) as path:
            return tuple(read_captions(path))
    return ()


def _json(url: str) -> Any:
    try:
        return storage.read_json(url)
    except ValueError as err:
        raise VideoError(Reason.BAD_CAPTIONS, "captions", f"{url}: not JSON: {err}") from err


def _fill(database: sqlite3.Connection, url: str, wanted: set[str], *, trust_pickle: bool) -> None:
    # a scratch file: nothing to recover, so nothing to journal
    database.execute("PRAGMA journal_mode = OFF")
    database.execute("CREATE TABLE captions (video TEXT PRIMARY KEY, content TEXT)")
    items = _pickled(url, trust_pickle) if url.endswith(PICKLES) else _streamed(url)
    rows = ((video, json.dumps(value, default=_plain)) for video, value in items if video in wanted)
    database.executemany("INSERT OR REPLACE INTO captions VALUES (?, ?)", rows)


def _pickled(url: str, trust_pickle: bool) -> Iterator[tuple[str, Any]]:
    content = read_pickle(url, trust_pickle)
    if not isinstance(content, Mapping):
        raise UsageError(f"{url}: a dict of captions is wanted, got {type(content).__name__}")
    yield from content.items()


def _streamed(url: str) -> Iterator[tuple[str, Any]]:
    try:
        with storage.open_binary(url) as file:
            yield from stream_table(file, url)
    except FileNotFoundError as err:
        raise UsageError(f"{url}: no such file") from err


def _plain(value: Any) -> Any:
    """For json: numpy's numbers and arrays, which pickles may hold."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise UsageError(f"captions hold a {type(value).__name__}; allowed are numbers and text")


def _from_database(database: sqlite3.Connection, url: str, video: str) -> tuple[Segment, ...]:
    row = database.execute("SELECT content FROM captions WHERE video = ?", (video,)).fetchone()
    return () if row is None else parse_captions(f"{url}: {video}", json.loads(row[0]))
