"""Parts of an index: one a block, added by tasks that share nothing but storage, then merged.

partial/DIGEST/trained.index    what training gave, for every task to start from
partial/DIGEST/000000.index     the vectors of one block

DIGEST is that of the trained index and of the block's embeddings, so that a build that was stopped
goes on with the parts that are whole, and no other build takes them.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from index.card import Block
from index.config import Metric
from index.construct import add_vectors, list_lengths, merge_part, reserve_lists
from index.leftovers import remove_parts
from index.lists_on_disk import merge_on_disk
from index.run_local import Setup
from index.stored_vectors import block_vectors
from index.vectors import read_faiss, write_faiss
from pipeline import storage
from pipeline.shards import shard_name

TRAINED_NAME = "trained.index"


@dataclass(frozen=True)
class PartSetup:
    """Reads the trained index in a worker; calling it gives the work on one block."""

    index: str
    folder: str
    metric: Metric

    def __call__(self) -> Callable[[Block], Block]:
        """Reads the trained index."""
        trained = read_faiss(storage.join(self.folder, TRAINED_NAME), mapped=False)

        def work(block: Block) -> Block:
            vectors = block_vectors(self.index, block, self.metric)
            part = add_vectors(faiss.clone_index(trained), vectors)
            with storage.publishing(_part_url(self.folder, block)) as temporary:
                write_faiss(part, temporary)
            return block

        return work


def merge_parts(
    trained: faiss.Index,
    index: str,
    blocks: Sequence[Block],
    metric: Metric,
    execute: Callable[[Setup[Any, Any], Sequence[Any]], Iterator[Any]],
    *,
    on_disk: bool = False,
) -> faiss.Index:
    """Adds every block to a part of its own by `execute`, and merges the parts in order of the
    ids; the parts are removed.

    With `on_disk` (`index.lists_on_disk`) the whole is never in memory: what is returned is mapped
    from a file without a name, whose space is free again when the index is dropped.
    """
    content = faiss.serialize_index(trained)
    folder = storage.join(index, "partial", _digest(content, blocks))
    storage.publish_bytes(storage.join(folder, TRAINED_NAME), content.tobytes())
    todo = [block for block in blocks if not storage.exists(_part_url(folder, block))]
    for _ in execute(PartSetup(index, folder, metric), todo):
        pass
    whole = read_faiss(storage.join(folder, TRAINED_NAME), mapped=False)  # of the parts' very type
    urls = [_part_url(folder, block) for block in blocks]
    whole = _merged_on_disk(whole, urls) if on_disk else _merged(whole, urls)
    remove_parts(index)
    return whole


def _merged(whole: faiss.Index, urls: Sequence[str]) -> faiss.Index:
    lengths = [list_lengths(read_faiss(url)) for url in urls]
    if known := [of_part for of_part in lengths if of_part is not None]:
        reserve_lists(whole, np.sum(known, axis=0))
    for url in urls:
        merge_part(whole, read_faiss(url, mapped=False))
    return whole


def _merged_on_disk(trained: faiss.Index, urls: Sequence[str]) -> faiss.Index:
    """Beside the parts where they are on a local disk, else where temporary files lie."""
    first = storage.local_path(urls[0])
    with tempfile.NamedTemporaryFile(dir=first and first.parent, suffix=".index") as file:
        merge_on_disk(Path(file.name), trained, [partial(read_faiss, url) for url in urls])
        return read_faiss(file.name)


def _part_url(folder: str, block: Block) -> str:
    return storage.join(folder, f"{shard_name(block.shard)}.index")


def _digest(content: np.ndarray[Any, Any], blocks: Sequence[Block]) -> str:
    digest = hashlib.sha256(content.tobytes())
    for block in blocks:
        digest.update(block.parquet_sha256.encode())
    return digest.hexdigest()[:16]
