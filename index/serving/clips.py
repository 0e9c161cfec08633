"""Pictures and moving pictures of clips: out of the shards' proxies, else out of the sources."""

import base64
import logging
import os
import tarfile
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
from fsspec.core import split_protocol

from extractors.ffmpeg import child, ffmpeg_binary, input_options, wait
from extractors.thumbnails import Thumbnail, extract_thumbnail
from index.clip_vectors import clip_rows
from index.hits import Hit
from index.search import SearchIndex
from pipeline import storage
from pipeline.shards import shard_url

CUT_SECONDS = 60.0
"""A cut of a source is at most this long."""
CUT_DEADLINE = 30.0
CUT_MEMORY_MB = 4096
CACHED_BYTES = 64 * 2**20
CHUNK = 2**18
TARS = 8
"""Remote tars that are looked into at a time for one search."""
AGAIN_SECONDS = 60.0
"""How long a tar that could not be read is not asked for again."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """A clip, and where its video lies."""

    key: str
    uri: str
    start: float
    end: float
    shard: int
    text: str | None = field(default=None, compare=False)
    """What is said in it."""


@dataclass(frozen=True)
class Media:
    """An mp4: bytes in memory, or a part of a file."""

    size: int
    content: bytes | None = None
    url: str = ""
    offset: int = 0

    def read(self, first: int, last: int) -> Iterator[bytes]:
        """Bytes [first, last), in pieces."""
        if self.content is not None:
            yield self.content[first:last]
            return
        with storage.open_binary(self.url) as file:
            file.seek(self.offset + first)
            left = last - first
            while left > 0 and (piece := file.read(min(CHUNK, left))):
                left -= len(piece)
                yield piece


class ClipMedia:
    """What can be seen of an index's clips. For any number of threads."""

    def __init__(self, index: SearchIndex) -> None:
        self._index = index
        self._shards = {
            key: block.shard
            for block in index.card.blocks
            if not block.masked
            for key in index.ids.column("key").slice(block.first, block.count).unique().to_pylist()
        }
        self._cache: OrderedDict[tuple[str, Clip], bytes] = OrderedDict()
        self._cached = 0
        self._lock = threading.Lock()
        self._read: set[str] = set()
        self._absent_until: dict[str, float] = {}
        """Tars that could not be read, until when."""

    def find(self, clip_id: str) -> Clip:
        """The clip of an id, merged hits too. Raises UsageError where there is none, or none any
        longer."""
        rows = clip_rows(self._index.ids, clip_id, self._index.live_N)
        found = self._index.ids.take(pa.array(rows)).sort_by("start").to_pylist()
        key, start, end = found[0]["key"], found[0]["start"], max(row["end"] for row in found)
        texts = dict.fromkeys(row["text"] for row in found if row["text"])
        text = " ".join(texts) or None
        return Clip(key, found[0]["uri"], start, end, self._shards[key], text)

    def media_path(self, clip_id: str, clip: Clip) -> str | None:
        """The path that plays a clip, with its seconds where that is a whole proxy; None where
        nothing can be reached."""
        url = f"/api/clips/{quote(clip_id, safe='@')}/media"
        if self._proxy(clip) is not None:
            return f"{url}#t={clip.start:.3f},{clip.end:.3f}"
        return url if _local_file(clip.uri) is not None else None

    def of_hit(self, hit: Hit) -> Clip:
        """The clip of a hit."""
        return Clip(hit.video, hit.uri, hit.start, hit.end, self._shards[hit.video], hit.text)

    def look_into(self, clips: Sequence[Clip]) -> None:
        """Finds the proxies in remote tars of these clips that were not read before, several at a
        time: each may take a while."""
        if self._index.card.imported is not None:
            return
        tars = {tar_of(self._index.card.dataset, clip.shard) for clip in clips}
        new = [(url, path) for url, path in tars if not path and url not in self._read]
        if len(new) > 1:
            with ThreadPoolExecutor(TARS) as pool:
                list(pool.map(lambda tar: self._places(*tar), new))

    def media(self, clip_id: str) -> Media | None:
        """The video's proxy, else a cut of its source; None where neither can be had."""
        clip = self.find(clip_id)
        proxy = self._proxy(clip)
        if proxy is not None:
            return proxy
        path = _local_file(clip.uri)
        content = self._cached_or(("cut", clip), lambda: cut(path, clip)) if path else b""
        return Media(len(content), content) if content else None

    def thumbnail(self, clip_id: str) -> tuple[bytes, str]:
        """A JPEG of the clip's middle, or why there is none: one of the two is empty."""
        clip = self.find(clip_id)
        reason = ""

        def make() -> bytes:
            nonlocal reason
            made = self._picture(clip)
            reason = made.reason or ""
            return base64.b64decode((made.data_uri or "").partition(",")[2])

        content = self._cached_or(("thumbnail", clip), make)
        return content, reason or ("" if content else "no picture")

    def _picture(self, clip: Clip) -> Thumbnail:
        middle = (clip.start + clip.end) / 2
        made = extract_thumbnail(clip.uri, middle)
        proxy = self._proxy(clip) if made.data_uri is None else None
        if proxy is None:
            return made
        with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
            for piece in proxy.read(0, proxy.size):
                file.write(piece)
            file.flush()
            return extract_thumbnail(file.name, middle)

    def _proxy(self, clip: Clip) -> Media | None:
        """Where the proxy lies in its shard; None where none was made or it has no picture."""
        if self._index.card.imported is not None:  # what was imported has no shards
            return None
        url, path = tar_of(self._index.card.dataset, clip.shard)
        place = self._places(url, path).get(clip.key)
        return Media(place[1], url=url, offset=place[0]) if place and place[1] else None

    def _places(self, url: str, path: str) -> dict[str, tuple[int, int]]:
        """`proxies_of` a tar; empty where it is absent or cannot be read, which is remembered for
        a while of one that is not on this machine."""
        if self._absent_until.get(url, 0.0) > time.monotonic():
            return {}
        try:
            places = proxies_of(url, os.stat(path).st_mtime_ns if path else 0)
            self._read.add(url)
            return places
        except (FileNotFoundError, NotADirectoryError):
            if path:  # asking again costs nothing
                return {}
        except (OSError, tarfile.TarError) as err:
            logger.warning("%s: no proxies of its clips for %g s: %s", url, AGAIN_SECONDS, err)
        self._absent_until[url] = time.monotonic() + AGAIN_SECONDS
        return {}

    def _cached_or(self, key: tuple[str, Clip], make: Callable[[], bytes]) -> bytes:
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        content = make()
        with self._lock:
            if content and key not in self._cache:
                self._cache[key] = content
                self._cached += len(content)
            while self._cached > CACHED_BYTES:
                self._cached -= len(self._cache.popitem(last=False)[1])
        return content


