"""Paths are fsspec URLs. What is published is whole: by rename on a disk, by one put elsewhere."""

import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from extractors.errors import UsageError


def join(base: str, *parts: str) -> str:
    """A path below a URL or a local folder."""
    return "/".join([base.rstrip("/"), *parts])


def locate(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL and the path on it. Raises UsageError for an unknown protocol."""
    if "://" not in url:  # a plain path, whatever signs it holds: '::' would chain file systems
        return LocalFileSystem(), os.path.abspath(os.path.expanduser(url))
    try:
        filesystem, path = url_to_fs(url)
    except (ValueError, ImportError) as err:
        raise UsageError(f"{url}: {err}") from err
    return filesystem, path


def local_path(url: str) -> Path | None:
    """The path on this machine's disk, or None where the URL is remote."""
    filesystem, path = locate(url)
    return Path(path) if isinstance(filesystem, LocalFileSystem) else None


def exists(url: str) -> bool:
    """Whether a file or folder is there, asked anew (no listing cache)."""
    filesystem, path = locate(url)
    filesystem.invalidate_cache()
    return bool(filesystem.exists(path))


def names(url: str) -> list[str]:
    """Sorted names of the entries of a folder; empty where it does not exist."""
    filesystem, path = locate(url)
    filesystem.invalidate_cache()
    if not filesystem.isdir(path):
        return []
    return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in filesystem.ls(path, False))


def remove(url: str) -> None:
    """Removes a file if it is there."""
    filesystem, path = locate(url)
    with suppress(FileNotFoundError):
        filesystem.rm_file(path)


def open_binary(url: str) -> IO[bytes]:
    """Opens a file for reading. Raises FileNotFoundError where it does not exist."""
    filesystem, path = locate(url)
    file: IO[bytes] = filesystem.open(path, "rb")
    return file


def read_bytes(url: str) -> bytes:
    """The whole file. Raises FileNotFoundError where it does not exist."""
    with open_binary(url) as file:
        return file.read()


def read_json(url: str) -> Any:
    """The parsed JSON of a file. Raises FileNotFoundError where it does not exist."""
    return json.loads(read_bytes(url))


@contextmanager
def publishing(url: str) -> Iterator[Path]:
    """Yields a local temporary path; on a clean exit its content appears at `url`, whole.

    On a local disk the temporary lies in the target's folder, is synced, then renamed over it.
    Elsewhere it is put in one call: object stores show an object only when its put is complete.
    On an exception nothing is published and the temporary is removed. A killed process leaves
    at most a dot file named `.NAME.XXXX.partial`, which no reader looks at.
    """
    target = local_path(url)
    name = url.rsplit("/", 1)[-1]
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent if target is not None else Path(tempfile.gettempdir())
    temporary = folder / f".{name}.{secrets.token_hex(8)}.partial"
    try:  # before it is made: a signal may arrive at any line
        temporary.touch(0o600, exist_ok=False)
        yield temporary
        if target is not None:
            temporary.chmod(0o666 & ~_umask())
            _sync(temporary)
            temporary.replace(target)
            _sync(target.parent)
        else:
            filesystem, path = locate(url)
            filesystem.put_file(str(temporary), path)
    finally:
        temporary.unlink(missing_ok=True)


def publish_bytes(url: str, content: bytes) -> None:
    """Publishes bytes, whole or not at all."""
    with publishing(url) as temporary:
        temporary.write_bytes(content)


def publish_json(url: str, value: Any) -> None:
    """Publishes JSON, indented and with a final newline, keys in the order given."""
    publish_bytes(url, (json.dumps(value, indent=2) + "\n").encode())


def _sync(path: Path) -> None:
    """Flushes a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    """This process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@contextmanager
def local_copy(url: str) -> Iterator[str]:
    """A local path of the file: its own if it is local, else a temporary copy."""
    path = local_path(url)
    if path is not None:
        yield str(path)
        return
    filesystem, remote = locate(url)
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, remote.rpartition("/")[2])
        filesystem.get_file(remote, copy)
        yield copy
