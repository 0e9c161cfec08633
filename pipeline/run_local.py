"""Jobs on this machine: in this process, or in several."""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import torch

from extractors.errors import AbortError
from pipeline.config import ExtractConfig
from pipeline.jobs import Job, run_job
from pipeline.shards import ShardRecord
from pipeline.worker import Worker

_worker: Worker | None = None
"""The worker of this process, where it is one of a pool's."""


def run_local(
    jobs: Sequence[Job], config: ExtractConfig, device: torch.device, num_workers: int
) -> Iterator[ShardRecord]:
    """Runs the jobs, giving each record as its shard is published. Raises AbortError."""
    if num_workers == 1:
        with Worker(config, device) as worker:
            yield from (run_job(job, worker) for job in jobs)
        return
    pool = ProcessPoolExecutor(
        max_workers=min(num_workers, len(jobs)),
        mp_context=multiprocessing.get_context("spawn"),  # forked torch and CUDA do not work
        initializer=_start_worker,
        initargs=(config, device),
    )
    try:
        for future in as_completed([pool.submit(_run_in_worker, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as err:
        raise AbortError(
            "a worker process died (out of memory, or killed); finished shards are kept: run the "
            "same command again, with fewer --workers if memory is short"
        ) from err
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(config: ExtractConfig, device: torch.device) -> None:
    global _worker
    _worker = Worker(config, device).__enter__()


def _run_in_worker(job: Job) -> ShardRecord:
    assert _worker is not None
    return run_job(job, _worker)
