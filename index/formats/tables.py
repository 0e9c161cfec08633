"""Tables of vectors, parquet and Arrow files, read a batch at a time.

N rows, D dimension.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from extractors.errors import AbortError, UsageError
from index.embedding_shards import BATCH_ROWS, vector_name
from index.formats.layouts import Format, in_order
from pipeline import storage


@dataclass(frozen=True)
class VectorTable:
    """An open file."""

    schema: pa.Schema
    rows: int
    url: str
    stored: "pq.ParquetFile | None"
    stream: "IO[bytes] | None" = None

    def width(self, column: str) -> int:
        """Of the vectors in a column: from the schema, else from the first that is not null."""
        if column not in self.schema.names:
            raise UsageError(f"{self.url}: no column {column}, which the first file has")
        kind = self.schema.field(column).type
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        for table in self.batches([column]):
            values = table.column(column).drop_null()
            if len(values):
                return len(values[0])
        raise UsageError(f"{self.url}, column {column}: holds no vector")

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """BATCH_ROWS or fewer at a time."""
        if self.stored is not None:
            for batch in self.stored.iter_batches(BATCH_ROWS, columns=columns):
                yield pa.Table.from_batches([batch])
            return
        assert self.stream is not None
        self.stream.seek(0)
        for batch in pa.ipc.open_stream(self.stream):
            for first in range(0, batch.num_rows, BATCH_ROWS):
                table = pa.Table.from_batches([batch.slice(first, BATCH_ROWS)])
                yield table if columns is None else table.select(columns)


@contextmanager
def opened_table(url: str) -> Iterator[VectorTable]:
    """A parquet, or an Arrow stream as `datasets` keeps them. Raises AbortError if damaged."""
    with storage.open_binary(url) as file:
        try:
            if url.endswith(".parquet"):
                with pq.ParquetFile(file) as stored:
                    yield VectorTable(stored.schema_arrow, stored.metadata.num_rows, url, stored)
            else:
                reader = pa.ipc.open_stream(file)
                schema, rows = reader.schema, sum(batch.num_rows for batch in reader)
                yield VectorTable(schema, rows, url, None, file)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as err:  # pyarrow says both of damaged bytes
            raise AbortError(f"{url}: cannot be read: {str(err).splitlines()[0]}") from err


def find_tables(source: str, fmt: Format) -> list[str]:
    """The files of a source: one parquet, those of a folder, `data/` of a Hugging Face dataset, or
    the Arrow files that its state.json names."""
    if source.endswith(".parquet"):
        return [source]
    state = storage.join(source, "state.json")
    if fmt == "huggingface" and storage.exists(state):
        files = storage.read_json(state)["_data_files"]
        return [storage.join(source, entry["filename"]) for entry in files]
    if fmt == "huggingface" and storage.exists(storage.join(source, "dataset_dict.json")):
        splits = ", ".join(storage.read_json(storage.join(source, "dataset_dict.json"))["splits"])
        raise UsageError(f"{source}: a dataset of several splits ({splits}): name one's folder")
    folder = source
    if fmt == "huggingface" and "data" in storage.names(source):
        folder = storage.join(source, "data")
    names = [name for name in storage.names(folder) if name.endswith(".parquet")]
    return [storage.join(folder, name) for name in in_order(names) if not name.startswith(".")]


def choose_columns(url: str, vectors: Mapping[str, str]) -> dict[str, str]:
    """Modality to column. Raises UsageError where the columns cannot be told."""
    with opened_table(url) as stored:
        lists = [field.name for field in stored.schema if _is_vector(field.type)]
    missing = [name for name in vectors if name not in lists]
    if missing:
        raise UsageError(f"--vectors {missing[0]}: {url} has vectors in {_listed(lists)}")
    if vectors:
        return {modality: name for name, modality in vectors.items()}
    ours = {name: vector_name(name) for name in ("video", "audio", "text")}
    usual = {modality: name for modality, name in ours.items() if name in lists}
    if not usual and len(lists) == 1:
        return {"video": lists[0]}
    if not usual:
        raise UsageError(f"{url}: has vectors in {_listed(lists)}: say with --vectors "
                         "NAME=video, NAME=audio or NAME=text what they are of")  # fmt: skip
    return usual


def _listed(names: Sequence[str]) -> str:
    return f"columns {', '.join(names)}" if names else "no column (lists of floats are wanted)"


def _is_vector(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in lists) and pa.types.is_floating(kind.value_type)


def vectors_of_column(
    where: str, column: pa.ChunkedArray, dimension: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Vectors (N, D), zeros where null, and which are there. Raises AbortError for another D."""
    array = column.combine_chunks()
    present_N = np.asarray(array.is_valid().to_numpy(zero_copy_only=False), bool)
    held = array.drop_null()
    values = held.flatten()
    widths = pc.unique(pc.list_value_length(held)).to_pylist()
    if values.null_count or any(width != dimension for width in widths):
        nulls = " and nulls" if values.null_count else ""
        raise AbortError(f"{where}: vectors of {widths} numbers{nulls}, {dimension} are wanted")
    x_ND = np.zeros((len(array), dimension), np.float32)
    flat = values.cast(pa.float32()).to_numpy(zero_copy_only=False)
    x_ND[present_N] = flat.reshape(-1, dimension)
    return x_ND, present_N
