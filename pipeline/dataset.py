"""A dataset: dataset.json says what its shards are, manifest.parquet joins what their rows say."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from extractors.build import build_extractor
from extractors.errors import AbortError, UsageError
from pipeline import storage
from pipeline.config import ExtractConfig, dataset_fingerprint, fingerprints
from pipeline.settings import dump_settings
from pipeline.shards import (
    FORMAT_VERSION,
    ROW_SCHEMA,
    ShardRecord,
    read_record,
    read_rows,
    shard_numbers,
)


def write_dataset_card(dataset: str, config: ExtractConfig) -> None:
    """Publishes dataset.json and config.yaml: the resolved settings, each track's facts."""
    specs = {name: build_extractor(settings).spec for name, settings in config.wanted.items()}
    card = {
        "format_version": FORMAT_VERSION,
        "fingerprint": dataset_fingerprint(config),
        "tracks": {
            name: {"dim": spec.dim, "dtype": spec.dtype, "start": spec.start, "hop": spec.hop}
            for name, spec in specs.items()
        },
        "fingerprints": fingerprints(config),
        "config": config.model_dump(mode="json"),
    }
    storage.publish_json(storage.join(dataset, "dataset.json"), card)
    url = storage.join(dataset, "config.yaml")
    storage.publish_bytes(url, dump_settings(config).encode())


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


def check_version(dataset: str) -> None:
    """Raises AbortError where a dataset of another format version is; an empty place is fine."""
    if storage.exists(storage.join(dataset, "dataset.json")):
        read_dataset_card(dataset)


def read_dataset_config(dataset: str) -> ExtractConfig:
    """The settings that made a dataset."""
    return ExtractConfig.model_validate(read_dataset_card(dataset)["config"])


def read_records(dataset: str) -> list[ShardRecord]:
    """The records of all published shards, by number."""
    return [read_record(dataset, number) for number in shard_numbers(dataset)]


def read_all_rows(dataset: str) -> list[dict[str, Any]]:
    """Every video's row with its shard's number, in the order of the plan."""
    return [
        row | {"shard": number}
        for number in shard_numbers(dataset)
        for row in read_rows(dataset, number)
    ]


def write_manifest(dataset: str, records: Sequence[ShardRecord]) -> None:
    """Publishes manifest.parquet: every row of every shard, with the shard and its tar's sha256."""
    with storage.publishing(storage.join(dataset, "manifest.parquet")) as temporary:
        pq.write_table(manifest_table(dataset, records), temporary)


def manifest_table(dataset: str, records: Sequence[ShardRecord]) -> pa.Table:
    """What manifest.parquet is to hold."""
    digests = {record.number: record.tar_sha256 for record in records}
    rows = [row | {"tar_sha256": digests[row["shard"]]} for row in read_all_rows(dataset)]
    schema = ROW_SCHEMA.append(pa.field("shard", pa.int32())).append(
        pa.field("tar_sha256", pa.string())
    )
    return pa.Table.from_pylist(rows, schema=schema)