@lru_cache(maxsize=2**16)
def tar_of(dataset: str, shard: int) -> tuple[str, str]:
    """URL of a shard's tar and its path on this machine, empty where it has none."""
    url = shard_url(dataset, shard, ".tar")
    return url, str(storage.local_path(url) or "")


@lru_cache(maxsize=1024)
def proxies_of(url: str, _changed: int) -> dict[str, tuple[int, int]]:
    """Offset and size of each video's proxy in a shard's tar, by key."""
    suffix = ".proxy.mp4"
    with storage.open_binary(url) as file, tarfile.open(fileobj=file) as tar:
        return {
            member.name.removesuffix(suffix): (member.offset_data, member.size)
            for member in tar
            if member.name.endswith(suffix)
        }


def cut(path: str, clip: Clip) -> bytes:
    """The seconds of a clip as a small mp4; empty where ffmpeg cannot make it in time.

    The child opens this one file only, holds bounded memory and is killed at its deadline.
    """
    options = input_options(path)
    filename = options.pop("filename")
    safety = [part for name, value in options.items() for part in (f"-{name}", str(value))]
    seconds = min(CUT_SECONDS, clip.end - clip.start)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        target = Path(folder, "cut.mp4")
        command = [
            *[ffmpeg_binary(), "-nostdin", "-v", "error", "-threads", "1", *safety],
            *["-ss", f"{max(0.0, clip.start):.3f}", "-t", f"{seconds:.3f}", "-i", filename],
            *["-map", "0:v:0?", "-map", "0:a:0?", "-vf", "scale=-2:min(ih\\,240),format=yuv420p"],
            *["-r", "24", "-c:v", "libx264", "-preset", "ultrafast", "-threads", "1"],
            *["-c:a", "aac", "-ac", "1", "-b:a", "64k", "-movflags", "+faststart", str(target)],
        ]
        with child(command, log, max_memory_mb=CUT_MEMORY_MB) as process:
            if wait(process, CUT_DEADLINE) == 0:
                return target.read_bytes()
    return b""


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """[first, last) of a Range header; None for all of it, without one or with one of several
    parts, which may be ignored. Not satisfiable where first is not below last (RFC 9110, 14).
    """
    unit, _, spec = (header or "").partition("=")
    first, dash, last = spec.strip().partition("-")
    digits = [part for part in (first, last) if part]
    if unit.strip() != "bytes" or not dash or not digits:
        return None
    if not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in digits):
        return None
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def _local_file(uri: str) -> str | None:
    protocol, path = split_protocol(uri)
    # of os.path, not of Path: a name that is too long, or a folder that is closed to us, is no file
    if protocol not in (None, "file", "local") or not os.path.isfile(path):
        return None
    return str(path)
