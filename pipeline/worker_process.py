"""A worker in a process of its own, which may die: it is replaced, and its job begun again.

Both executors run jobs here, so that a video that crashes a codec or a network, or takes all
memory, ends neither the driver nor an actor of Ray. How often a shard is begun again, and which
video is left out, `pipeline.attempts` decides, in the process that works.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType

import psutil
import torch

from extractors.errors import AbortError, PipelineError
from pipeline import storage
from pipeline.attempts import watching
from pipeline.config import ExtractConfig
from pipeline.jobs import Job, run_job
from pipeline.shards import ShardRecord
from pipeline.worker import Worker

_SPAWN = multiprocessing.get_context("spawn")  # forked torch and CUDA do not work
STOP_SECONDS = 10.0
"""How long a worker that was told to stop may take before it is killed."""


@dataclass(frozen=True)
class Task:
    """What a worker process is started with."""

    config: ExtractConfig
    device: torch.device
    run: str
    """Id of the run, for pipeline.attempts."""


@dataclass(frozen=True)
class Answer:
    """What comes up the pipe: nothing but `memory_mb` from a worker that has just loaded."""

    record: ShardRecord | None = None
    error: Exception | None = None
    memory_mb: int = 0
    """Resident memory of the process after the job."""
    last: bool = False
    """The process ends now: it has grown past `worker_memory_mb`."""


class _DiedError(Exception):
    """The process is gone without a word."""


def attempt(job: Job, worker: Worker, task: Task) -> ShardRecord:
    """One attempt of this process at a job, watched."""
    limit = task.config.max_attempts
    with watching(job.dataset, job.number, job.digest, task.run, limit) as watch:
        return run_job(job, worker, watch)


class WorkerProcess:
    """Keeps one worker process, from its first job until `stop`, which any thread may call."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._lock = threading.Lock()
        self._stopped = False
        self.memory_mb = 0
        """Resident memory of the process after its last job; 0 before the first."""

    def run(self, job: Job) -> ShardRecord:
        """The record of a job, however many processes it takes.

        Raises what the job raises (AbortError, UsageError, OSError), and AbortError for one whose
        processes die and die, or after `stop`.
        """
        # more than pipeline.attempts allows: it holds even where nothing can be written
        for _ in range(2 * self._task.config.max_attempts + len(job.videos)):
            with contextlib.suppress(_DiedError):
                return self._try(job)
            self._end()
            for folder in ("shards", "attempts"):
                storage.sweep(storage.join(job.dataset, folder))
        raise AbortError(f"shard {job.number:06d}: its worker process died again and again")

    def _try(self, job: Job) -> ShardRecord:
        pipe = self._pipe or self._start()
        try:
            pipe.send(job)
        except ConnectionError as err:
            raise _DiedError from err
        answer = _receive(pipe)
        if answer.error is not None:
            raise answer.error
        assert answer.record is not None
        self.memory_mb = answer.memory_mb
        if answer.last:
            self._end()
        return answer.record

    def _start(self) -> Connection:
        """The pipe of a process that has loaded its models."""
        for _ in range(self._task.config.max_attempts):
            pipe = self._spawn()
            try:
                answer = _receive(pipe)
            except _DiedError:
                self._end()
                continue
            if answer.error is not None:
                raise answer.error
            return pipe
        raise AbortError(
            f"a worker process died {self._task.config.max_attempts} times while it loaded its "
            "models (out of memory, or killed); finished shards are kept: run the same command "
            "again, with fewer --workers if memory is short"
        )

    def _spawn(self) -> Connection:
        ours, theirs = _SPAWN.Pipe()
        with self._lock:
            if self._stopped:
                raise AbortError("the run was stopped")
            self._process = _SPAWN.Process(target=_work, args=(theirs, self._task), daemon=True)
            self._process.start()
            self._pipe = ours
        theirs.close()
        return ours

    def terminate(self) -> None:
        """Tells the process to stop, whatever it is doing, and starts no other."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.terminate()

    def stop(self) -> None:
        """Ends the process; returns when it is gone."""
        self.terminate()
        self._end()

    def _end(self) -> None:
        with self._lock:
            process, pipe, self._process, self._pipe = self._process, self._pipe, None, None
        if process is not None and pipe is not None:
            process.join(STOP_SECONDS)
            process.kill()
            process.join()
            pipe.close()


def _receive(pipe: Connection) -> Answer:
    try:
        answer: Answer = pipe.recv()
    except (EOFError, OSError) as err:  # OSError: closed by `stop`
        raise _DiedError from err
    return answer


def _work(pipe: Connection, task: Task) -> None:
    """The life of a worker process. A bug's traceback goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the driver decides
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        with Worker(task.config, task.device) as worker:
            answer = Answer()
            pipe.send(answer)
            while not answer.last:
                record = attempt(pipe.recv(), worker, task)
                memory_mb = resident_mb()
                limit = task.config.worker_memory_mb
                answer = Answer(record, None, memory_mb, limit is not None and memory_mb > limit)
                pipe.send(answer)
    except (EOFError, ConnectionError):
        return  # the driver is gone
    except (PipelineError, OSError) as err:
        with contextlib.suppress(ConnectionError):
            pipe.send(Answer(error=err))


def resident_mb() -> int:
    """Resident memory of this process, in 2^20 bytes."""
    return int(psutil.Process().memory_info().rss) >> 20


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
