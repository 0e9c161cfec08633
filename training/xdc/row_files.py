"""(N, D) float32 rows written to .npy one block after the other, and read so.

Not through a memory map of the whole file: its pages would count as this process's memory.
Shapes: N rows in all, B of a block, D columns.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


@contextmanager
def writing_rows(path: Path, count: int, dim: int) -> Iterator[Callable[[Float32], None]]:
    """A function that takes (B, D) blocks until `count` rows are there.

    Raises ValueError, at the end, where they were more or fewer.
    """
    written = 0
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, dim)}
        np.lib.format.write_array_header_1_0(file, header)

        def write(rows_BD: Float32) -> None:
            nonlocal written
            file.write(np.ascontiguousarray(rows_BD, "<f4").tobytes())
            written += len(rows_BD)

        yield write
    if written != count:
        raise ValueError(f"{path}: {written} rows were written, {count} were announced")


def read_rows_at(path: Path, index_B: NDArray[np.integer]) -> Float32:
    """The rows of these numbers, as a copy. The file is mapped for this call alone."""
    stored = np.load(path, mmap_mode="r", allow_pickle=False)
    rows_BD: Float32 = np.array(stored[index_B], np.float32)
    return rows_BD


def row_width(path: Path) -> int:
    """D."""
    return int(np.load(path, mmap_mode="r", allow_pickle=False).shape[1])
