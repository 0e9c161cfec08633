"""Jobs on this machine: in this process, or in several."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from types import FrameType

import torch

from extractors.errors import AbortError, PipelineError
from pipeline.config import ExtractConfig
from pipeline.jobs import Job, run_job
from pipeline.shards import ShardRecord
from pipeline.worker import Worker

_SPAWN = multiprocessing.get_context("spawn")  # forked torch and CUDA do not work
STOP_SECONDS = 10.0
"""How long a worker that was told to stop may take before it is killed."""


def run_local(
    jobs: Sequence[Job], config: ExtractConfig, device: torch.device, num_workers: int
) -> Iterator[ShardRecord]:
    """Runs the jobs, giving each record as its shard is published.

    Raises what a worker raises (AbortError, UsageError, OSError), and AbortError for one that died.
    """
    if num_workers > 1:
        yield from _run_in_processes(jobs, config, device, min(num_workers, len(jobs)))
        return
    with Worker(config, device) as worker:
        yield from (run_job(job, worker) for job in jobs)


def _run_in_processes(
    jobs: Sequence[Job], config: ExtractConfig, device: torch.device, num_workers: int
) -> Iterator[ShardRecord]:
    """One pipe a worker: jobs go down it, records or an error come up. A worker that dies is an
    end of file on its pipe, so that nobody waits for it."""
    waiting = deque(jobs)
    with _worker_processes(config, device, num_workers) as pipes:
        while pipes:
            for pipe in wait(pipes):
                assert isinstance(pipe, Connection)
                record = _receive(pipe)
                if waiting:
                    pipe.send(waiting.popleft())
                else:
                    pipes.remove(pipe)
                if record is not None:
                    yield record


@contextlib.contextmanager
def _worker_processes(
    config: ExtractConfig, device: torch.device, num_workers: int
) -> Iterator[list[Connection]]:
    """The pipes of running workers. On the way out all are stopped, whatever they are doing."""
    processes, pipes = [], []
    try:
        for _ in range(num_workers):
            ours, theirs = _SPAWN.Pipe()
            process = _SPAWN.Process(target=_work, args=(theirs, config, device), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        yield list(pipes)
    finally:
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process, pipe in zip(processes, pipes, strict=True):
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.join()
            pipe.close()


def _receive(pipe: Connection) -> ShardRecord | None:
    """The record of a finished job; None from a worker that has just loaded its models."""
    try:
        answer: ShardRecord | Exception | None = pipe.recv()
    except (EOFError, ConnectionError) as err:
        raise AbortError(
            "a worker process died (out of memory, or killed); finished shards are kept: run the "
            "same command again, with fewer --workers if memory is short"
        ) from err
    if isinstance(answer, Exception):
        raise answer
    return answer


def _work(pipe: Connection, config: ExtractConfig, device: torch.device) -> None:
    """The life of a worker process. A bug's traceback goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the driver decides
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    record = None
    try:
        with Worker(config, device) as worker:
            while True:
                pipe.send(record)
                record = run_job(pipe.recv(), worker)
    except EOFError:
        return  # the driver is gone
    except (PipelineError, OSError) as err:
        with contextlib.suppress(ConnectionError):
            pipe.send(err)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """Leaves by way of every `finally`: the ffmpeg child is reaped, half a shard removed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(1)


def _stop_with_parent() -> None:
    """A driver that was killed cannot tell its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
