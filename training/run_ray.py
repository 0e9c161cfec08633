"""Training on a Ray cluster: Ray Train starts the workers, joins them, and starts them again.

The checkpoints stay ours: a worker group that lost a worker is started anew and goes on from the
run's last checkpoint, as any killed run does. `RAY_ADDRESS` or `ray job submit` decide which
cluster; without one, a local one starts.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from typing import Any

import pyarrow.fs
import ray
import ray.train  # configures its loggers: before ours quiets them
import torch
from ray.exceptions import RayError
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from extractors.errors import AbortError, PipelineError
from pipeline import storage
from pipeline.cluster import joined_cluster
from pipeline.resources import TRAIN_CPUS
from training.config import TrainConfig
from training.loop import OnProgress, TrainProgress, train
from training.run_local import Train, backend, check_gpus, share_of_cores
from training.xdc.config import XdcConfig

RESTARTS = 3
"""How often a run is taken up again after losing a worker, before it is given up."""
REPORT_SECONDS = 0.25
"""Least time from one report of progress to the next."""


@dataclass(frozen=True)
class _Task:
    """What a worker needs to know."""

    dataset: str
    output: str
    config: TrainConfig | XdcConfig
    threads: int
    mailbox: Any
    """Handle of the `_Mailbox` actor."""
    train: Train
    """Of the method."""


@dataclass(frozen=True)
class _Mail:
    """What the driver reads."""

    progress: TrainProgress | None = None
    metrics: dict[str, float] | None = None
    error: Exception | None = None


class _Mailbox:
    """An actor between workers and driver; it outlives the workers."""

    def __init__(self) -> None:
        self._mail: dict[str, Any] = {}

    def put(self, **mail: Any) -> None:
        """Replaces fields of the mail."""
        self._mail |= mail

    def read(self) -> _Mail:
        """The newest of all fields."""
        return _Mail(**self._mail)


def train_ray(
    dataset: str,
    output: str,
    config: TrainConfig | XdcConfig,
    device: torch.device,
    num_workers: int,
    on_progress: OnProgress = lambda progress: None,
    train: Train = train,
) -> dict[str, float]:
    """`train` by `num_workers` workers of Ray Train; returns the final metrics.

    On a cluster of several machines `dataset` and `output` must be places that all of them see.
    A worker that dies takes the others with it, and all start again from the last checkpoint, at
    most `RESTARTS` times. Raises what a worker raises, AbortError for a run that was given up.
    """
    dataset, output = _absolute(dataset), _absolute(output)
    # the pool outside: leaving the cluster ends the call that the pool would wait for
    with futures.ThreadPoolExecutor(1) as pool, _ray_cluster(device, num_workers) as cpus:
        mailbox = ray.remote(num_cpus=0)(_Mailbox).remote()
        task = _Task(dataset, output, config, cpus, mailbox, train)
        trainer = _trainer(task, device, num_workers)
        try:
            # in a thread: in the main one Ray would take over what an interrupt does
            running = pool.submit(trainer.fit)
            mail = _follow(running, mailbox, on_progress)
            if mail.error is not None:
                raise mail.error
            running.result()
        except (RayError, ray.train.TrainingFailedError) as err:
            lines = str(err).strip().splitlines() or [type(err).__name__]
            raise AbortError(
                f"Ray: {lines[-1]}; run the same command again to go on from the last checkpoint"
            ) from err
        finally:
            _remove_folder(_ray_folder(output))
    if mail.metrics is None:
        raise AbortError(f"Ray: the workers of {output} ended without a result")
    return mail.metrics


def _trainer(task: _Task, device: torch.device, num_workers: int) -> TorchTrainer:
    filesystem, path = storage.locate(_ray_folder(task.output))
    local = storage.local_path(task.output) is not None
    handler = None if local else pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))
    return TorchTrainer(
        _work,
        train_loop_config={"task": task},
        torch_config=TorchConfig(backend=backend(device.type)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,
            use_gpu=device.type == "cuda",
            resources_per_worker={"CPU": task.threads},
        ),
        run_config=ray.train.RunConfig(
            name="train",
            storage_path=path,
            storage_filesystem=handler,
            failure_config=ray.train.FailureConfig(max_failures=RESTARTS),
        ),
    )


def _follow(
    running: "futures.Future[ray.train.Result]", mailbox: Any, on_progress: OnProgress
) -> _Mail:
    """Passes progress on until the workers have ended; the last mail."""
    shown = None
    while True:
        ended = bool(futures.wait([running], timeout=REPORT_SECONDS).done)
        mail: _Mail = ray.get(mailbox.read.remote())
        if mail.progress is not None and mail.progress != shown:
            shown = mail.progress
            on_progress(shown)
        if ended:
            return mail


def _work(config: dict[str, _Task]) -> None:
    """The life of a worker; Ray has set up torch.distributed.

    An error of ours is put into the mailbox, since starting again would not mend it: the workers
    that Ray starts next find it there and end at once.
    """
    task = config["task"]
    if ray.get(task.mailbox.read.remote()).error is not None:
        return
    torch.set_num_threads(task.threads)
    rank = ray.train.get_context().get_world_rank()
    reported = 0.0

    def report(progress: TrainProgress) -> None:
        nonlocal reported
        due = time.monotonic() - reported >= REPORT_SECONDS
        if rank == 0 and (due or progress.step == progress.total_steps):
            reported = time.monotonic()
            task.mailbox.put.remote(progress=progress)

    try:
        metrics = task.train(task.dataset, task.output, task.config, get_device(), report)
    except (PipelineError, OSError) as err:
        ray.get(task.mailbox.put.remote(error=err))
        raise
    if rank == 0:
        ray.get(task.mailbox.put.remote(metrics=metrics))


@contextlib.contextmanager
def _ray_cluster(device: torch.device, num_workers: int) -> Iterator[int]:
    """Joins the cluster of RAY_ADDRESS or of the job, else starts one here and ends it.

    Gives the cores of each worker.
    """
    if not ray.is_initialized() and not os.environ.get("RAY_ADDRESS"):
        check_gpus(device, num_workers)
    with joined_cluster(num_workers * share_of_cores(num_workers)) as ours:
        yield share_of_cores(num_workers) if ours else _cores_of_cluster(num_workers)


def _cores_of_cluster(num_workers: int) -> int:
    share = ray.cluster_resources().get("CPU", 1) / num_workers  # type: ignore[no-untyped-call]
    return max(1, min(TRAIN_CPUS, int(share)))


def _absolute(url: str) -> str:
    """Ray's workers run in a folder of their own."""
    path = storage.local_path(url)
    return url if path is None else str(path)


def _ray_folder(output: str) -> str:
    """Where Ray Train keeps its own books while it runs; its workers must all see it."""
    return storage.join(output, ".ray")


def _remove_folder(url: str) -> None:
    filesystem, path = storage.locate(url)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)
