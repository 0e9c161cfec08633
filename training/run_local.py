"""Training on this machine: in this process, in several, or as one process of torchrun.

All of them call the same `train` of a method (training.loop, training.xdc.loop); here is only who
calls it, and what becomes of its errors.
"""

import contextlib
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from extractors.errors import AbortError, PipelineError, UsageError
from training.config import TrainConfig
from training.loop import OnProgress, TrainProgress, train
from training.xdc.config import XdcConfig

_SPAWN = mp.get_context("spawn")  # forked torch and CUDA do not work

Train = Callable[[str, str, Any, torch.device, OnProgress], dict[str, float]]
"""How a method trains: dataset, run, its own settings, device, progress; the final metrics."""
Message = TrainProgress | logging.LogRecord | dict[str, float] | Exception


def train_local(
    dataset: str,
    output: str,
    config: TrainConfig | XdcConfig,
    device: torch.device,
    num_workers: int,
    on_progress: OnProgress = lambda progress: None,
    train: Train = train,
) -> dict[str, float]:
    """`train` by `num_workers` processes of this machine; returns the final metrics.

    One trains in this process. More are started as processes, each with its share of the cores
    and, on CUDA, a GPU of its own. Started by torchrun (WORLD_SIZE is set), this process is one of
    them whatever the machine, and `num_workers` must be 1. Raises what a worker raises, AbortError
    for one that died, UsageError for more workers than GPUs.
    """
    if "WORLD_SIZE" in os.environ:
        if num_workers != 1:
            raise UsageError(f"--workers {num_workers}: torchrun has started the workers already")
        return _train_launched(dataset, output, config, device, on_progress, train)
    if num_workers == 1:
        return train(dataset, output, config, device, on_progress)
    check_gpus(device, num_workers)
    level = logging.getLogger("training").getEffectiveLevel()
    arguments = (dataset, output, config, device.type, num_workers, level, train)
    with _worker_processes(arguments, num_workers) as pipes:
        return _follow(pipes, on_progress)


def is_reporter() -> bool:
    """Whether this process is the one to show progress: alone, or rank 0 under torchrun."""
    return "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0"


def check_gpus(device: torch.device, num_workers: int) -> None:
    """Raises UsageError where the workers of this machine would have to share a GPU."""
    if device.type == "cuda" and num_workers > torch.cuda.device_count():
        raise UsageError(
            f"--workers {num_workers}: this machine has {torch.cuda.device_count()} GPUs and "
            "each worker needs one; use fewer workers, or --device cpu"
        )


def share_of_cores(num_workers: int) -> int:
    """Threads for each of the workers of this machine. More than cores slow all of them down."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (usable or 1) // num_workers)


def own_device(kind: str, local_rank: int) -> torch.device:
    """A worker's device, made the current one."""
    if kind != "cuda":
        return torch.device(kind)
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def backend(kind: str) -> str:
    """What torch.distributed talks through."""
    return "nccl" if kind == "cuda" else "gloo"


def _train_launched(
    dataset: str,
    output: str,
    config: TrainConfig | XdcConfig,
    device: torch.device,
    on_progress: OnProgress,
    train: Train,
) -> dict[str, float]:
    """One process of torchrun, which has said in the environment who it is."""
    torch.set_num_threads(share_of_cores(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    own = own_device(device.type, int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(backend(device.type))
    try:
        return train(dataset, output, config, own, on_progress)
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _worker_processes(
    arguments: tuple[str, str, TrainConfig | XdcConfig, str, int, int, Train], num_workers: int
) -> Iterator[list[Connection]]:
    """The pipes of running workers, in the order of ranks. On the way out all are killed: what
    counts is published, and a worker may be waiting for one that is gone."""
    processes, pipes = [], []
    with tempfile.TemporaryDirectory(prefix="train-") as folder:  # where the workers meet
        try:
            for rank in range(num_workers):
                ours, theirs = _SPAWN.Pipe(duplex=False)
                process = _SPAWN.Process(  # no daemon: those may not start processes that read
                    target=_work, args=(theirs, f"{folder}/store", rank, *arguments)
                )
                process.start()
                theirs.close()
                processes.append(process)
                pipes.append(ours)
            yield pipes
        finally:
            for process in processes:
                process.kill()
            for process, pipe in zip(processes, pipes, strict=True):
                process.join()
                pipe.close()


def _follow(pipes: list[Connection], on_progress: OnProgress) -> dict[str, float]:
    """Passes progress and log lines on until rank 0 is done; raises the first worker's error."""
    while True:
        for pipe in wait(pipes):
            assert isinstance(pipe, Connection)
            try:
                message: Message = pipe.recv()
            except (EOFError, ConnectionError) as err:
                raise AbortError(
                    "a training process died (out of memory, or killed); run the same command "
                    "again to go on from the last checkpoint, with fewer --workers if memory is "
                    "short"
                ) from err
            if isinstance(message, Exception):
                raise message
            if isinstance(message, TrainProgress):
                on_progress(message)
            elif isinstance(message, logging.LogRecord):
                logging.getLogger(message.name).handle(message)
            elif pipe is pipes[0]:
                return message


def _work(
    pipe: Connection,
    store: str,
    rank: int,
    dataset: str,
    output: str,
    config: TrainConfig | XdcConfig,
    kind: str,
    num_workers: int,
    log_level: int,
    train: Train,
) -> None:
    """The life of a worker process. A bug's traceback goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the driver decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(share_of_cores(num_workers))
    logger = logging.getLogger("training")
    logger.setLevel(log_level)
    logger.addHandler(_ToDriver(pipe) if rank == 0 else logging.NullHandler())
    logger.propagate = False
    device = own_device(kind, rank)
    meeting = dist.FileStore(store, num_workers)  # type: ignore[attr-defined]
    dist.init_process_group(backend(kind), store=meeting, rank=rank, world_size=num_workers)

    def report(progress: TrainProgress) -> None:
        if rank == 0:
            pipe.send(progress)

    try:
        pipe.send(train(dataset, output, config, device, report))
    except (PipelineError, OSError) as err:
        pipe.send(err)
    # not ended one by one: the driver ends all, and who waits for the others' end may wait long
    signal.pause()


class _ToDriver(QueueHandler):
    """Log lines go where the driver's go, so that they do not cut through its progress bar."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__(SimpleQueue())
        self._pipe = pipe

    def enqueue(self, record: logging.LogRecord) -> None:
        """By the pipe, not by the queue."""
        self._pipe.send(record)


def _die_with_parent() -> None:
    """A driver that was killed cannot end its workers."""
    parent = mp.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
