"""Jobs on a Ray cluster: Ray Data moves them to actors, one task a shard.

The plan, the shards and the records stay ours: what Ray sees is a list of jobs and a list of
records. `RAY_ADDRESS` or `ray job submit` decide which cluster; without one, a local one starts.
"""

import contextlib
import json
import logging
import math
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import ray
import ray.data  # configures its loggers: before ours quiets them
import torch
from pydantic import TypeAdapter
from ray.exceptions import RayError

from extractors.build import build_extractor
from extractors.errors import AbortError, PipelineError
from extractors.extractor import Resources
from extractors.speech import SpeechRecogniser
from extractors.text import SentenceEncoder
from pipeline.config import ExtractConfig
from pipeline.jobs import Job, run_job
from pipeline.shards import ShardRecord
from pipeline.worker import Worker


class ShardActor:
    """One worker on the cluster; its models load with its first job."""

    def __init__(self, config: ExtractConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._worker: Worker | None = None

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """The record, or one line on why the run cannot go on: Ray would wrap an exception."""
        try:
            if self._worker is None:
                self._worker = Worker(self._config, self._device).__enter__()
            record = run_job(TypeAdapter(Job).validate_json(row["job"]), self._worker)
        except (PipelineError, OSError) as err:
            return {"record": "", "error": str(err)}
        return {"record": json.dumps(asdict(record)), "error": ""}


def run_ray(
    jobs: Sequence[Job], config: ExtractConfig, device: torch.device, num_workers: int
) -> Iterator[ShardRecord]:
    """Runs the jobs, giving each record as its shard is published. Raises AbortError.

    An actor that dies is started again by Ray and its job is run again from its beginning: a job
    that published nothing left nothing.
    """
    needs = worker_resources(config)
    num_gpus = needs.gpus if device.type == "cuda" else 0
    rows = [{"job": json.dumps(asdict(job))} for job in jobs]
    with _ray_cluster(needs, num_workers):
        records = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            ShardActor,  # type: ignore[arg-type]  # Ray's stubs forget that map takes a class
            fn_constructor_args=(config, device),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(num_workers, len(jobs))),
            num_cpus=needs.cpus,
            num_gpus=num_gpus,
            memory=needs.memory_mb * 2**20,
        )
        try:
            for row in records.iter_rows():
                if row["error"]:
                    raise AbortError(row["error"])
                yield ShardRecord(**json.loads(row["record"]))
        except RayError as err:
            cause = str(getattr(err, "cause", None) or err).strip().splitlines()
            raise AbortError(f"Ray: {cause[-1] if cause else type(err).__name__}") from err


def worker_resources(config: ExtractConfig) -> Resources:
    """What one actor needs: its threads, and the sum over its models."""
    needs = [build_extractor(settings).resources for settings in config.wanted.values()]
    if config.speech is not None and config.speech.recognise:
        needs.append(SpeechRecogniser.resources)
    if config.text is not None:
        needs.append(SentenceEncoder.resources)
    return Resources(
        cpus=max(config.threads, config.decode.threads),
        gpus=min(1.0, sum(need.gpus for need in needs)),
        memory_mb=500 + sum(need.memory_mb for need in needs),
    )


@contextlib.contextmanager
def _ray_cluster(needs: Resources, num_workers: int) -> Iterator[None]:
    """Joins the cluster of RAY_ADDRESS or of the job, else starts one here and ends it.

    Raises AbortError where this machine cannot hold one worker: Ray would wait for ever.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    on_terminate = signal.getsignal(signal.SIGTERM)
    ray.init(
        address=address,
        num_cpus=None if address else math.ceil(num_workers * needs.cpus),
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)  # Ray's own would exit past our clean-up
    try:
        have = ray.cluster_resources().get("memory", 0) / 2**20  # type: ignore[no-untyped-call]
        if not address and have < needs.memory_mb:
            raise AbortError(
                f"Ray: a worker needs {needs.memory_mb} MB and this machine has {have:.0f} MB free;"
                " use --executor local, or switch extractors off"
            )
        yield
    finally:
        ray.shutdown()
