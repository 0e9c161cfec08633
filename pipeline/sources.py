"""Where videos come from: folders, globs, csv and parquet lists, single files; local or fsspec."""

import hashlib
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from extractors.caption_names import INFO_SUFFIX, caption_files, choose, names_by_video
from extractors.errors import UsageError
from pipeline import storage

VIDEO_SUFFIXES = frozenset(
    (
        *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
        *(".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
    )
)
KEY = re.compile(r"[A-Za-z0-9_-]+")
MISSING = "missing"
"""Of a file, in place of its size and time of change."""
COLUMNS = ("path", "uri", "key", "captions", "label", "split")
STAMPS = ("ETag", "etag", "mtime", "LastModified", "size")
"""What listings say of a remote file that changes with it."""


class SourceVideo(NamedTuple):
    """One video as the source lists it. A tuple, for there may be millions."""

    key: str
    """Unique in the dataset, of [A-Za-z0-9_-] only."""
    uri: str
    """Where it lies: an absolute path or a URL."""
    path: str
    """As the source names it, relative to the folder or list: goes into the tar, unlike the uri."""
    size_bytes: int | None = None
    """None where it was not asked for (lists)."""
    captions: str | None = None
    """Its captions, where the list names them or a remote folder has them beside the video; those
    beside a local video are found when it is read."""
    label: str | None = None
    split: str | None = None
    version: str = ""
    """Changes when the video or its captions do: their sizes and times of change on a local disk,
    what the listing says of a remote video. Empty where neither is to be had."""

    @property
    def out_of_reach(self) -> bool:
        """Whether the video was not there when it was listed: removed, or on a disk that is not
        mounted now."""
        return self.version.startswith(MISSING)


def read_source(source: str, caption_language: str | None = None) -> list[SourceVideo]:
    """The videos in a stable order; of several captions beside a remote video, those of the
    language (`speech.caption_language`).

    Raises UsageError: none, bad or duplicate keys, bad lists.
    """
    with storage.reaching(source):
        videos = list(_list_source(source, caption_language))
    if not videos:
        suffixes = " ".join(sorted(VIDEO_SUFFIXES))
        raise UsageError(f"{source}: no videos found (looked for {suffixes})")
    check_keys(videos)
    return videos


def check_keys(videos: Iterable[SourceVideo]) -> None:
    """Raises UsageError for a key with other characters, or one that two videos share."""
    seen: dict[str, SourceVideo] = {}
    for video in videos:
        if not _is_text(video.uri):
            raise UsageError(f"{video.uri!a}: a file name that is not UTF-8; rename it")
        if not KEY.fullmatch(video.key):
            raise UsageError(
                f"key {video.key!r} of {video.path}: only letters, digits, _ and - are allowed "
                "(a WebDataset key ends at its first dot)"
            )
        if (first := seen.setdefault(video.key, video)) is not video:
            raise UsageError(
                f"key {video.key!r} is given twice: {first.path} and {video.path}; rename one, "
                "or list them in a csv with a column 'key'"
            )


def _is_text(name: str) -> bool:
    """Whether a file's name can be written down: parquet and JSON hold no lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def key_of(path: str) -> str:
    """A key from a relative path: the path without its suffix, / as __; unusual characters become
    _ and then eight digits of the path's digest keep the key unique."""
    stem = path.rpartition(".")[0] if "." in path.rpartition("/")[2] else path
    plain = stem.replace("/", "__")
    if KEY.fullmatch(plain):
        return plain
    digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return re.sub(r"[^A-Za-z0-9_-]", "_", plain) + "-" + digest


def _list_source(source: str, language: str | None) -> Iterator[SourceVideo]:
    suffix = source.rpartition(".")[2].lower()
    filesystem, path = storage.locate(source)
    if filesystem.isdir(path):
        return _list_folder(source, language)
    if not filesystem.exists(path):
        if any(sign in source for sign in "*?["):
            return _list_glob(source, language)
        raise UsageError(f"{source}: no such file or folder")
    if suffix in ("csv", "parquet"):
        return _list_table(source, suffix)
    return _list_files(filesystem, [path], {path: filesystem.info(path)}, path.rpartition("/")[0])


def _list_folder(source: str, language: str | None) -> Iterator[SourceVideo]:
    filesystem, root = storage.locate(source)
    found = filesystem.find(root, detail=True)
    videos = [
        path
        for path, facts in found.items()
        if "." + path.rpartition(".")[2].lower() in VIDEO_SUFFIXES and facts["type"] == "file"
    ]
    return _list_files(filesystem, sorted(videos), found, root, language)


def _list_glob(source: str, language: str | None) -> Iterator[SourceVideo]:
    filesystem, pattern = storage.locate(source)
    found = filesystem.glob(pattern, detail=True)
    files = sorted(path for path, facts in found.items() if facts["type"] == "file")
    literal = re.split(r"[*?\[]", pattern)[0].rpartition("/")[0]
    return _list_files(filesystem, files, found, literal, language)


def _list_files(
    filesystem: Any,
    paths: Iterable[str],
    listed: Mapping[str, Any],
    root: str,
    language: str | None = None,
) -> Iterator[SourceVideo]:
    """`listed` is what the file system says of these files and of others that it listed too."""
    remote = not isinstance(filesystem, LocalFileSystem)
    beside = _captions_beside(listed, language) if remote else {}
    for path in paths:
        relative = path.removeprefix(root.rstrip("/") + "/")
        captions = beside.get(path.rpartition(".")[0])
        facts = [listed[name] for name in (path, captions) if name is not None]
        yield SourceVideo(
            key=key_of(relative),
            uri=_uri(filesystem, path),
            path=relative,
            size_bytes=facts[0].get("size"),
            captions=_uri(filesystem, captions) if captions else None,
            version=_version(_uri(filesystem, path), None, facts),
        )


def _captions_beside(listed: Iterable[str], language: str | None) -> dict[str, str]:
    """Path of a video without its suffix to that of its captions, among the files of a listing."""
    folders: dict[str, list[str]] = defaultdict(list)
    found = {}
    for path in listed:
        folder, _, name = path.rpartition("/")
        folders[folder].append(name)
        if name.endswith(INFO_SUFFIX):
            found[path.removesuffix(INFO_SUFFIX)] = path
    for folder, names in folders.items():
        for video, captions in names_by_video(names).items():
            if chosen := choose(captions, language):
                found[f"{folder}/{video}"] = f"{folder}/{chosen.name}"
    return found


def _list_table(source: str, suffix: str) -> Iterator[SourceVideo]:
    """Columns: `path` or `uri` (relative ones from the list's folder), optional others."""
    buffer = pa.BufferReader(storage.read_bytes(source))
    try:
        table = pq.read_table(buffer) if suffix == "parquet" else _read_csv(buffer)
    except pa.ArrowInvalid as err:
        raise UsageError(f"{source}: not a {suffix} table: {err}") from err
    column = next((name for name in ("path", "uri") if name in table.column_names), None)
    if column is None:
        columns = ", ".join(table.column_names)
        raise UsageError(f"{source}: needs a column 'path' or 'uri', has: {columns}")
    filesystem, list_path = storage.locate(source)
    folder = list_path.rpartition("/")[0]
    rows = zip(*(_texts(table, name) for name in (column, *COLUMNS[2:])), strict=True)
    for number, (path, key, captions, label, split) in enumerate(rows, start=1):
        if path is None:
            raise UsageError(f"{source}: row {number} has no {column}")
        uri = _absolute(filesystem, folder, path)
        captions = captions and _absolute(filesystem, folder, captions)
        yield SourceVideo(
            key=key or _key_of_row(path),
            uri=uri,
            path=path,
            captions=captions,
            version=_version(uri, captions, ()),
            label=label,
            split=split,
        )


def _texts(table: pa.Table, name: str) -> list[str | None]:
    """A column as text; None where it is empty, or not there. By columns, for a list may have a
    million rows."""
    if name not in table.column_names:
        return [None] * len(table)
    values = table.column(name).to_pylist()
    return [None if value in (None, "") else str(value) for value in values]


def _absolute(filesystem: Any, folder: str, name: str) -> str:
    """What a list in this folder names."""
    if "://" in name or name.startswith("/"):
        return name
    return _uri(filesystem, f"{folder}/{name}")


def _read_csv(buffer: pa.BufferReader) -> pa.Table:
    """All columns of ours as text: a key 007 is not the number 7."""
    return pa_csv.read_csv(
        buffer,
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string())),
    )


def _key_of_row(path: str) -> str:
    """As a folder's listing gives it, of a relative path; of the name alone, of an absolute one."""
    absolute = "://" in path or path.startswith("/")
    return key_of(path.rpartition("/")[2] if absolute else posixpath.normpath(path))


def _version(uri: str, captions: str | None, listed: Iterable[Mapping[str, Any]]) -> str:
    """See `SourceVideo.version`; `listed` is what a remote listing says of video and captions."""
    if "://" in uri:
        known = [facts.get(name) for facts in listed for name in STAMPS]
        return " ".join(str(value) for value in known if value is not None)
    files = [uri, captions] if captions else [uri, *caption_files(uri)]
    return " ".join(_stamp(path) for path in files if "://" not in path)


def _stamp(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return MISSING
    return f"{status.st_size}-{status.st_mtime_ns}"


def _uri(filesystem: Any, path: str) -> str:
    """A local path as it is, a remote one with its protocol."""
    uri: str = filesystem.unstrip_protocol(path)
    return uri.removeprefix("file://") if uri.startswith("file://") else uri
