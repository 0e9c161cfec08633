"""Whether a dataset is what its records say."""

import hashlib
import tarfile
from collections.abc import Iterator

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.dataset import read_dataset_card
from pipeline.plan import read_plan
from pipeline.samples import read_shard
from pipeline.shards import ShardRecord, read_record, read_rows, shard_numbers, shard_url


def verify_dataset(dataset: str) -> list[str]:
    """One line a problem; empty where tar, parquet, record, plan and manifest agree."""
    read_dataset_card(dataset)
    problems: list[str] = []
    for number in shard_numbers(dataset):
        problems += _shard_problems(dataset, read_record(dataset, number))
    planned = {video.shard for video in read_plan(dataset)}
    missing = sorted(planned - set(shard_numbers(dataset)))
    problems += [f"shard {number}: planned, not made yet" for number in missing]
    return problems + list(_manifest_problems(dataset))


def _shard_problems(dataset: str, record: ShardRecord) -> Iterator[str]:
    for suffix, expected in ((".tar", record.tar_sha256), (".parquet", record.parquet_sha256)):
        url = shard_url(dataset, record.number, suffix)
        try:
            found = _sha256(url)
        except FileNotFoundError:
            yield f"{url}: missing"
            return
        if found != expected:
            yield f"{url}: sha256 is {found[:12]}…, its record says {expected[:12]}…"
            return
    rows = read_rows(dataset, record.number)
    wanted = [row["key"] for row in rows if row["status"] == "success"]
    try:
        found_keys = [sample.key for sample in read_shard(dataset, record.number)]
    except (tarfile.TarError, ValueError, KeyError) as err:
        yield f"{shard_url(dataset, record.number, '.tar')}: cannot be read: {err}"
        return
    if found_keys != wanted or len(rows) != record.count:
        yield f"shard {record.name}: its tar, parquet and record list different videos"


def _manifest_problems(dataset: str) -> Iterator[str]:
    url = storage.join(dataset, "manifest.parquet")
    if not storage.exists(url):
        yield f"{url}: missing; run `pipeline run extract` to its end"
        return
    table = pq.read_table(pa.BufferReader(storage.read_bytes(url)))
    listed = dict(zip(table["shard"].to_pylist(), table["tar_sha256"].to_pylist(), strict=True))
    actual = {n: read_record(dataset, n).tar_sha256 for n in shard_numbers(dataset)}
    if listed != actual:
        yield f"{url}: does not list the shards that are there; run `pipeline run extract` again"


def _sha256(url: str) -> str:
    with fsspec.open(url, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
