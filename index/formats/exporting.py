"""The embeddings of an index in the layout of others: streamed, resumable, whole files only.

OUTPUT/.export/card.json       of which index, in which format
OUTPUT/.export/000000.json     what the clips of feature shard 0 became: files and sizes
OUTPUT/.export/finished.json   what the whole is; written last

N clips, D dimension.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from extractors.errors import AbortError, UsageError
from index.card import Block, IndexCard, read_card
from index.clip_vectors import summed
from index.embedding_shards import (
    BATCH_ROWS,
    CLIP_SCHEMA,
    MODALITIES,
    SUM,
    embedding_url,
    read_record,
    vector_name,
)
from index.formats.layouts import (
    ALIASES,
    LEDGER,
    NUMPY_FOLDERS,
    PRESENT,
    Format,
    metadata_name,
    numpy_name,
    table_name,
)
from index.formats.readme import dataset_readme
from pipeline import storage
from pipeline.shards import shard_name

VERSION = 1
"""Of what is written: one up, and every finished file is written anew."""

Files = dict[str, int]
"""Names below the output, and their sizes in bytes."""


@dataclass(frozen=True)
class Part:
    """What the clips of one feature shard become."""

    block: Block
    rows: int
    files: tuple[str, ...]

    @property
    def source(self) -> list[Any]:
        """What decides their bytes."""
        return [VERSION, self.block.parquet_sha256, self.rows, list(self.files)]


@dataclass(frozen=True)
class Exported:
    """What an export came to."""

    clips: int
    kept: int
    """Parts that were there already."""
    files: int
    size_bytes: int


def export_embeddings(
    index: str,
    output: str,
    fmt: Format,
    on_part: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Writes the embeddings of an index's clips; run again, only what is missing or out of date.

    'clip-retrieval' holds the clips that are indexed, zeros standing for a modality that a clip
    has not; the tables hold all clips. A batch of clips is in memory at a time. Raises UsageError
    for an output that holds something else, AbortError for an index whose embeddings are not those
    that its card names.
    """
    card = read_card(index)
    parts = _parts(index, card, fmt)
    _claim(output, {"index": storage.absolute(index), "format": fmt})
    _remove_others(output, parts)
    kept, sizes = 0, Files()
    for done, part in enumerate(parts):
        on_part(done, len(parts))
        files = _known(output, part)
        kept += files is not None
        if files is None:
            files = _write_part(index, output, fmt, part)
            ledger = {"source": part.source, "files": files}
            storage.publish_json(_ledger_url(output, shard_name(part.block.shard)), ledger)
        sizes |= files
    clips = sum(part.rows for part in parts)
    if fmt == "huggingface":
        readme = dataset_readme(card, clips, sum(sizes.values())).encode()
        storage.publish_bytes(storage.join(output, "README.md"), readme)
        sizes["README.md"] = len(readme)
    storage.publish_json(_ledger_url(output, "finished"), _facts(card, clips, len(parts)))
    on_part(len(parts), len(parts))
    return Exported(clips, kept, len(sizes), sum(sizes.values()))


def _parts(index: str, card: IndexCard, fmt: Format) -> list[Part]:
    """The shards that have clips to write, in the order of their ids."""
    rows = {}
    for block in card.blocks:
        if block.masked:
            continue
        record = read_record(index, block.shard)
        if record is None or record.parquet_sha256 != block.parquet_sha256:
            raise AbortError(
                f"{embedding_url(index, block.shard, '.parquet')}: not the embeddings that are "
                "indexed: run `pipeline index append`, then export"
            )
        rows[block] = block.count if fmt == "clip-retrieval" else record.clips
    blocks = [block for block, count in rows.items() if count]
    held = {SUM, *(name for name, count in card.embeddings.items() if count)}
    folders = [folder for folder, name in NUMPY_FOLDERS.items() if name in held]
    return [
        Part(block, rows[block], _names(fmt, folders, number, len(blocks)))
        for number, block in enumerate(blocks)
    ]


def _names(fmt: Format, folders: Sequence[str], number: int, parts: int) -> tuple[str, ...]:
    if fmt != "clip-retrieval":
        return (table_name(fmt, number, parts),)
    arrays = [numpy_name(folder, number, parts) for folder in folders]
    return (*arrays, metadata_name(number, parts))


def _write_part(index: str, output: str, fmt: Format, part: Part) -> Files:
    """Publishes the files of one part; gives their sizes."""
    with ExitStack() as stack:
        paths = {
            name: stack.enter_context(storage.publishing(storage.join(output, name)))
            for name in part.files
        }
        batches = _batches(index, part.block, indexed_only=fmt == "clip-retrieval")
        write = _write_arrays if fmt == "clip-retrieval" else _write_table
        rows = write(paths, part.rows, batches)
        if rows != part.rows:
            url = embedding_url(index, part.block.shard, ".parquet")
            raise AbortError(f"{url}: {rows} rows, its record says {part.rows}: run `index verify`")
        return {name: path.stat().st_size for name, path in paths.items()}


