"""The embeddings of clips on disk: one parquet a feature shard, its record published last.

embeddings/000000.parquet        one row a clip
embeddings/000000_stats.json     the record: without it there are no embeddings of that shard
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter

from extractors.errors import AbortError
from pipeline import storage
from pipeline.shards import sha256_of, shard_name

FORMAT_VERSION = 2
MODALITIES = ("video", "audio", "text")
SUM = "sum"
BATCH_ROWS = 16_384
"""Rows that are read, and row groups that are written, at a time: 16 MB at 256 dimensions."""

CLIP_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # KEY@start-end
        ("key", pa.string()),
        ("uri", pa.string()),
        ("start", pa.float64()),  # seconds
        ("end", pa.float64()),
        ("text", pa.string()),  # what is said in the clip, null where nothing is
        ("label", pa.string()),
        ("split", pa.string()),
        ("language", pa.string()),  # of what is said, null where nothing is or nobody knows
    ]
)


@dataclass(frozen=True)
class ClipRow:
    """Which clip an embedding is of."""

    key: str
    uri: str
    start: float
    end: float
    text: str | None = None
    label: str | None = None
    split: str | None = None
    language: str | None = None

    @property
    def id(self) -> str:
        """`KEY@start-end`, in seconds with 3 decimals."""
        return f"{self.key}@{self.start:.3f}-{self.end:.3f}"


@dataclass(frozen=True)
class EmbeddingRecord:
    """What `*_stats.json` says of the embeddings of one feature shard."""

    number: int
    videos: int
    clips: int
    present: dict[str, int]
    """Clips that have an embedding, by column: video, audio, text, sum."""
    dimension: int
    parquet_sha256: str
    tar_sha256: str
    """The feature shard they were made from."""
    model_digest: str
    """Digest of the model that made them."""
    settings: dict[str, Any]
    """The settings that decide their numbers: targets, window."""

    def is_of(self, tar_sha256: str, model_digest: str, settings: Mapping[str, Any]) -> bool:
        """Whether embeddings made now, from these, would be the same."""
        made_from = (self.tar_sha256, self.model_digest, self.settings)
        return made_from == (tar_sha256, model_digest, dict(settings))


def embedding_url(index: str, number: int, suffix: str) -> str:
    """The URL of a file of embeddings; suffix '.parquet' or '_stats.json'."""
    return storage.join(index, "embeddings", shard_name(number) + suffix)


def embedding_numbers(index: str) -> list[int]:
    """Numbers of the feature shards whose embeddings are published, sorted."""
    suffix = "_stats.json"
    return [
        int(name.removesuffix(suffix))
        for name in storage.names(storage.join(index, "embeddings"))
        if name.endswith(suffix) and name.removesuffix(suffix).isdigit()
    ]


def read_record(index: str, number: int) -> EmbeddingRecord | None:
    """The record of a shard's embeddings; None where there is none or another format wrote it."""
    try:
        content = storage.read_json(embedding_url(index, number, "_stats.json"))
        if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
            return None
        return TypeAdapter(EmbeddingRecord).validate_python(content)
    except (FileNotFoundError, ValueError):  # absent, not JSON, or without a field
        return None


def vector_name(modality: str) -> str:
    """The column of a modality's embeddings, or of their sum (`text` alone is the transcript)."""
    return f"{modality}_embedding"


def clip_table(
    clips: Sequence[ClipRow],
    embeddings_ND: Mapping[str, NDArray[np.float32]],
    present_N: Mapping[str, NDArray[np.bool_]],
    targets: Sequence[str],
) -> pa.Table:
    """One row a clip: what it is, `video_embedding`, `audio_embedding`, `text_embedding`, and
    `sum_embedding`, the sum over `targets`.

    `embeddings_ND` and `present_N` are by modality; an embedding is null where its modality is
    not present, the sum where none of `targets` is. Raises AbortError where a present embedding
    is not finite.
    """
    columns = {name: [getattr(clip, name) for clip in clips] for name in CLIP_SCHEMA.names}
    table = pa.table(columns, schema=CLIP_SCHEMA)
    for name in MODALITIES:
        _check_finite(name, clips, embeddings_ND[name], present_N[name])
        column = _vector_column(embeddings_ND[name], present_N[name])
        table = table.append_column(vector_name(name), column)
    sum_ND, any_N = sum_of_present(embeddings_ND, present_N, targets)
    return table.append_column(vector_name(SUM), _vector_column(sum_ND, any_N))


