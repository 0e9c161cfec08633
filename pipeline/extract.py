"""`run extract`: hold the plan against what is published, run the jobs that are missing or stale,
publish the manifest."""

import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from extractors.caption_tables import build_index
from extractors.errors import AbortError, UsageError
from extractors.preflight import provide_weights
from extractors.weights import Weights
from pipeline import attempts, storage
from pipeline.config import ExtractConfig
from pipeline.dataset import (
    check_extractable,
    read_dataset_card,
    read_records,
    write_dataset_card,
    write_manifest,
)
from pipeline.jobs import Job, make_jobs
from pipeline.plan import (
    PlannedVideo,
    PlanUpdate,
    extend_plan,
    plan_url,
    read_plan,
    write_plan,
)
from pipeline.provenance import dataset_fingerprint
from pipeline.quarantine import read_quarantine
from pipeline.shard_range import ShardRange
from pipeline.shards import ShardRecord, broken_shards, shard_url
from pipeline.sources import read_source

_log = logging.getLogger(__name__)

Executor = Literal["local", "ray"]


@dataclass(frozen=True)
class Todo:
    """What a run has before it."""

    update: PlanUpdate
    jobs: tuple[Job, ...]
    """Of the shards that are missing, stale, or hold videos to be tried again."""
    done: tuple[ShardRecord, ...]
    """Shards that are there already and still true."""
    stale: dict[int, ShardRecord]
    """By number, the records of the shards that are to be made again."""
    orphans: tuple[ShardRecord, ...]
    """Shards that the plan no longer knows."""
    broken: frozenset[int] = frozenset()
    """Numbers of stale shards whose files are gone or cut (`shards.broken_shards`)."""
    shards: ShardRange | None = None
    """All of this is of these shards alone: plan, card and manifest are not this run's to write."""

    def left(self, records: Iterable[ShardRecord]) -> list[ShardRecord]:
        """Those of a run's records that are of an earlier edition: see `jobs.run_job`."""
        wanted = {job.number: job.digest for job in self.jobs}
        return [r for r in records if r.job != wanted.get(r.number, r.job)]

    @property
    def num_videos(self) -> int:
        """Videos of the jobs."""
        return sum(len(job.videos) for job in self.jobs)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """A plan of a million videos has no cycles, and takes a quarter longer where the collector
    walks it again and again while it grows."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_collector_paused()
def compare(
    source: str | None,
    dataset: str,
    config: ExtractConfig,
    *,
    retry: Mapping[int, Sequence[str]] | None = None,
    prune: bool = False,
    drop_failed: bool = False,
    shards: ShardRange | None = None,
) -> Todo:
    """What a run would do; nothing is written. Without a source, the plan is as it is.

    `retry` holds keys of failed videos to be tried again, by shard; `prune` drops the videos that
    the source no longer lists, `drop_failed` those that must be opened again and fail
    now; nothing is said of other shards than `shards`. Raises UsageError for a source without
    videos, AbortError for a dataset of another version.
    """
    language = config.speech.caption_language if config.speech else None
    videos = read_source(source, language) if source is not None else None
    check_extractable(dataset)
    plan = read_plan(dataset)
    if videos is None:
        update = PlanUpdate(plan, added=0, unlisted=(), renamed={})
    else:
        update = extend_plan(plan, videos, config, prune=prune)
    wanted = shards or ShardRange(0, None)
    records = {record.number: record for record in read_records(dataset, wanted)}
    if records and not plan:
        raise AbortError(
            f"{plan_url(dataset)}: missing, while {len(records)} shards are there; restore it from "
            "a copy, or extract into a new folder: which video is in which shard cannot be known"
        )
    broken = broken_shards(dataset, list(records.values()))
    planned = make_jobs(
        dataset,
        (planned for planned in update.plan if planned.shard in wanted),
        dataset_fingerprint(config),
        read_quarantine(dataset),
        retry,
        drop_failed=drop_failed,
    )
    jobs, done = [], []
    for job in planned:
        record = records.pop(job.number, None)
        if record is None or job.retry or job.number in broken or record.job != job.digest:
            jobs.append((job, record))
        else:
            done.append(record)
    stale = {job.number: record for job, record in jobs if record is not None}
    orphans = tuple(records.values())
    todo = tuple(job for job, _ in jobs)
    return Todo(update, todo, tuple(done), stale, orphans, frozenset(broken), shards)


def plan_extract(
    source: str | None,
    dataset: str,
    config: ExtractConfig,
    *,
    retry: Mapping[int, Sequence[str]] | None = None,
    prune: bool = False,
    drop_failed: bool = False,
) -> Todo:
    """As `compare`, and publishes the plan and the dataset's card; shards that `prune` left without
    a video are removed.

    Raises AbortError where the dataset cannot be written.
    """
    with _aborting_on_os_errors(dataset):
        todo = compare(source, dataset, config, retry=retry, prune=prune, drop_failed=drop_failed)
        if todo.update.changed:
            write_plan(dataset, todo.update.plan)
        write_dataset_card(dataset, config)
        for orphan in todo.orphans if prune else ():
            for suffix in ("_stats.json", ".tar", ".parquet"):  # the record first: no shard
                storage.remove(shard_url(dataset, orphan.number, suffix))
    return todo


def plan_range(
    dataset: str,
    config: ExtractConfig,
    shards: ShardRange,
    *,
    retry: Mapping[int, Sequence[str]] | None = None,
    drop_failed: bool = False,
) -> Todo:
    """As `compare`, of some shards of the plan as it is; nothing is written.

    Raises UsageError where nothing is planned yet, where the plan was made with other settings, or
    has none of these shards.
    """
    with _aborting_on_os_errors(dataset):
        check_planned(dataset, config)
        todo = compare(None, dataset, config, retry=retry, drop_failed=drop_failed, shards=shards)
    if not todo.jobs and not todo.done:
        planned = num_shards(todo.update.plan)
        raise UsageError(f"--shards {shards}: none of these is planned; the plan of {dataset} has "
                         f"the shards 0:{planned}")  # fmt: skip
    return todo


def check_planned(dataset: str, config: ExtractConfig) -> None:
    """Raises UsageError where a dataset has no plan yet, or one that was made with settings that
    give other shards."""
    check_extractable(dataset)
    if not storage.exists(plan_url(dataset)):
        raise UsageError(f"--shards: {dataset} has no plan yet; write it first, once, with "
                         "`pipeline run extract --plan-only`")  # fmt: skip
    if read_dataset_card(dataset).get("fingerprint") != dataset_fingerprint(config):
        raise UsageError(f"--shards: {dataset} was planned with other settings or weights; plan "
                         "again with these: `pipeline run extract --plan-only`")  # fmt: skip


def num_shards(plan: Iterable[PlannedVideo]) -> int:
    """One more than the highest number of a shard."""
    return 1 + max((planned.shard for planned in plan), default=-1)


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
    """Runs the jobs and publishes the manifest. Gives the records of the whole dataset; of a range
    those of its shards, and publishes none.

    Weights and the table of captions are made ready first, once, not by every worker. Raises
    AbortError: a worker that died again and again, a full disk, weights that are missing.
    """
    made: list[ShardRecord] = []
    with _aborting_on_os_errors(dataset):
        if todo.jobs:
            make_ready(config)
            for record in _run(todo.jobs, config, device, executor, num_workers):
                made.append(record)
                on_record(record)
            if todo.shards is None:  # other runs' attempts may be under way
                attempts.forget(dataset)
        # not from a listing, which may lag behind in a bucket
        records = sorted((*todo.done, *made), key=lambda record: record.number)
        if todo.shards is None:
            write_manifest(dataset, records)
    return records


def make_ready(config: ExtractConfig) -> None:
    """What all workers need and one of them should fetch or make: weights, the index of a table of
    captions. Raises as `run_extract` does."""
    provide_weights(config.wanted, config.speech, config.text, on_fetch=_tell_fetch)
    if config.speech is not None and config.speech.caption_table is not None:
        build_index(config.speech.caption_table)


def _tell_fetch(weights: Weights) -> None:
    _log.info("fetching the weights of %s from %s", weights.name, weights.source)


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
) -> Iterator[ShardRecord]:
    if executor == "ray":
        from pipeline.run_ray import run_ray as run  # ray takes two seconds to import
    else:
        from pipeline.run_local import run_local as run
    return run(jobs, config, device, num_workers)
