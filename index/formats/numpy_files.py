"""Vectors as clip-retrieval keeps them: folders of numbered .npy, read from first row to last.

N rows, D dimension.
"""

import os
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import AbortError, UsageError
from index.formats.layouts import METADATA, in_order
from pipeline import storage

USUAL_FOLDERS = ({"video_emb": "video", "audio_emb": "audio"}, {"img_emb": "video"})
"""Ours where they are there, else clip-retrieval's, whose pictures are our video."""


def choose_folders(source: str, vectors: Mapping[str, str]) -> dict[str, str]:
    """Folder to modality: as named, else the usual ones. Raises UsageError where one is missing."""
    there = set(storage.names(source))
    folders = dict(vectors) or _usual_folders(there)
    missing = sorted(set(folders) - there)
    if missing or not folders:
        raise UsageError(
            f"{source}: no folder {missing[0] if missing else 'img_emb or text_emb'}; it holds "
            f"{', '.join(sorted(there)) or 'nothing'}; --vectors FOLDER=MODALITY names others"
        )
    return folders


def numbered_files(source: str, folders: Mapping[str, str]) -> list[dict[str, str]]:
    """Folder to URL, a part each, in the order of their numbers; with `metadata` if it is there.

    Raises UsageError where a number is missing in a folder.
    """
    found = {name: _numbered(source, name, ".npy") for name in folders}
    if METADATA in storage.names(source):
        found[METADATA] = _numbered(source, METADATA, ".parquet")
    numbers = _same_numbers(source, found)
    return [{name: urls[number] for name, urls in found.items()} for number in numbers]


def _usual_folders(there: set[str]) -> dict[str, str]:
    pictures = next((usual for usual in USUAL_FOLDERS if there & set(usual)), {})
    return {name: kind for name, kind in (pictures | {"text_emb": "text"}).items() if name in there}


def _numbered(source: str, folder: str, suffix: str) -> dict[str, str]:
    """`NAME_007.npy` by its number, `7`."""
    found = {}
    for name in in_order(storage.names(storage.join(source, folder))):
        number = name.removesuffix(suffix).rpartition("_")[2]
        if name.endswith(suffix) and not name.startswith(".") and number.isdigit():
            found[str(int(number))] = storage.join(source, folder, name)
    return found


def _same_numbers(source: str, found: Mapping[str, Mapping[str, str]]) -> list[str]:
    first, *others = found
    for other in others:
        for one, two in ((first, other), (other, first)):
            alone = [url for number, url in found[one].items() if number not in found[two]]
            if alone:
                raise UsageError(f"{alone[0]}: {source}/{two} has no file of that number")
    if not found[first]:
        raise UsageError(f"{source}/{first}: no files {first}_0.npy there")
    return sorted(found[first], key=int)


class NpyFile:
    """A .npy that is read from its first row to its last."""

    def __init__(self, url: str, file: IO[bytes]) -> None:
        self._url, self._file = url, file
        self.rows, self._width, self._dtype = npy_shape(url, file)

    def read(self, rows: int) -> NDArray[np.float32]:
        """The next rows, in float32."""
        wanted = rows * self._width * self._dtype.itemsize
        content = self._file.read(wanted)
        if len(content) < wanted:
            raise AbortError(f"{self._url}: ends before its {self.rows} rows: cut short?")
        return np.frombuffer(content, self._dtype).reshape(rows, -1).astype(np.float32)


def npy_shape(url: str, file: IO[bytes]) -> tuple[int, int, np.dtype[Any]]:
    """Rows, width and type of a .npy, the file at its first row. Raises UsageError for anything
    but a matrix of floats that is whole."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else \
            np.lib.format.read_array_header_2_0  # fmt: skip
        shape, fortran, dtype = read(file)
    except ValueError as err:
        raise UsageError(f"{url}: not a .npy: {' '.join(str(err).split())}") from err
    if len(shape) != 2 or dtype.kind != "f" or fortran:
        order = ", columns first" if fortran else ""
        raise UsageError(f"{url}: {dtype} {shape}{order}: float rows, (clips, dimension), wanted")
    start = file.tell()
    size = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    expected = shape[0] * shape[1] * dtype.itemsize
    if size != expected:
        raise AbortError(f"{url}: {size} bytes of rows, its header says {expected}: cut short?")
    return shape[0], shape[1], dtype