def sum_of_present(
    embeddings_ND: Mapping[str, NDArray[np.float32]],
    present_N: Mapping[str, NDArray[np.bool_]],
    targets: Sequence[str],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The sum of the present embeddings of `targets`, and which rows have any.

    T·(V+A) = T·V + T·A, so a query scores a clip by the sum of its likeness to each modality
    (MCN, section 4; unweighted).
    """
    terms = [np.where(present_N[name][:, None], embeddings_ND[name], 0) for name in targets]
    any_N = np.any([present_N[name] for name in targets], axis=0)
    return np.sum(terms, axis=0, dtype=np.float32), any_N


def publish_embeddings(
    index: str,
    number: int,
    table: pa.Table,
    *,
    tar_sha256: str,
    model_digest: str,
    settings: Mapping[str, Any],
) -> EmbeddingRecord:
    """Publishes a table of `clip_table`, then its record. Equal tables give equal bytes."""
    with storage.publishing(embedding_url(index, number, ".parquet")) as temporary:
        _write_table(table, temporary)
        parquet_sha256 = sha256_of(temporary)
    absent = {n: table.column(vector_name(n)).null_count for n in (*MODALITIES, SUM)}
    record = EmbeddingRecord(
        number=number,
        videos=len(table.column("key").unique()),
        clips=table.num_rows,
        present={name: table.num_rows - count for name, count in absent.items()},
        dimension=table.schema.field(vector_name(SUM)).type.list_size,
        parquet_sha256=parquet_sha256,
        tar_sha256=tar_sha256,
        model_digest=model_digest,
        settings=dict(settings),
    )
    content = {"format_version": FORMAT_VERSION} | dataclasses.asdict(record)
    storage.publish_json(embedding_url(index, number, "_stats.json"), content)
    return record


def _write_table(table: pa.Table, path: Path) -> None:
    """Numbers byte by byte of their kind, in LZ4: smaller than as they are in Zstandard, and read
    in half of the time. A dictionary of vectors would be given up after a megabyte of work."""
    vectors = [f"{vector_name(name)}.list.element" for name in (*MODALITIES, SUM)]
    pq.write_table(
        table,
        path,
        row_group_size=BATCH_ROWS,
        compression=dict.fromkeys(CLIP_SCHEMA.names, "zstd") | dict.fromkeys(vectors, "lz4"),
        use_dictionary=CLIP_SCHEMA.names,
        column_encoding=dict.fromkeys(vectors, "BYTE_STREAM_SPLIT"),
    )


def is_whole(index: str, record: EmbeddingRecord) -> bool:
    """Whether the parquet is there and holds the bytes that its record says."""
    try:
        found = storage.sha256(embedding_url(index, record.number, ".parquet"))
    except FileNotFoundError:
        return False
    return found == record.parquet_sha256


def read_embeddings(index: str, number: int, columns: Sequence[str] | None = None) -> pa.Table:
    """The table of one feature shard's clips; all columns by default."""
    content = storage.read_bytes(embedding_url(index, number, ".parquet"))
    return pq.read_table(pa.BufferReader(content), columns=columns and list(columns))


def embedding_batches(
    index: str, number: int, columns: Sequence[str], rows: int = BATCH_ROWS
) -> Iterator[pa.Table]:
    """Columns of the clips of one feature shard that have a sum embedding, `rows` or fewer at a
    time. A local file is mapped, a remote one read by ranges: never more than a row group in
    memory."""
    url, needed = embedding_url(index, number, ".parquet"), vector_name(SUM)
    path = storage.local_path(url)
    source = storage.open_binary(url) if path is None else pa.memory_map(str(path))
    with source, pq.ParquetFile(source) as file:
        # as nearly always: the vectors need not be read to know
        if all(absent == 0 for absent in null_counts(file.metadata, needed)):
            yield from map(_table, file.iter_batches(rows, columns=list(columns)))
            return
        for batch in file.iter_batches(rows, columns=[*columns, needed]):
            table = _table(batch)
            yield table.filter(table.column(needed).is_valid()).select(list(columns))


def _table(batch: pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches([batch])


def null_counts(metadata: pq.FileMetaData, column: str) -> list[int | None]:
    """Rows of each row group that lack a vector; None where the file does not say."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    found = [chunk.statistics for chunk in chunks if chunk.path_in_schema.startswith(f"{column}.")]
    return [None if statistics is None else statistics.null_count for statistics in found]


def vectors_of(table: pa.Table, modality: str) -> NDArray[np.float32]:
    """A modality's embeddings, or their sum, without nulls: (N, D) float32, contiguous."""
    array = table.column(vector_name(modality)).combine_chunks()
    assert array.null_count == 0
    flat = array.flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(flat.reshape(len(array), array.type.list_size), np.float32)


def _vector_column(
    embeddings_ND: NDArray[np.float32], present_N: NDArray[np.bool_]
) -> pa.FixedSizeListArray:
    flat = pa.array(np.where(present_N[:, None], embeddings_ND, 0).ravel(), pa.float32())
    return pa.FixedSizeListArray.from_arrays(
        flat, embeddings_ND.shape[1], mask=pa.array(~present_N)
    )


def _check_finite(
    name: str,
    clips: Sequence[ClipRow],
    embeddings_ND: NDArray[np.float32],
    present_N: NDArray[np.bool_],
) -> None:
    bad_N = present_N & ~np.isfinite(embeddings_ND).all(axis=1)
    if bad_N.any():
        clip = clips[int(bad_N.argmax())]
        raise AbortError(
            f"{clip.id}: its {name} embedding is not finite: did the training diverge?"
        )
