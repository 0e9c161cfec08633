"""Jobs for clusters as text: KubeRay's RayJob, Slurm's sbatch with Ray in one allocation, and its
array of independent shard ranges without Ray.

What a machine must have follows from what a worker needs; nothing here asks a cluster.
"""

import json
import math
import re
import shlex
from dataclasses import dataclass
from importlib import metadata

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from extractors.errors import UsageError
from extractors.extractor import Resources

DRIVER_GPUS = 0.01
"""A RayJob's driver reserves this share, so that it starts on a worker: where the device is chosen
there must be one, and the head has none."""
MACHINE_MB = 4096
"""Beside the workers' models: the driver, Ray's own processes and its object store."""
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_URL = re.compile(r"[a-z0-9]+://.+")


@dataclass(frozen=True)
class Machines:
    """Machines of one kind, which hold all workers of a job."""

    count: int
    cpus: int
    """Of each."""
    gpus: int
    """Of each."""
    memory_mb: int
    """Of each."""


@dataclass(frozen=True)
class Command:
    """`pipeline run STAGE` with what follows it."""

    stage: str
    """extract, train or index."""
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        """For a shell: an option a line."""
        text = f"pipeline run {self.stage}"
        for argument in self.arguments:
            text += " \\\n    " if argument.startswith("--") else " "
            text += shlex.quote(argument)
        return text


@dataclass(frozen=True)
class RayJob:
    """What a RayJob is made from."""

    name: str
    image: str
    command: Command
    machines: Machines
    config: str
    """YAML over the preset; empty for none."""
    secret: str
    """Secret with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."""
    endpoint: str | None = None
    """Of the object store, where it is not Amazon's."""
    weights_claim: str | None = None
    """PersistentVolumeClaim of the weights' cache; None: each machine fetches its own."""


@dataclass(frozen=True)
class SlurmJob:
    """What an sbatch script is made from."""

    name: str
    command: Command
    machines: Machines
    time: str
    """Limit, as Slurm writes it."""
    partition: str | None = None
    setup: tuple[str, ...] = ()
    """Shell lines that put `pipeline` and `ray` on PATH."""


@dataclass(frozen=True)
class SlurmArray:
    """What an sbatch script of shard ranges is made from."""

    task: SlurmJob
    """Its command lacks the range."""
    plan: Command
    """Writes the plan."""
    close: Command
    """Extracts what is left and publishes the manifest."""
    tasks: int
    """At most."""


def place_path(option: str, value: str) -> str:
    """The value, where every machine can understand it. Raises UsageError for a relative path."""
    if value.startswith("/") or _URL.fullmatch(value):
        return value
    raise UsageError(
        f"{option} {value}: relative to this folder, which no machine of the cluster knows; "
        "give a URL or an absolute path that all of them see"
    )


def pods(worker: Resources, workers: int, *, cuda: bool) -> Machines:
    """As many pods as the workers need: with CUDA one GPU each and the workers that share it, the
    first beside the driver; else one worker each.

    Raises UsageError with CUDA for workers that use no GPU.
    """
    if not cuda:
        return _machines(worker, workers, 1, gpus=0)
    each = _workers_a_gpu(worker, 1.0)
    beside_driver = _workers_a_gpu(worker, 1 - DRIVER_GPUS)
    count = 1 + math.ceil(max(0, workers - beside_driver) / each)
    return _machines(worker, count, min(each, workers), gpus=1)


def nodes(worker: Resources, workers: int, count: int, *, cuda: bool) -> Machines:
    """`count` nodes that share the workers evenly. Raises UsageError for fewer workers than nodes,
    and with CUDA for workers that use no GPU."""
    if workers < count:
        raise UsageError(f"--nodes {count}: more than the {workers} workers that would use them")
    each = math.ceil(workers / count)
    gpus = math.ceil(each / _workers_a_gpu(worker, 1.0)) if cuda else 0
    return _machines(worker, count, each, gpus=gpus)


def alone(worker: Resources, workers: int, *, cuda: bool) -> Machines:
    """One node without Ray, where all processes work on the same GPU. Raises UsageError with CUDA
    for more workers than share one, and for workers that use none."""
    if cuda and workers > (share := _workers_a_gpu(worker, 1.0)):
        raise UsageError(
            f"--workers {workers}: a task of --array has one GPU, which {share} of these workers "
            "share; ask for more tasks instead"
        )
    return _machines(worker, 1, workers, gpus=int(cuda))


def render_rayjob(job: RayJob) -> str:
    """A ConfigMap and the RayJob that uses it, as YAML. Raises UsageError for a bad name."""
    _check_name(job.name)
    ray_version = metadata.version("ray")
    return _template("rayjob.yaml").render(job=job, ray_version=ray_version)


def render_array(array: SlurmArray) -> str:
    """A script that submits itself, by sbatch, as tasks and as what closes them. Raises as
    `render_sbatch` does."""
    _check_slurm(array.task)
    return _template("array.sbatch").render(array=array, job=array.task)


def render_sbatch(job: SlurmJob) -> str:
    """A script for sbatch. Raises UsageError for a bad name, limit or partition."""
    _check_slurm(job)
    return _template("ray.sbatch").render(job=job)


def _check_slurm(job: SlurmJob) -> None:
    _check_name(job.name)
    for option, value in (("--time", job.time), ("--partition", job.partition)):
        if value is not None and not re.fullmatch(r"[\w:,.-]+", value):
            raise UsageError(f"{option} {value!r}: letters, digits and :,.-_ only")


def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("pipeline", "templates/deploy"),
        autoescape=False,  # noqa: S701  # YAML and shell: what comes from outside is quoted
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = json.dumps
    return environment.get_template(name)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"--name {name}: lower-case letters, digits and -, from a letter, at most 40"
        )


def _workers_a_gpu(worker: Resources, free: float) -> int:
    if worker.gpus <= 0:
        raise UsageError("--device cuda: these settings use no GPU; use --device cpu")
    return math.floor(free / worker.gpus + 1e-9)  # 1 / 0.1 must be ten


def _machines(worker: Resources, count: int, each: int, *, gpus: int) -> Machines:
    """With a core for the driver and Ray."""
    cpus = math.ceil(each * worker.cpus) + 1
    return Machines(count, cpus, gpus, each * worker.memory_mb + MACHINE_MB)
