""".npy and .npz of others, without pickle."""

import io
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import Reason, VideoError
from pipeline import storage
from pipeline.formats.layout import broken

DAMAGE = (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error)
"""What damaged files make numpy and zipfile raise."""


def npy_bytes(array: NDArray[Any]) -> bytes:
    """A .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array) if array.ndim else array, allow_pickle=False)
    return buffer.getvalue()


def npz_bytes(key: str, array: NDArray[Any]) -> bytes:
    """A .npz file that holds one array; the same array gives the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # its entries are of 1980: no clock
        archive.writestr(zipfile.ZipInfo(f"{key}.npy"), npy_bytes(array))
    return buffer.getvalue()


def read_npy(url: str) -> NDArray[Any]:
    """The array of a .npy file. Raises VideoError: missing, damaged or pickled."""
    return _read(url, None)


def read_npz(url: str, key: str) -> NDArray[Any]:
    """One array of a .npz file. Raises VideoError: missing, damaged, pickled or without it."""
    return _read(url, key)


def _read(url: str, key: str | None) -> NDArray[Any]:
    try:
        content = io.BytesIO(storage.read_bytes(url))
        loaded: Any = np.load(content, allow_pickle=False)
        if key is None:
            if isinstance(loaded, np.ndarray):
                return loaded
            raise broken(f"{url}: is a .npz, a .npy is wanted")
        if isinstance(loaded, np.ndarray) or key not in loaded.files:
            there = "a .npy" if isinstance(loaded, np.ndarray) else ", ".join(loaded.files)
            raise broken(f"{url}: needs an array {key!r}, it is or has {there}")
        array: NDArray[Any] = loaded[key]
    except FileNotFoundError as err:
        raise VideoError(Reason.NOT_FOUND, "import", f"{url}: no such file") from err
    except DAMAGE as err:
        raise broken(f"{url}: cannot be read as an array: {err}") from err
    return array
