"""`run extract`: plan, run the jobs that are missing, publish the manifest."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from extractors.errors import AbortError
from pipeline.config import ExtractConfig, dataset_fingerprint
from pipeline.dataset import check_version, read_records, write_dataset_card, write_manifest
from pipeline.jobs import Job, make_jobs
from pipeline.plan import extend_plan, read_plan, write_plan
from pipeline.shards import ShardRecord
from pipeline.sources import read_source

Executor = Literal["local", "ray"]


@dataclass(frozen=True)
class Todo:
    """What a run has before it."""

    jobs: tuple[Job, ...]
    done: tuple[ShardRecord, ...]
    """Shards that are there already and still true."""

    @property
    def num_videos(self) -> int:
        """Videos of the jobs."""
        return sum(len(job.videos) for job in self.jobs)


def plan_extract(
    source: str, dataset: str, config: ExtractConfig, *, retry_failed: bool = False
) -> Todo:
    """Extends the dataset's plan by what the source lists and finds the shards to make.

    With `retry_failed`, shards that hold failed videos are made again.

    Raises UsageError for a source without videos, AbortError for a dataset of another version or
    one that cannot be written.
    """
    videos = read_source(source)
    with _aborting_on_os_errors(dataset):
        check_version(dataset)
        plan = extend_plan(read_plan(dataset), videos, config)
        jobs = make_jobs(dataset, plan, dataset_fingerprint(config))
        records = read_records(dataset)
        write_plan(dataset, plan)
        write_dataset_card(dataset, config)
    wanted = {job.number: job.digest for job in jobs}
    done = [
        record
        for record in records
        if wanted.get(record.number) == record.job and not (retry_failed and record.reasons)
    ]
    numbers = {record.number for record in done}
    return Todo(tuple(job for job in jobs if job.number not in numbers), tuple(done))


def run_extract(
    todo: Todo,
    dataset: str,
    config: ExtractConfig,
    device: torch.device,
    *,
    executor: Executor,
    num_workers: int,
    on_record: Callable[[ShardRecord], None],
) -> list[ShardRecord]:
    """Runs the jobs and publishes the manifest. Gives the records of the whole dataset.

    Raises AbortError: a worker that died, a full disk, weights that are missing.
    """
    with _aborting_on_os_errors(dataset):
        if todo.jobs:
            _run(todo.jobs, config, device, executor, num_workers, on_record)
        records = read_records(dataset)
        write_manifest(dataset, records)
    return records


@contextmanager
def _aborting_on_os_errors(dataset: str) -> Iterator[None]:
    """A full disk, a folder that cannot be written, a network that is gone: one line."""
    try:
        yield
    except OSError as err:
        raise AbortError(f"{dataset}: {err}; finished shards are kept") from err


def _run(
    jobs: Sequence[Job],
    config: ExtractConfig,
    device: torch.device,
    executor: Executor,
    num_workers: int,
    on_record: Callable[[ShardRecord], None],
) -> None:
    if executor == "ray":
        from pipeline.run_ray import run_ray as run  # ray takes two seconds to import
    else:
        from pipeline.run_local import run_local as run
    for record in run(jobs, config, device, num_workers):
        on_record(record)
