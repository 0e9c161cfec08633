"""Joining the parts of an index on disk, where the whole would not fit into memory.

FAISS's own way (faiss.contrib.ondisk) leaves the lists in a second file, known by its absolute
path. Here the one file is written that FAISS would write of the index in memory, to the same bytes,
list by list at the place where each belongs: searching maps it.

N vectors, L lists, P parts.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np
import psutil
from faiss.contrib.inspect_tools import get_invlist
from numpy.typing import NDArray

from index.construct import list_lengths

ARRAYS = b"ilar"
"""What FAISS calls lists that are plain arrays."""
ID_BYTES = 8

OpenPart = Callable[[], faiss.Index]


def can_merge_on_disk(trained: faiss.Index) -> bool:
    """Whether an index without vectors ends, as a file, with lists that are plain arrays."""
    return _before_lists(trained) is not None


def exceeds_memory(trained: faiss.Index, count: int, memory: int | None) -> bool:
    """Whether the lists of so many vectors take more than `memory` bytes; None stands for half of
    what this machine has free. False where they cannot be joined on disk."""
    limit = psutil.virtual_memory().available // 2 if memory is None else memory
    lists = faiss.try_extract_index_ivf(trained)
    large = lists is not None and count * (lists.code_size + ID_BYTES) > limit
    return large and can_merge_on_disk(trained)


def merge_on_disk(path: Path, trained: faiss.Index, parts: Sequence[OpenPart]) -> None:
    """Writes to `path` what `faiss.write_index` would write of all parts merged into `trained`,
    which has no vectors: one part is open at a time, and ids go on from one to the next.

    Raises ValueError where `can_merge_on_disk` says no.
    """
    lengths_PL = [_lengths(part()) for part in parts]
    lengths_L = np.sum(lengths_PL, axis=0)
    code_size = faiss.extract_index_ivf(trained).code_size
    head = _head(trained, lengths_L)
    sizes_L = lengths_L * (code_size + ID_BYTES)
    places_L = len(head) + np.cumsum(sizes_L) - sizes_L
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + int(sizes_L.sum()))
    content = np.memmap(path, np.uint8, "r+")
    codes_L, ids_L = places_L, places_L + lengths_L * code_size
    first = 0
    for part, part_L in zip(parts, lengths_PL, strict=True):
        _copy_lists(content, part(), codes_L, ids_L, first)
        codes_L, ids_L = codes_L + part_L * code_size, ids_L + part_L * ID_BYTES
        first += int(part_L.sum())
    content.flush()


def _copy_lists(
    content: NDArray[np.uint8],
    part: faiss.Index,
    codes_L: NDArray[np.int64],
    ids_L: NDArray[np.int64],
    first: int,
) -> None:
    """Puts a part's codes and ids where they belong, ids shifted by `first`."""
    lists = faiss.extract_index_ivf(part).invlists
    for number in np.flatnonzero(_lengths(part)).tolist():
        ids_N, codes_NB = get_invlist(lists, number)
        for place, rows in ((codes_L[number], codes_NB), (ids_L[number], ids_N + first)):
            content[place : place + rows.nbytes] = rows.reshape(-1).view(np.uint8)


def _head(trained: faiss.Index, lengths_L: NDArray[np.int64]) -> bytes:
    """What precedes the codes: the index, then how long each list is (all, or those that are not
    empty where these are at most half)."""
    whole = faiss.clone_index(trained)
    lists = faiss.extract_index_ivf(whole)
    whole.ntotal = lists.ntotal = int(lengths_L.sum())
    before = _before_lists(whole)
    if before is None:
        raise ValueError("lists that are not plain arrays cannot be joined on disk")
    used_L = np.flatnonzero(lengths_L)
    full = len(used_L) > lists.nlist // 2
    sizes = lengths_L if full else np.stack([used_L, lengths_L[used_L]], axis=1).ravel()
    about = np.array([lists.nlist, lists.code_size], "<u8").tobytes()
    counted = np.array([len(sizes), *sizes], "<u8").tobytes()
    return before + ARRAYS + about + (b"full" if full else b"sprs") + counted


def _before_lists(empty: faiss.Index) -> bytes | None:
    """The file of an index whose lists are empty, up to its lists; None where they are not what it
    ends with, as plain arrays."""
    lists = faiss.try_extract_index_ivf(empty)
    if lists is None:
        return None
    about = np.array([lists.nlist, lists.code_size], "<u8").tobytes()
    no_lists = ARRAYS + about + b"sprs" + bytes(8)
    content: bytes = faiss.serialize_index(empty).tobytes()
    return content.removesuffix(no_lists) if content.endswith(no_lists) else None


def _lengths(index: faiss.Index) -> NDArray[np.int64]:
    lengths_L = list_lengths(index)
    assert lengths_L is not None, "a part has the lists of what it was cloned from"
    return lengths_L
