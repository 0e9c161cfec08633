"""Embeddings of others to an index: OUTPUT/embeddings/, then knn.index, ids and card from them.

There is no model: such an index is asked by vectors and by its own clips, not by texts or files.
A part of the source becomes a parquet of embeddings/, its record last, so an import that was
stopped goes on with what is missing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from extractors.errors import AbortError, UsageError
from index.build import Execute, publish_index
from index.card import IndexCard
from index.config import IndexConfig
from index.embedding_shards import MODALITIES, embedding_numbers, embedding_url, read_record
from index.formats.layouts import LEDGER, Format
from index.formats.parts import Reading, current_part
from index.formats.seen_ids import SeenIds
from index.formats.sources import SourcePart, find_parts, part_dimension
from pipeline import storage

FOREIGN = "imported"
"""Stands for the digest of the model that nobody has; `: WORDS` follows where they are given."""


@dataclass(frozen=True)
class ImportOptions:
    """How a source is read."""

    fmt: Format
    vectors: Mapping[str, str] = field(default_factory=dict)
    """Folder or column to modality; empty for the usual ones."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Column to what it says of a clip, where it is not the usual name."""
    made_by: str = ""
    """What made the vectors, in words, for the card."""

    def __post_init__(self) -> None:
        named = list(self.vectors.values())
        wrong = [modality for modality in named if modality not in MODALITIES]
        if wrong or len(set(named)) < len(named):
            raise UsageError(
                f"--vectors: {wrong[0] if wrong else 'a modality twice'}; allowed are "
                f"{', '.join(MODALITIES)}, each once"
            )

    @property
    def model_digest(self) -> str:
        """What stands in records and card for the model's digest."""
        return f"{FOREIGN}: {self.made_by}" if self.made_by else FOREIGN


@dataclass(frozen=True)
class ImportProgress:
    """How far an import is, in parts."""

    done: int
    total: int
    kept: int


def import_embeddings(
    source: str,
    output: str,
    options: ImportOptions,
    config: IndexConfig,
    on_progress: Callable[[ImportProgress], None] = lambda progress: None,
    *,
    execute: Execute | None = None,
) -> IndexCard:
    """Reads and checks the vectors of `source` and publishes an index of them at `output`.

    The indexed vector is the sum over those of `config.targets` that a clip has. Parts whose files
    have not changed are kept; a batch of clips is in memory at a time, and 40 bytes a clip.
    Raises UsageError for a source that is not of this format or has none of the targets, and an
    output that holds something else; AbortError, naming the file, for rows that do not match,
    another dimension, a value that is not finite and an id that comes twice.
    """
    parts = find_parts(source, options.fmt, options.vectors)
    _check_finished(source)
    _check_targets(source, parts[0], config)
    _check_output(output)
    dimension = _dimension(parts)
    reading = Reading(
        dimension=dimension,
        targets=config.targets,
        columns=options.columns,
        model_digest=options.model_digest,
        settings={
            "imported": options.fmt,
            "targets": list(config.targets),
            "columns": dict(options.columns),
        },
    )
    records, seen, kept = [], SeenIds(), 0
    for number, part in enumerate(parts):
        on_progress(ImportProgress(number, len(parts), kept))
        record, is_kept = current_part(output, number, part, reading)
        kept += is_kept
        seen.add(output, number, part)
        records.append(record)
    seen.check_unique()
    _remove_from(output, len(parts))
    on_progress(ImportProgress(len(parts), len(parts), kept))
    return publish_index(
        output, config, records, dataset=source, run="", execute=execute, imported=options.fmt
    )


def _dimension(parts: Sequence[SourcePart]) -> int:
    """That of all parts; every header is read before any row."""
    widths = [part_dimension(part) for part in parts]
    for part, width in zip(parts, widths, strict=True):
        if width != widths[0]:
            raise AbortError(
                f"{part.files[0]}: {width} dimensions, {parts[0].files[0]} has {widths[0]}: "
                "one index holds vectors of one length"
            )
    return widths[0]


def _check_finished(source: str) -> None:
    card, finished = (storage.join(source, LEDGER, f"{n}.json") for n in ("card", "finished"))
    if not source.endswith(".parquet") and storage.exists(card) and not storage.exists(finished):
        raise UsageError(f"{source}: an export that was stopped: run `pipeline embeddings export`")


def _check_targets(source: str, part: SourcePart, config: IndexConfig) -> None:
    known = [name for name in MODALITIES if name in {*part.arrays, *part.columns}]
    if not set(known) & set(config.targets):
        raise UsageError(
            f"{source}: has vectors of {', '.join(known)}, index.targets names "
            f"{', '.join(config.targets)}: --set index.targets=[{known[0]}]"
        )


def _check_output(output: str) -> None:
    """Raises UsageError where the output is something else than an import."""
    for name in ("dataset.json", "card.json"):
        if storage.exists(storage.join(output, name)):
            raise UsageError(f"{output}: holds {name}, it is no index; choose another folder")
    for number in embedding_numbers(output):
        record = read_record(output, number)
        if record is not None and "imported" not in record.settings:
            raise UsageError(f"{output}: an index of a dataset of ours; choose another folder")


def _remove_from(output: str, number: int) -> None:
    """Parts that the source no longer has."""
    for gone in embedding_numbers(output):
        if gone >= number:
            storage.remove(embedding_url(output, gone, "_stats.json"))
            storage.remove(embedding_url(output, gone, ".parquet"))
