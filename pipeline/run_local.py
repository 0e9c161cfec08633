"""Jobs on this machine: in this process, or in several."""

import queue
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import torch

from pipeline.attempts import left_behind
from pipeline.config import ExtractConfig
from pipeline.jobs import Job
from pipeline.shards import ShardRecord
from pipeline.worker import Worker
from pipeline.worker_process import Task, WorkerProcess, attempt


def run_local(
    jobs: Sequence[Job], config: ExtractConfig, device: torch.device, num_workers: int
) -> Iterator[ShardRecord]:
    """Runs the jobs, giving each record as its shard is published.

    Several workers are processes, which are replaced when they die. One works in this process,
    unless its memory is bounded, or a run before this one died at a shard: this one must outlive
    what killed it.
    Raises what a worker raises: AbortError, UsageError, OSError.
    """
    if not jobs:
        return
    task = Task(config, device, run=secrets.token_hex(8))
    apart = num_workers > 1 or config.worker_memory_mb is not None
    if apart or left_behind(jobs[0].dataset):
        yield from _run_in_processes(jobs, task, min(num_workers, len(jobs)))
        return
    with Worker(config, device) as worker:
        yield from (attempt(job, worker, task) for job in jobs)


def _run_in_processes(jobs: Sequence[Job], task: Task, num_workers: int) -> Iterator[ShardRecord]:
    """A thread a process, which waits for it. On the way out all processes are stopped, whatever
    they are doing."""
    processes = [WorkerProcess(task) for _ in range(num_workers)]
    free: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
    for process in processes:
        free.put(process)

    def run(job: Job) -> ShardRecord:
        process = free.get()
        try:
            return process.run(job)
        finally:
            free.put(process)

    threads = ThreadPoolExecutor(num_workers)
    try:
        for future in as_completed([threads.submit(run, job) for job in jobs]):
            yield future.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()  # all at once, before any is waited for
        for process in processes:
            process.stop()
        threads.shutdown()
