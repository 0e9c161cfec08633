"""Embeddings of others as they lie on disk: parts, and the rows of a part a batch at a time.

Nothing is taken on trust: files of one part must have as many rows, all files one dimension, every
number must be finite. What is not so is refused with one line that names the file.

N rows, D dimension.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from extractors.errors import AbortError, UsageError
from index.embedding_shards import BATCH_ROWS
from index.formats.layouts import METADATA, PRESENT, Format
from index.formats.numpy_files import NpyFile, choose_folders, npy_shape, numbered_files
from index.formats.tables import choose_columns, find_tables, opened_table, vectors_of_column
from pipeline import storage


@dataclass(frozen=True)
class SourcePart:
    """Files whose rows belong together."""

    table: str | None
    """URL of the parquet or Arrow file that says what the clips are; None where nothing does."""
    arrays: Mapping[str, str] = field(default_factory=dict)
    """Modality to the URL of its .npy."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Modality to the column of `table` that holds its vectors."""

    @property
    def files(self) -> list[str]:
        """All of them."""
        return [*self.arrays.values(), *([self.table] if self.table else [])]


@dataclass(frozen=True)
class Rows:
    """A batch of clips."""

    facts: pa.Table
    """What is known of them; no columns where nothing is."""
    vectors_ND: Mapping[str, NDArray[np.float32]]
    """By modality; zeros where a clip has none."""
    present_N: Mapping[str, NDArray[np.bool_]]


def find_parts(source: str, fmt: Format, vectors: Mapping[str, str]) -> list[SourcePart]:
    """The parts of a source, in order. `vectors` names folders or columns and their modality;
    where it is empty the usual names are looked for. Raises UsageError where there is nothing, or
    where files have no counterpart in another folder."""
    if fmt == "clip-retrieval":
        folders = choose_folders(source, vectors)
        return [_numpy_part(folders, files) for files in numbered_files(source, folders)]
    tables = find_tables(source, fmt)
    if not tables:
        raise UsageError(f"{source}: no parquet there to import as {fmt}")
    columns = choose_columns(tables[0], vectors)
    return [SourcePart(table, columns=columns) for table in tables]


def _numpy_part(folders: Mapping[str, str], files: Mapping[str, str]) -> SourcePart:
    arrays = {modality: files[folder] for folder, modality in folders.items()}
    return SourcePart(files.get(METADATA), arrays)


def part_dimension(part: SourcePart) -> int:
    """The width of a part's vectors, from headers and schemas. Raises AbortError where its files
    differ, in width or in rows, and UsageError for what is no file of vectors."""
    widths, rows = {}, {}
    for url in part.arrays.values():
        with storage.open_binary(url) as file:
            rows[url], widths[url] = npy_shape(url, file)[:2]
    if part.table is not None:
        with opened_table(part.table) as stored:
            rows[part.table] = stored.rows
            for column in part.columns.values():
                widths[f"{part.table}, column {column}"] = stored.width(column)
    _check_equal(rows, "rows", "row i of one must be the clip of row i of the other")
    _check_equal(widths, "dimensions", "name those of one length with --vectors")
    return next(iter(widths.values()))


def _check_equal(found: Mapping[str, int], what: str, hint: str) -> None:
    (first, expected), *others = found.items()
    for name, number in others:
        if number != expected:
            raise AbortError(f"{name}: {number} {what}, {first} has {expected}: {hint}")


def read_part(part: SourcePart, dimension: int) -> Iterator[Rows]:
    """The rows of a part, BATCH_ROWS or fewer at a time. Raises AbortError for a vector of another
    dimension, and for a value that is not finite."""
    with ExitStack() as stack:
        arrays = {
            modality: NpyFile(url, stack.enter_context(storage.open_binary(url)))
            for modality, url in part.arrays.items()
        }
        if part.table is None:
            batches = _counted(next(iter(arrays.values())).rows)
        else:
            batches = stack.enter_context(opened_table(part.table)).batches()
        first = 0
        for table in batches:
            count = table.num_rows
            vectors = {name: array.read(count) for name, array in arrays.items()}
            present = {name: _stated(table, name) for name in arrays}
            for name, column in part.columns.items():
                where = f"{part.table}, column {column}"
                found = vectors_of_column(where, table.column(column), dimension)
                vectors[name], present[name] = found
            for name, x_ND in vectors.items():
                where = part.arrays.get(name) or f"{part.table}, column {part.columns[name]}"
                _check_finite(where, first, x_ND)
            yield Rows(table.drop_columns(list(part.columns.values())), vectors, present)
            first += count


def _check_finite(where: str, first: int, x_ND: NDArray[np.float32]) -> None:
    bad_N = ~np.isfinite(x_ND).all(axis=1)
    if bad_N.any():
        raise AbortError(f"{where}: row {first + int(bad_N.argmax())} is not finite (NaN or inf)")


def _counted(rows: int) -> Iterator[pa.Table]:
    """Batches of tables without columns but with rows."""
    for first in range(0, rows, BATCH_ROWS):
        numbers = pa.array(range(first, min(first + BATCH_ROWS, rows)))
        yield pa.table({"row": numbers})


def _stated(table: pa.Table, modality: str) -> NDArray[np.bool_]:
    """Which rows have a modality, as our own export says; all, where nothing says."""
    name = PRESENT.format(modality)
    if name not in table.column_names:
        return np.ones(table.num_rows, bool)
    stated = table.column(name)
    if not pa.types.is_boolean(stated.type) or stated.null_count:
        raise UsageError(f"column {name}: true and false are wanted, it is {stated.type}")
    return np.asarray(stated.to_numpy(), bool)
