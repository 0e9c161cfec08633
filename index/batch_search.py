"""Many queries from a file, their hits to a parquet.

Columns of the file, all but one kind of query optional: `text`, `audio`, `video`, `media`, `clip`,
`vector` (what is looked for; files relative to the file of queries; a vector is a list of numbers
or the path of an .npy), `at` (seconds), `plus`, `minus` (one
term or a list, as on the command line), `where` (one condition or a list), `query` (a name for the
hits; the row's number where there is none).
"""

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from extractors.errors import PipelineError, UsageError
from index.encoding import QueryEncoder, Vector
from index.filters import parse_where
from index.hits import Hit
from index.queries import FILE_MODALITIES, KINDS, Kind, Query, Term, parse_term
from index.search import SearchIndex, search_many
from pipeline import storage

COLUMNS = (*KINDS, "at", "plus", "minus", "where", "query")
BATCH = 256
"""Queries that are encoded and searched at a time."""
HIT_SCHEMA = pa.schema(
    [
        ("query", pa.string()),
        ("rank", pa.int32()),
        ("id", pa.string()),
        ("video", pa.string()),
        ("uri", pa.string()),
        ("start", pa.float64()),  # seconds
        ("end", pa.float64()),
        ("score", pa.float64()),
        ("text", pa.string()),
        ("error", pa.string()),  # why this query has no hits; null on a hit
    ]
)


@dataclass(frozen=True)
class NamedQuery:
    """A row of a file of queries."""

    name: str
    query: Query


def read_queries(url: str) -> list[NamedQuery]:
    """The rows of a .csv, .parquet or .jsonl. Raises UsageError, naming the row."""
    folder = url.rpartition("/")[0]
    return [_query(url, folder, number, row) for number, row in enumerate(_rows(url))]


def search_queries(
    index: SearchIndex,
    encoder: QueryEncoder,
    queries: Sequence[NamedQuery],
    output: str,
    k: int,
    *,
    targets: Sequence[str] | None = None,
    merge: bool = False,
) -> int:
    """Publishes the hits of all queries, in order, and gives how many queries failed.

    One that fails has one row with an `error`; one that finds nothing has none.
    """
    failed = 0
    with storage.publishing(output) as path, pq.ParquetWriter(path, HIT_SCHEMA) as writer:
        for first in range(0, len(queries), BATCH):
            batch = queries[first : first + BATCH]
            vectors = encoder.encode([named.query.terms for named in batch])
            found = _search(index, batch, vectors, k, targets, merge)
            failed += sum(isinstance(one, PipelineError) for one in found)
            rows = [r for named, one in zip(batch, found, strict=True) for r in _out(named, one)]
            writer.write_table(pa.Table.from_pylist(rows, schema=HIT_SCHEMA))
    return failed


def _search(
    index: SearchIndex,
    batch: Sequence[NamedQuery],
    vectors: Sequence[Vector | PipelineError],
    k: int,
    targets: Sequence[str] | None,
    merge: bool,
) -> list[list[Hit] | PipelineError]:
    """One call of FAISS for all queries of equal conditions."""
    found: list[list[Hit] | PipelineError] = [
        v if isinstance(v, PipelineError) else [] for v in vectors
    ]
    groups: dict[tuple[tuple[str, str], ...], list[int]] = defaultdict(list)
    for number, named in enumerate(batch):
        if not isinstance(vectors[number], PipelineError):
            groups[tuple(sorted(named.query.where.items()))].append(number)
    for where, numbers in groups.items():
        queries_QD = np.stack([np.asarray(vectors[number]) for number in numbers])
        try:
            hits = search_many(index, queries_QD, k, dict(where), targets=targets, merge=merge)
        except UsageError as err:
            hits = None
            for number in numbers:
                found[number] = err
        for number, one in zip(numbers, hits or (), strict=hits is not None):
            found[number] = one
    return found


def _out(named: NamedQuery, found: list[Hit] | PipelineError) -> list[dict[str, Any]]:
    if isinstance(found, PipelineError):
        return [{"query": named.name, "error": str(found)}]
    return [{"query": named.name} | vars(hit) for hit in found]


def _rows(url: str) -> list[dict[str, Any]]:
    try:
        content = storage.read_bytes(url)
    except FileNotFoundError as err:
        raise UsageError(f"--queries {url}: no such file") from err
    try:
        match Path(url).suffix.lower():
            case ".csv":
                texts = dict.fromkeys(COLUMNS, pa.string())
                options = pyarrow.csv.ConvertOptions(column_types=texts)
                table = pyarrow.csv.read_csv(pa.BufferReader(content), convert_options=options)
                rows: list[dict[str, Any]] = table.to_pylist()
            case ".parquet":
                rows = pq.read_table(pa.BufferReader(content)).to_pylist()
            case ".jsonl":
                rows = [json.loads(line) for line in content.decode().splitlines() if line.strip()]
            case suffix:
                raise UsageError(f"--queries {url}: {suffix!r}: allowed are .csv, .parquet, .jsonl")
    except ValueError as err:  # pyarrow's, JSON's and UTF-8's errors are
        raise UsageError(f"--queries {url}: cannot be read: {str(err).splitlines()[0]}") from err
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"--queries {url}: no rows of queries")
    return rows


def _query(url: str, folder: str, number: int, row: Mapping[str, Any]) -> NamedQuery:
    given = {name: value for name, value in row.items() if value not in (None, "", [])}
    place = f"--queries {url}: row {number}"
    unknown = sorted(given.keys() - set(COLUMNS))
    if unknown:
        raise UsageError(f"{place}: no column {unknown[0]}; there are {', '.join(COLUMNS)}")
    try:
        terms = [_term(kind, given) for kind in KINDS if kind in given]
        terms += [parse_term(text, 1.0) for text in _several(given.get("plus"))]
        terms += [parse_term(text, -1.0) for text in _several(given.get("minus"))]
        if not terms:
            raise UsageError(f"give one of {', '.join(KINDS)} or plus")
        where = parse_where(_several(given.get("where")))
    except UsageError as err:
        raise UsageError(f"{place}: {err}") from err
    located = tuple(_located(term, folder) for term in terms)
    return NamedQuery(str(given.get("query", number)), Query(located, where))


def _term(kind: Kind, given: Mapping[str, Any]) -> Term:
    value = given[kind]
    if kind != "vector" or not isinstance(value, list):
        return Term(kind, str(value), 1.0, _seconds(given) if kind in FILE_MODALITIES else None)
    if not all(isinstance(number, int | float) for number in value):
        raise UsageError("vector: expected a list of numbers, or the path of an .npy")
    return Term(kind, "vector", numbers=tuple(map(float, value)))


def _seconds(given: Mapping[str, Any]) -> float | None:
    if "at" not in given:
        return None
    try:
        return float(given["at"])
    except (TypeError, ValueError) as err:
        raise UsageError(f"at = {given['at']}: expected seconds") from err


def _several(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _located(term: Term, folder: str) -> Term:
    of_file = term.kind in FILE_MODALITIES or (term.kind == "vector" and term.numbers is None)
    if not of_file or "://" in term.value or os.path.isabs(term.value):
        return term
    return replace(term, value=storage.join(folder, term.value) if folder else term.value)
