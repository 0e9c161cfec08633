"""The rows of one track of one video while they come: on disk as soon as they are many."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from extractors.errors import AbortError

IN_MEMORY = 2**24
BLOCK_BYTES = 2**22
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class SpooledRows:
    """Rows (T, D) in float32, in order: appended, then read in blocks as often as one likes.

    More than 16 MiB lie in a temporary file, so that a video of any length takes as much memory.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 `close`
        self._count = self._width = 0

    def append(self, rows: NDArray[np.float32]) -> None:
        """Adds rows (n, D). Raises ValueError for another shape than the others have, AbortError
        where the temporary folder is full."""
        if rows.ndim != 2 or (self._count and rows.shape[1] != self._width):
            expected = f"(n, {self._width})" if self._count else "(n, D)"
            raise ValueError(f"rows are {expected}, got {rows.shape}")
        self._count += len(rows)
        self._width = rows.shape[1]
        try:
            self._file.seek(0, os.SEEK_END)
            self._file.write(np.ascontiguousarray(rows, np.float32).data)
        except OSError as err:
            if err.errno not in FULL:
                raise
            raise AbortError(
                f"{tempfile.gettempdir()}: {err.strerror}, where the rows of a long video wait; "
                "free some, or point TMPDIR at a larger disk"
            ) from err

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Blocks (n, D) of at most 4 MiB or one row, read-only."""
        row_bytes = 4 * self._width
        size = max(1, BLOCK_BYTES // max(1, row_bytes))
        for first in range(0, self._count, size):
            self._file.seek(first * row_bytes)
            content = self._file.read(min(size, self._count - first) * row_bytes)
            yield np.frombuffer(content, np.float32).reshape(-1, self._width)

    def close(self) -> None:
        """Frees memory and file."""
        with contextlib.suppress(OSError):  # what could not be written is not wanted either
            self._file.close()