def _batches(index: str, block: Block, *, indexed_only: bool) -> Iterator[pa.Table]:
    """The clips of one shard, BATCH_ROWS or fewer at a time."""
    with (
        storage.open_binary(embedding_url(index, block.shard, ".parquet")) as file,
        pq.ParquetFile(file) as stored,
    ):
        for batch in stored.iter_batches(BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            if indexed_only:
                table = table.filter(table.column(vector_name(SUM)).is_valid())
            if table.num_rows:
                yield table


def _write_table(paths: Mapping[str, Path], _rows: int, batches: Iterator[pa.Table]) -> int:
    """One parquet, the columns as they are; gives the number of rows."""
    (path,) = paths.values()
    rows, writer = 0, None
    try:
        for table in batches:
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
            rows += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    return rows


def _write_arrays(paths: Mapping[str, Path], rows: int, batches: Iterator[pa.Table]) -> int:
    """A .npy a folder and the parquet of what the clips are; gives the number of rows."""
    *arrays, metadata = paths
    written = 0
    with ExitStack() as stack:
        files = {name: stack.enter_context(paths[name].open("wb")) for name in arrays}
        writer = None
        for table in batches:
            for name, file in files.items():
                _append(file, table, NUMPY_FOLDERS[name.partition("/")[0]], rows, written)
            facts = _metadata(table)
            if writer is None:
                opened = pq.ParquetWriter(paths[metadata], facts.schema, compression="zstd")
                writer = stack.enter_context(opened)
            writer.write_table(facts)
            written += table.num_rows
    return written


def _append(file: IO[bytes], table: pa.Table, modality: str, rows: int, written: int) -> None:
    """A batch of vectors behind those that are written; the header before the first."""
    x_ND, _ = summed(table, [modality])
    if written == 0:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, x_ND.shape[1])}
        np.lib.format.write_array_header_1_0(file, header)
    file.write(np.ascontiguousarray(x_ND, "<f4").data)


def _metadata(table: pa.Table) -> pa.Table:
    """What the clips are, under clip-retrieval's names where it has one."""
    facts = table.select(CLIP_SCHEMA.names)
    names = [ALIASES.get(name, name) for name in CLIP_SCHEMA.names]
    facts = facts.rename_columns(names)
    for name in MODALITIES:
        facts = facts.append_column(
            PRESENT.format(name), table.column(vector_name(name)).is_valid()
        )
    return facts


def _facts(card: IndexCard, clips: int, parts: int) -> dict[str, Any]:
    return {
        "version": VERSION,
        "clips": clips,
        "parts": parts,
        "dimension": card.dimension,
        "metric": card.metric,
        "indexed": list(card.target_modalities),
        "embeddings": card.embeddings,
        "model_digest": card.model_digest,
        "dataset_digest": card.dataset_digest,
        "code_version": card.code_version,
    }


def _known(output: str, part: Part) -> Files | None:
    """The files of a part that was finished before; None where it is to be written."""
    ledger = _read_ledger(_ledger_url(output, shard_name(part.block.shard)))
    if ledger is None or ledger["source"] != part.source:
        return None
    files: Files = ledger["files"]
    whole = all(storage.size(storage.join(output, name)) == size for name, size in files.items())
    return files if whole else None


def _read_ledger(url: str) -> dict[str, Any] | None:
    """None for what is no ledger of ours, or names files that lie elsewhere."""
    try:
        ledger: dict[str, Any] = storage.read_json(url)
        names = [PurePosixPath(name) for name in ledger["files"]]
        ours = "source" in ledger and isinstance(ledger["files"], dict)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    outside = any(name.is_absolute() or ".." in name.parts for name in names)
    return ledger if ours and not outside else None


def _claim(output: str, card: dict[str, Any]) -> None:
    """Raises UsageError where the output holds anything but this very export."""
    url = _ledger_url(output, "card")
    if storage.exists(url):
        there = storage.read_json(url)
        if there != card:
            raise UsageError(
                f"{output}: holds an export of {there.get('index', 'something else')} as "
                f"{there.get('format')}; choose another folder"
            )
        storage.remove(_ledger_url(output, "finished"))
        return
    if there := storage.names(output):
        raise UsageError(f"{output}: not empty (holds {there[0]}); choose another folder")
    storage.publish_json(url, card)


def _remove_others(output: str, parts: Sequence[Part]) -> None:
    """What an earlier export wrote of shards that are gone, or under other numbers."""
    wanted = {file for part in parts for file in part.files}
    for name in storage.names(storage.join(output, LEDGER)):
        if not name.removesuffix(".json").isdigit():
            continue
        ledger = storage.join(output, LEDGER, name)
        known = _read_ledger(ledger)
        old = set(known["files"]) - wanted if known else set()
        for file in sorted(old):
            storage.remove(storage.join(output, file))
        if old:
            storage.remove(ledger)


def _ledger_url(output: str, name: str) -> str:
    return storage.join(output, LEDGER, f"{name}.json")
