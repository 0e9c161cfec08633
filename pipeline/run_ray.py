"""Jobs on a Ray cluster: Ray Data moves them to actors, one task a shard.

The plan, the shards and the records stay ours: what Ray sees is a list of jobs and a list of
records. `RAY_ADDRESS` or `ray job submit` decide which cluster; without one, a local one starts.
"""

import json
import math
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import ray
import ray.data  # configures its loggers: before pipeline.cluster quiets them
import torch
from pydantic import TypeAdapter
from ray.util.metrics import Counter, Gauge, Histogram

from extractors.errors import AbortError, PipelineError
from extractors.extractor import Resources
from pipeline.cluster import aborting_on_ray_errors, joined_cluster
from pipeline.config import ExtractConfig
from pipeline.jobs import Job
from pipeline.metrics import MEMORY, SHARD_SECONDS, WORKER_METRICS, Metric, samples
from pipeline.resources import worker_resources
from pipeline.shards import ShardRecord
from pipeline.worker_process import Task, WorkerProcess


class ShardActor:
    """One worker process on the cluster; its models load with its first job.

    The process can die without the actor. Where the actor dies, or its machine, Ray starts both
    again elsewhere, and `pipeline.attempts` counts that too.
    """

    def __init__(self, task: Task) -> None:
        self._process = WorkerProcess(task)
        self._metrics = RayMetrics()

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """The record, or one line on why the run cannot go on: Ray would wrap an exception."""
        try:
            record = self._process.run(TypeAdapter(Job).validate_json(row["job"]))
        except (PipelineError, OSError) as err:
            return {"record": "", "error": str(err)}
        self._metrics.add(record, self._process.memory_mb)
        return {"record": json.dumps(asdict(record)), "error": ""}


def run_ray(
    jobs: Sequence[Job], config: ExtractConfig, device: torch.device, num_workers: int
) -> Iterator[ShardRecord]:
    """Runs the jobs, giving each record as its shard is published. Raises AbortError.

    An actor that dies, or its machine, is started again by Ray as often as it takes (Ray Data's
    default), and its job is run again from its beginning: a job that published nothing left
    nothing. How often one job is begun again, pipeline.attempts bounds.
    """
    needs = worker_resources(config)
    num_gpus = needs.gpus if device.type == "cuda" else 0
    task = Task(config, device, run=secrets.token_hex(8))
    rows = [{"job": json.dumps(asdict(job))} for job in jobs]
    with joined_cluster(math.ceil(num_workers * needs.cpus)):
        ray.data.DataContext.get_current().enable_progress_bars = False
        _check_memory(needs)
        records = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            ShardActor,  # type: ignore[arg-type]  # Ray's stubs forget that map takes a class
            fn_constructor_args=(task,),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(num_workers, len(jobs))),
            num_cpus=needs.cpus,
            num_gpus=num_gpus,
            memory=needs.memory_mb * 2**20,
        )
        with aborting_on_ray_errors():
            for row in records.iter_rows():
                if row["error"]:
                    raise AbortError(row["error"])
                yield ShardRecord(**json.loads(row["record"]))


class RayMetrics:
    """What Ray exports of one actor's jobs."""

    def __init__(self) -> None:
        self._metrics = {metric.name: _ray_metric(metric) for metric in (*WORKER_METRICS, MEMORY)}

    def add(self, record: ShardRecord, memory_mb: int) -> None:
        """Counts a shard that was just published."""
        memory = (MEMORY.name, {"process": "worker"}, memory_mb * 2.0**20)
        for name, labels, value in (*samples(record), memory):
            metric = self._metrics[name]
            if isinstance(metric, Gauge):
                metric.set(value, tags=labels)
            elif isinstance(metric, Histogram):
                metric.observe(value, tags=labels)
            elif value > 0:  # Ray refuses to add nothing
                metric.inc(value, tags=labels)


def _ray_metric(metric: Metric) -> Counter | Gauge | Histogram:
    if metric.kind == "histogram":
        bounds = list(SHARD_SECONDS)
        return Histogram(metric.name, metric.help, boundaries=bounds, tag_keys=metric.labels)
    kind = Counter if metric.kind == "counter" else Gauge
    return kind(metric.name, metric.help, tag_keys=metric.labels)


def _check_memory(needs: Resources) -> None:
    """Raises AbortError where no machine of a cluster of ours can hold one worker: Ray would wait
    for ever. Another's cluster may grow."""
    have = ray.cluster_resources().get("memory", 0) / 2**20  # type: ignore[no-untyped-call]
    if not os.environ.get("RAY_ADDRESS") and have < needs.memory_mb:
        raise AbortError(
            f"Ray: a worker needs {needs.memory_mb} MB and this machine has {have:.0f} MB free;"
            " use --executor local, or switch extractors off"
        )
