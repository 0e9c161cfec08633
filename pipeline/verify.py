"""Whether a dataset is what its records say."""

import hashlib
import tarfile
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.dataset import manifest_table, read_dataset_card, read_records
from pipeline.jobs import make_jobs
from pipeline.plan import read_plan
from pipeline.samples import read_shard
from pipeline.shards import ShardRecord, read_rows, shard_name, shard_url


def verify_dataset(dataset: str) -> list[str]:
    """One line a problem; empty where tar, parquet, record, plan and manifest agree."""
    card = read_dataset_card(dataset)
    records = read_records(dataset)
    problems = [line for record in records for line in _shard_problems(dataset, record)]
    problems += _plan_problems(dataset, records, card["fingerprint"])
    if not problems:  # the manifest repeats what the shards say
        problems += _manifest_problems(dataset, records)
    return problems


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


def stale_shards(dataset: str) -> list[int]:
    """Numbers of the shards made of other videos or settings than the plan and dataset.json say."""
    made = {record.number: record.job for record in read_records(dataset)}
    jobs = make_jobs(dataset, read_plan(dataset), read_dataset_card(dataset)["fingerprint"])
    return [job.number for job in jobs if made.get(job.number, job.digest) != job.digest]


def _plan_problems(dataset: str, records: Sequence[ShardRecord], fingerprint: str) -> Iterator[str]:
    made = {record.number: record.job for record in records}
    for job in make_jobs(dataset, read_plan(dataset), fingerprint):
        name = shard_name(job.number)
        if job.number not in made:
            yield f"shard {name}: planned, not made yet; run `pipeline run extract` to its end"
        elif made[job.number] != job.digest:
            yield f"shard {name}: made of other videos or settings; run `pipeline run extract`"


def _manifest_problems(dataset: str, records: Sequence[ShardRecord]) -> Iterator[str]:
    url = storage.join(dataset, "manifest.parquet")
    if not storage.exists(url):
        yield f"{url}: missing; run `pipeline run extract` to its end"
        return
    try:
        listed = pq.read_table(pa.BufferReader(storage.read_bytes(url)))
    except pa.ArrowInvalid as err:
        yield f"{url}: cannot be read: {err}"
        return
    if not listed.equals(manifest_table(dataset, records)):
        yield f"{url}: does not list the shards that are there; run `pipeline run extract` again"


def _sha256(url: str) -> str:
    with storage.open_binary(url) as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
