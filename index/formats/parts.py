"""A part of a source to a parquet of embeddings/, a batch at a time, its record last.

N clips, D dimension.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from extractors.errors import UsageError
from index.embedding_shards import (
    BATCH_ROWS,
    FORMAT_VERSION,
    MODALITIES,
    SUM,
    EmbeddingRecord,
    clip_table,
    embedding_url,
    is_whole,
    read_record,
    vector_name,
)
from index.formats.clip_facts import Naming, clip_rows
from index.formats.seen_ids import digests_of
from index.formats.sources import Rows, SourcePart, read_part
from pipeline import storage
from pipeline.shards import sha256_of


@dataclass(frozen=True)
class Reading:
    """How every part of a source is read."""

    dimension: int
    targets: Sequence[str]
    """The modalities whose vectors are summed."""
    columns: Mapping[str, str]
    """Column to what it says of a clip."""
    model_digest: str
    settings: Mapping[str, Any]
    """What else decides the embeddings, for their records."""


def current_part(
    output: str, number: int, part: SourcePart, reading: Reading
) -> tuple[EmbeddingRecord, bool]:
    """The record of a part's embeddings, and whether they were there and current already."""
    digest = _files_digest(part)
    record = read_record(output, number)
    if record is not None and _is_current(output, record, digest, reading):
        return record, True
    return _publish(output, number, part, reading, digest), False


def _publish(
    output: str, number: int, part: SourcePart, reading: Reading, digest: str
) -> EmbeddingRecord:
    with storage.publishing(embedding_url(output, number, ".parquet")) as temporary:
        naming = Naming(part.files[-1], number, reading.columns)
        counted = _write(temporary, _tables(part, reading, naming))
        if not counted.clips:
            raise UsageError(f"{part.files[0]}: has no rows; remove it")
        parquet_sha256 = sha256_of(temporary)
    record = EmbeddingRecord(
        number=number,
        videos=len(np.unique(np.concatenate(counted.keys))),
        clips=counted.clips,
        present=counted.present,
        dimension=reading.dimension,
        parquet_sha256=parquet_sha256,
        tar_sha256=digest,
        model_digest=reading.model_digest,
        settings=dict(reading.settings),
    )
    content = {"format_version": FORMAT_VERSION} | dataclasses.asdict(record)
    storage.publish_json(embedding_url(output, number, "_stats.json"), content)
    return record


def _tables(part: SourcePart, reading: Reading, naming: Naming) -> Iterator[pa.Table]:
    """Batches as `index.embedding_shards.clip_table` makes them."""
    first = 0
    for rows in read_part(part, reading.dimension):
        clips = clip_rows(rows.facts, naming, first)
        vectors, present = _complete(rows, len(clips), reading.dimension)
        yield clip_table(clips, vectors, present, reading.targets)
        first += len(clips)


def _complete(
    rows: Rows, count: int, dimension: int
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.bool_]]]:
    """With the modalities that the source has not, absent everywhere."""
    nothing_ND, nobody_N = np.zeros((count, dimension), np.float32), np.zeros(count, bool)
    vectors = {name: rows.vectors_ND.get(name, nothing_ND) for name in MODALITIES}
    return vectors, {name: rows.present_N.get(name, nobody_N) for name in MODALITIES}


@dataclass
class _Counted:
    clips: int
    present: dict[str, int]
    keys: list[NDArray[np.uint64]]
    """Digests of the videos' keys."""


def _write(path: Path, tables: Iterator[pa.Table]) -> _Counted:
    """The batches as row groups."""
    counted = _Counted(0, dict.fromkeys((*MODALITIES, SUM), 0), [])
    writer = None
    try:
        for table in tables:
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table, row_group_size=BATCH_ROWS)
            counted.clips += table.num_rows
            for name in counted.present:
                absent = table.column(vector_name(name)).null_count
                counted.present[name] += table.num_rows - absent
            counted.keys.append(digests_of(table.column("key").unique()))
    finally:
        if writer is not None:
            writer.close()
    return counted


def _files_digest(part: SourcePart) -> str:
    """sha256 over those of a part's files and the modalities they are taken for."""
    taken = repr((sorted(part.arrays), sorted(part.columns.items())))
    digest = hashlib.sha256(taken.encode())
    for url in part.files:
        digest.update(storage.sha256(url).encode())
    return digest.hexdigest()


def _is_current(output: str, record: EmbeddingRecord, digest: str, reading: Reading) -> bool:
    """Whether the parquet would be the same, and holds the bytes that its record says."""
    current = record.is_of(digest, reading.model_digest, reading.settings)
    return current and is_whole(output, record)
