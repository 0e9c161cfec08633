"""Publishing an index that is built or has grown: its files all at once, the card last.

N vectors, D dimension.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from index.card import CARD_NAME, NO_MODEL, Block, IndexCard, card_bytes
from index.config import IndexConfig
from index.embedding_shards import MODALITIES, EmbeddingRecord
from index.factory import Choice
from index.held_out import Measured, headline, measure
from index.reconstruction import reconstruction_error
from index.search import IDS_NAME, INDEX_NAME, MASK_NAME
from index.search_parameters import apply_parameters, tunable_values
from index.stored_vectors import write_ids
from index.truth import extended_truth, new_truth
from index.vectors import write_faiss
from pipeline import storage
from pipeline.settings import dump_settings
from pipeline.shards import sha256_of
from training.checkpoints import code_version
from training.provenance import dataset_digest

logger = logging.getLogger(__name__)

CONFIG_NAME = "config.yaml"


@dataclass(frozen=True)
class Origin:
    """Where the vectors of an index come from."""

    dataset: str
    run: str
    imported: str | None = None
    """Their format, where no model of ours made them."""


@dataclass(frozen=True)
class BuiltIndex:
    """What is about to be published."""

    index: faiss.Index
    choice: Choice
    blocks: tuple[Block, ...]
    kept_ids: pa.Table | None
    """Rows of ids.parquet that are carried over."""
    new_blocks: tuple[Block, ...]
    """The blocks whose rows follow them."""
    began: float
    """time.perf_counter() at the start."""
    seconds_before: float = 0.0
    """Of an index that has grown, what it had taken until then."""
    search_parameters: Mapping[str, int] | None = None
    """Likewise, those that it had."""

    @property
    def live(self) -> NDArray[np.bool_] | None:
        """The mask: None where nothing is masked."""
        if not any(block.masked for block in self.blocks):
            return None
        return np.repeat([not b.masked for b in self.blocks], [b.count for b in self.blocks])


@dataclass(frozen=True)
class _Files:
    """What the card says of the files."""

    index_sha256: str
    index_bytes: int
    ids_sha256: str
    table_bytes: int
    """Of the ids, as a search holds them."""
    mask_sha256: str | None


def publish_built(
    output: str,
    config: IndexConfig,
    built: BuiltIndex,
    records: Sequence[EmbeddingRecord],
    origin: Origin,
) -> IndexCard:
    """Tunes and measures, then publishes knn.index, ids.parquet, mask.npy, config.yaml and the
    card, in this order.

    All are written whole before the first is published, so whatever ends the work until then
    leaves an index that was there as it was. What remains: a process killed between the first and
    the last, some renames on a disk, some puts elsewhere, leaves files that are not the card's,
    and the index is refused until it is built again.
    """
    measured = _measured(output, config, built)
    error = reconstruction_error(built.index, output, built.blocks, config.metric)
    names = [INDEX_NAME, IDS_NAME, MASK_NAME, CONFIG_NAME, CARD_NAME]
    if built.live is None:
        names.remove(MASK_NAME)
    with _publishing_all(output, names) as paths:
        files = _write_files(paths, output, built)
        paths[CONFIG_NAME].write_text(dump_settings(config), encoding="utf-8")
        card = _card(config, built, measured, files, records, origin, error)
        paths[CARD_NAME].write_bytes(card_bytes(card))
    if built.live is None:
        storage.remove(storage.join(output, MASK_NAME))
    return card


@contextmanager
def _publishing_all(folder: str, names: Sequence[str]) -> Iterator[dict[str, Path]]:
    """Temporary paths by name; on a clean exit all are published, in the order of the names."""
    with ExitStack() as stack:  # which ends what it entered last first
        paths = {
            name: stack.enter_context(storage.publishing(storage.join(folder, name)))
            for name in reversed(names)
        }
        yield paths
        for path in paths.values():  # here, so that little is left to do between the renames
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _write_files(paths: Mapping[str, Path], output: str, built: BuiltIndex) -> _Files:
    index, ids, mask = (paths.get(name) for name in (INDEX_NAME, IDS_NAME, MASK_NAME))
    assert index is not None
    assert ids is not None
    _write_index(built.index, index)
    table_bytes = write_ids(ids, output, built.kept_ids, built.new_blocks)
    if mask is not None and built.live is not None:
        with mask.open("wb") as file:
            np.save(file, built.live, allow_pickle=False)
    return _Files(
        index_sha256=sha256_of(index),
        index_bytes=index.stat().st_size,
        ids_sha256=sha256_of(ids),
        table_bytes=table_bytes,
        mask_sha256=None if mask is None else sha256_of(mask),
    )


def _write_index(index: faiss.Index, path: Path) -> None:
    """FAISS writes nprobe and efSearch too. Those that tuning left depend on the clock, so the
    file has the least; opening the index sets the card's."""
    for parameters in tunable_values(index)[:1]:
        apply_parameters(index, parameters)
    write_faiss(index, path)


def _measured(output: str, config: IndexConfig, built: BuiltIndex) -> Measured:
    """Figures on held-out queries from the vectors that may be found."""
    truth = new_truth if built.kept_ids is None else extended_truth
    held_out = truth(output, config, built.blocks)
    measured = measure(built.index, held_out, config, built.live, known=built.search_parameters)
    if missed := headline(measured.recall, config.recall_target):
        logger.warning("%s: %s", output, missed)
    return measured


def _card(
    config: IndexConfig,
    built: BuiltIndex,
    measured: Measured,
    files: _Files,
    records: Sequence[EmbeddingRecord],
    origin: Origin,
    error: float | None,
) -> IndexCard:
    index, live_N = built.index, built.live
    mask_bytes = 0 if live_N is None else live_N.nbytes
    return IndexCard(
        factory=built.choice.factory,
        asked_factory=config.factory,
        reason=built.choice.reason,
        candidates=built.choice.candidates,
        metric=config.metric,
        normalisation="l2" if config.metric == "cosine" else "none",
        dimension=index.d,
        count=index.ntotal,
        masked=0 if live_N is None else int((~live_N).sum()),
        blocks=built.blocks,
        target_modalities=config.targets,
        size_bytes=files.index_bytes,
        memory_bytes=files.index_bytes + files.table_bytes + mask_bytes,
        compression_ratio=round(4 * index.d * index.ntotal / files.index_bytes, 4),
        search_parameters=measured.search_parameters,
        recall=measured.recall,
        search_ms=measured.mean_ms,
        p99_ms=measured.single_ms.p99,
        single_ms=measured.single_ms,
        batch_ms=measured.batch_ms,
        build_seconds=round(built.seconds_before + time.perf_counter() - built.began, 3),
        dataset=storage.absolute(origin.dataset),
        dataset_digest=dataset_digest([record.tar_sha256 for record in records]),
        model=storage.absolute(origin.run) if origin.imported is None else NO_MODEL,
        model_digest=records[0].model_digest,
        videos=sum(record.videos for record in records),
        clips=sum(record.clips for record in records),
        embeddings={name: sum(r.present[name] for r in records) for name in MODALITIES},
        index_sha256=files.index_sha256,
        ids_sha256=files.ids_sha256,
        mask_sha256=files.mask_sha256,
        code_version=code_version(),
        faiss_version=faiss.__version__,
        imported=origin.imported,
        reconstruction_error=error,
    )
