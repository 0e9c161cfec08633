"""Whether a clip's id comes twice among all parts of an import.

N clips.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from extractors.errors import AbortError
from index.embedding_shards import BATCH_ROWS, embedding_url
from index.formats.sources import SourcePart
from pipeline import storage


class SeenIds:
    """Whether an id comes twice, by eight bytes of its digest, so that any number fits."""

    def __init__(self) -> None:
        self._digests: list[NDArray[np.uint64]] = []
        self._parts: list[tuple[str, int, str]] = []

    def add(self, output: str, number: int, part: SourcePart) -> None:
        """The ids of a part that is published."""
        digests = [digests_of(ids) for ids in _ids(output, number)]
        self._digests.append(np.concatenate(digests))
        self._parts.append((output, number, part.table or part.files[0]))

    def check_unique(self) -> None:
        """Raises AbortError, naming the file, the row and the id."""
        every = np.concatenate(self._digests)
        order = np.argsort(every, kind="stable")
        twice = order[1:][every[order][1:] == every[order][:-1]]
        if len(twice):
            row = int(twice.min())
            sizes = np.cumsum([len(digests) for digests in self._digests])
            place = int(np.searchsorted(sizes, row, side="right"))
            output, number, url = self._parts[place]
            row -= int(sizes[place - 1]) if place else 0
            name = pa.concat_arrays(list(_ids(output, number)))[row].as_py()
            raise AbortError(f"{url}: row {row} is the clip {name}, which is there already: give "
                             "clips a key (--column NAME=key) or times that differ")  # fmt: skip


def _ids(output: str, number: int) -> Iterator[pa.Array]:
    with (
        storage.open_binary(embedding_url(output, number, ".parquet")) as file,
        pq.ParquetFile(file) as stored,
    ):
        for batch in stored.iter_batches(BATCH_ROWS, columns=["id"]):
            yield batch.column("id")


def digests_of(ids: pa.Array) -> NDArray[np.uint64]:
    """Eight bytes of each."""
    digests = [hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids.to_pylist()]
    return np.frombuffer(b"".join(digests), np.uint64)
