"""A dataset: dataset.json says what its shards are, manifest.parquet joins what their rows say."""

import logging
from collections.abc import Container, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from extractors.build import build_extractor
from extractors.errors import AbortError, DamagedError, UsageError
from pipeline import storage
from pipeline.config import ExtractConfig
from pipeline.parquet import open_parquet
from pipeline.provenance import Provenance, digest, joint_fingerprint, provenance
from pipeline.scan import BLOCK, map_shards, scan_rows
from pipeline.settings import dump_settings
from pipeline.shards import (
    FORMAT_VERSION,
    ROW_SCHEMA,
    ShardRecord,
    read_record,
    read_rows,
    shard_numbers,
)

_log = logging.getLogger(__name__)

MANIFEST_SCHEMA = ROW_SCHEMA.append(pa.field("shard", pa.int32())).append(
    pa.field("tar_sha256", pa.string())
)
MADE_OF = b"records"
"""Key of the manifest's metadata: the digest of the records that it is of."""


def write_dataset_card(dataset: str, config: ExtractConfig) -> None:
    """Publishes dataset.json, config.yaml and the provenance of the tracks: the resolved settings,
    each track's facts, all that decides its numbers."""
    tracks = provenance(config)
    fingerprint = joint_fingerprint(tracks)
    storage.publish_json(provenance_url(dataset, fingerprint), tracks)
    specs = {name: build_extractor(settings).spec for name, settings in config.wanted.items()}
    card = {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "tracks": {
            name: {"dim": spec.dim, "dtype": spec.dtype, "start": spec.start, "hop": spec.hop}
            for name, spec in specs.items()
        },
        "fingerprints": {name: digest(facts) for name, facts in tracks.items()},
        "config": config.model_dump(mode="json"),
    }
    storage.publish_json(storage.join(dataset, "dataset.json"), card)
    url = storage.join(dataset, "config.yaml")
    storage.publish_bytes(url, dump_settings(config).encode())


def provenance_url(dataset: str, fingerprint: str) -> str:
    """Where a dataset keeps what a fingerprint stands for."""
    return storage.join(dataset, "provenance", f"{fingerprint}.json")


def read_provenance(dataset: str, fingerprint: str) -> Provenance | None:
    """What decided the numbers of the shards with this fingerprint; None where it is not kept."""
    try:
        found: Provenance = storage.read_json(provenance_url(dataset, fingerprint))
    except FileNotFoundError:
        return None
    return found


def read_dataset_card(dataset: str) -> dict[str, Any]:
    """dataset.json. Raises UsageError where the folder is no dataset, AbortError if foreign."""
    url = storage.join(dataset, "dataset.json")
    try:
        card: dict[str, Any] = storage.read_json(url)
    except FileNotFoundError as err:
        raise UsageError(f"{dataset}: not a dataset (no dataset.json); make one with "
                         "`pipeline run extract --output`") from err  # fmt: skip
    except ValueError as err:
        raise AbortError(f"{url}: not JSON: {err}") from err
    if card.get("format_version") != FORMAT_VERSION:
        version = card.get("format_version")
        raise AbortError(f"{url}: format version {version!r}, this program reads {FORMAT_VERSION}")
    return card


def check_extractable(dataset: str) -> None:
    """An empty place is fine. Raises AbortError where a dataset of another format version is,
    UsageError where an imported one is."""
    if not storage.exists(storage.join(dataset, "dataset.json")):
        return
    imported = read_dataset_card(dataset).get("imported")
    if imported is not None:
        raise UsageError(
            f"{dataset}: was imported ({imported['format']}), so there is nothing to extract it "
            "with; `pipeline import` extends it"
        )


def read_dataset_config(dataset: str) -> ExtractConfig:
    """The settings that made a dataset."""
    return ExtractConfig.model_validate(read_dataset_card(dataset)["config"])


def read_records(dataset: str, within: Container[int] | None = None) -> list[ShardRecord]:
    """The records of all published shards, or of those `within`, by number.

    One that is gone since the listing (its shard is being made again) is left out, and so is a
    damaged one, with a warning: without a record there is no shard.
    """
    numbers = [n for n in shard_numbers(dataset) if within is None or n in within]
    found = map_shards(dataset, partial(_find_record, dataset), numbers)
    return [record for record in found if record is not None]


def _find_record(dataset: str, number: int) -> ShardRecord | None:
    try:
        return read_record(dataset, number)
    except FileNotFoundError:
        return None
    except DamagedError as err:
        _log.warning("%s; its shard counts as not made", err)
        return None


def read_all_rows(dataset: str) -> list[dict[str, Any]]:
    """Every video's row with its shard's number, in the order of the plan."""
    return [
        row | {"shard": number}
        for number in shard_numbers(dataset)
        for row in read_rows(dataset, number)
    ]


def manifest_url(dataset: str) -> str:
    """Where a dataset keeps its manifest."""
    return storage.join(dataset, "manifest.parquet")


def write_manifest(dataset: str, records: Sequence[ShardRecord], *, always: bool = False) -> None:
    """Publishes manifest.parquet: every row of every shard, with the shard and its tar's sha256.

    One that says that it is of these very records is left as it is, unless `always`.
    """
    facts = [[record.number, record.tar_sha256, record.parquet_sha256] for record in records]
    made_of = digest(facts).encode()
    url = manifest_url(dataset)
    if not always and _made_of(url) == made_of:
        return
    schema = MANIFEST_SCHEMA.with_metadata({MADE_OF: made_of})
    with storage.publishing(url) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for first in range(0, len(records), BLOCK):
            block = records[first : first + BLOCK]
            writer.write_table(
                _manifest_rows(dataset, block).replace_schema_metadata(schema.metadata)
            )


def _made_of(url: str) -> bytes | None:
    """The digest of the records that a manifest is of; None where there is none that says so."""
    try:
        with open_parquet(url) as stored:
            return (stored.schema_arrow.metadata or {}).get(MADE_OF)
    except (FileNotFoundError, DamagedError):
        return None


def _manifest_rows(dataset: str, records: Sequence[ShardRecord]) -> pa.Table:
    numbers = [record.number for record in records]
    return with_digests(scan_rows(dataset, numbers, ROW_SCHEMA.names), records)


def with_digests(rows: pa.Table, records: Sequence[ShardRecord]) -> pa.Table:
    """Rows of shards with the column `tar_sha256`, as the manifest has it."""
    digests = {record.number: record.tar_sha256 for record in records}
    column = [digests[number] for number in rows.column("shard").to_pylist()]
    return rows.append_column(MANIFEST_SCHEMA.field("tar_sha256"), pa.array(column, pa.string()))
