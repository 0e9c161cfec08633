"""Paths are fsspec URLs. What is published is whole: by rename on a disk, by one put elsewhere.

A remote call that fails in passing (a cut connection, an answer of 5xx) is tried again a bounded
number of times, beside what the driver itself does. What it raises in the end is an OSError of one
line that names the URL. Nothing here relies on listings being fresh, but `names`: what was
published a moment ago may be missing from it on a store whose listings lag, and is there for
`exists` and `read_bytes`.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import psutil
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from extractors.errors import UsageError

PAUSES = (0.5, 2.0, 5.0)
"""Seconds before each further try of a remote call."""
PARTIAL_SECONDS = 86_400.0
"""A temporary of another machine that is older was left by a process that died."""
_PARTIAL = re.compile(r"\.(?P<name>.+)\.(?P<host>[^.]+)-(?P<pid>\d+)\.[0-9a-f]{16}\.partial")
_FINAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EINVAL, errno.ENAMETOOLONG, errno.EFBIG}
"""What trying again does not mend."""

Result = TypeVar("Result")


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


def absolute(url: str) -> str:
    """A local path that means the same from any folder; a remote URL as it is."""
    path = local_path(url)
    return url if path is None else str(path.absolute())


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """What the driver of a remote file system raises becomes an OSError that names the URL.

    FileNotFoundError and PermissionError stay what they are.
    """
    if local_path(url) is not None:
        yield
        return
    try:
        yield
    except _errors() as err:
        message = f"{url}: {_one_line(err)}"
        if "credentials" in message.lower():
            message += "; set them for the store's driver, as in AWS_ACCESS_KEY_ID"
        for kind in (FileNotFoundError, PermissionError):
            if isinstance(err, kind):
                raise kind(message) from err
        raise OSError(message) from err


def _errors() -> tuple[type[Exception], ...]:
    """OSError, and what the drivers that are loaded raise beside it."""
    places = {"botocore.exceptions": ("BotoCoreError", "ClientError"), "aiohttp": ("ClientError",)}
    found = [
        getattr(sys.modules[module], kind)
        for module, kinds in places.items()
        if module in sys.modules
        for kind in kinds
    ]
    return (OSError, *found)


def _transient(err: Exception) -> bool:
    """Whether the same call may succeed in a moment."""
    if isinstance(err, OSError):
        found = FileNotFoundError | FileExistsError | PermissionError | IsADirectoryError
        return not isinstance(err, found) and err.errno not in _FINAL
    botocore = sys.modules.get("botocore.exceptions")
    if botocore is None or not isinstance(err, botocore.BotoCoreError):
        return True  # of the network's layer
    return isinstance(err, botocore.HTTPClientError | botocore.ConnectionError)


def _one_line(err: Exception) -> str:
    return " ".join(str(err).split()) or type(err).__name__


def _call(url: str, call: Callable[[AbstractFileSystem, str], Result]) -> Result:
    """A call that may be made twice, on the file system of `url`. Raises as `reaching` does."""
    with reaching(url):
        filesystem, path = locate(url)
        if isinstance(filesystem, LocalFileSystem):
            return call(filesystem, path)
        for pause in PAUSES:
            try:
                return call(filesystem, path)
            except _errors() as err:
                if not _transient(err):
                    raise
                time.sleep(pause)
        return call(filesystem, path)


def exists(url: str) -> bool:
    """Whether a file or folder is there, asked anew (no listing cache)."""

    def ask(filesystem: AbstractFileSystem, path: str) -> bool:
        filesystem.invalidate_cache()
        return bool(filesystem.exists(path))

    return _call(url, ask)


def names(url: str) -> list[str]:
    """Sorted names of the entries of a folder; empty where it does not exist."""

    def ask(filesystem: AbstractFileSystem, path: str) -> list[str]:
        filesystem.invalidate_cache()
        return filesystem.ls(path, False) if filesystem.isdir(path) else []

    return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in _call(url, ask))


def sizes(url: str) -> dict[str, int]:
    """Bytes of each file of a folder, by name; empty where it does not exist."""

    def ask(filesystem: AbstractFileSystem, path: str) -> list[dict[str, Any]]:
        filesystem.invalidate_cache()
        return filesystem.ls(path, True) if filesystem.isdir(path) else []

    entries = _call(url, ask)
    return {e["name"].rsplit("/", 1)[-1]: e["size"] for e in entries if e["type"] == "file"}


def size(url: str) -> int | None:
    """Bytes of a file, asked anew; None where it does not exist."""

    def ask(filesystem: AbstractFileSystem, path: str) -> int:
        filesystem.invalidate_cache()
        return int(filesystem.size(path))

    try:
        return _call(url, ask)
    except FileNotFoundError:
        return None


def remove(url: str) -> None:
    """Removes a file if it is there."""
    with suppress(FileNotFoundError):
        _call(url, lambda filesystem, path: filesystem.rm_file(path))


def open_binary(url: str) -> IO[bytes]:
    """Opens a file for reading. Raises FileNotFoundError where it does not exist."""
    file: IO[bytes] = _call(url, lambda filesystem, path: filesystem.open(path, "rb"))
    return file


def read_bytes(url: str) -> bytes:
    """The whole file. Raises FileNotFoundError where it does not exist."""

    def read(filesystem: AbstractFileSystem, path: str) -> bytes:
        with filesystem.open(path, "rb") as file:
            content: bytes = file.read()
        return content

    return _call(url, read)


def sha256(url: str) -> str:
    """Hex digest of a file, read a piece at a time; FileNotFoundError where there is none."""
    with open_binary(url) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def read_json(url: str) -> Any:
    """The parsed JSON of a file. Raises FileNotFoundError where it does not exist."""
    return json.loads(read_bytes(url))


@contextmanager
def publishing(url: str) -> Iterator[Path]:
    """Yields a local temporary path; on a clean exit its content appears at `url`, whole.

    On a local disk the temporary lies in the target's folder, is synced, then renamed over it.
    Elsewhere it is put in one call: object stores show an object only when its put is complete.
    On an exception nothing is published and the temporary is removed. A killed process leaves
    at most a dot file named `.NAME.HOST-PID.XXXX.partial`, which no reader looks at.
    """
    target = local_path(url)
    name = url.rsplit("/", 1)[-1]
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent if target is not None else Path(tempfile.gettempdir())
    temporary = folder / f".{name}.{host()}-{os.getpid()}.{secrets.token_hex(8)}.partial"
    try:  # before it is made: a signal may arrive at any line
        temporary.touch(0o600, exist_ok=False)
        yield temporary
        if target is not None:
            temporary.chmod(0o666 & ~_umask())
            _sync(temporary)
            temporary.replace(target)
            _sync(target.parent)
        else:
            _call(url, lambda filesystem, path: filesystem.put_file(str(temporary), path))
    finally:
        temporary.unlink(missing_ok=True)


def sweep(url: str) -> list[Path]:
    """Removes temporaries that `publishing` left in a folder when its process was killed; gives
    them. Those of other machines only when they are a day old. For a remote folder they lie in this
    machine's folder of temporaries."""
    folder = local_path(url) or Path(tempfile.gettempdir())
    left = []
    for path in folder.glob(".*.partial") if folder.is_dir() else ():
        if is_left(path):
            path.unlink(missing_ok=True)
            left.append(path)
    return left


def is_left(path: Path) -> bool:
    """Whether a temporary's process has died, as far as this machine can know."""
    found = _PARTIAL.fullmatch(path.name)
    if found is None:
        return False
    if found["host"] == host():
        return not is_running(int(found["pid"]))
    try:
        return time.time() - path.stat().st_mtime > PARTIAL_SECONDS
    except FileNotFoundError:
        return False  # renamed just now


def host() -> str:
    """This machine, of [A-Za-z0-9_-] only; two containers whose process ids are apart differ."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", socket.gethostname())
    try:
        return f"{name}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux
        return name


def is_running(pid: int) -> bool:
    """Whether a process of this machine is alive; a zombie is not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def publish_bytes(url: str, content: bytes) -> None:
    """Publishes bytes, whole or not at all."""
    with publishing(url) as temporary:
        temporary.write_bytes(content)


def publish_json(url: str, value: Any) -> None:
    """Publishes JSON as `json_bytes` writes it."""
    publish_bytes(url, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """JSON, indented and with a final newline, keys in the order given."""
    return (json.dumps(value, indent=2) + "\n").encode()


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
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, locate(url)[1].rpartition("/")[2])
        _call(url, lambda filesystem, remote: filesystem.get_file(remote, copy))
        yield copy
