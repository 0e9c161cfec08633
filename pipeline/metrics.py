"""What a run of `run extract` exports in Prometheus' form.

Both executors export the same metrics of the records as they come: Ray's actors through Ray, which
puts `ray_` before the names (pipeline.run_ray), a driver through a file for the textfile collector
of node_exporter. Only the file has the jobs that wait and the memory of this machine's processes.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pipeline import storage
from pipeline.shards import ShardRecord

WRITE_SECONDS = 5.0
"""Least time from one writing of the file to the next, but for the last."""
SHARD_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
"""Upper bounds of the histogram of what one shard took."""

Kind = Literal["counter", "gauge", "histogram"]
Sample = tuple[str, dict[str, str], float]
"""Name, labels, and what is to be added, set or observed."""


@dataclass(frozen=True)
class Metric:
    """One metric; a counter's exported name ends in `_total`."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


WORKER_METRICS = (
    Metric("pipeline_shards", "counter", "Shards that were made"),
    Metric("pipeline_videos", "counter", "Videos of these shards", ("status",)),
    Metric("pipeline_failures", "counter", "Videos that failed", ("reason",)),
    Metric("pipeline_video_seconds", "counter", "Durations of the videos that succeeded"),
    Metric("pipeline_stage_seconds", "counter", "Wall seconds of the workers", ("stage",)),
    Metric("pipeline_decoded", "counter", "Videos that were decoded", ("device",)),
    Metric("pipeline_shard_seconds", "histogram", "Wall seconds of one shard"),
)
MEMORY = Metric("pipeline_resident_bytes", "gauge", "Resident memory after a shard", ("process",))
WAITING = Metric("pipeline_jobs_waiting", "gauge", "Shards of this run that are not made yet")


def samples(record: ShardRecord) -> Iterator[Sample]:
    """What one published shard adds to WORKER_METRICS."""
    yield "pipeline_shards", {}, 1
    yield "pipeline_videos", {"status": "success"}, record.successes
    yield "pipeline_videos", {"status": "failed"}, record.count - record.successes
    for reason, count in record.reasons.items():
        yield "pipeline_failures", {"reason": reason}, count
    yield "pipeline_video_seconds", {}, record.video_seconds
    for stage, seconds in record.stage_seconds.items():
        yield "pipeline_stage_seconds", {"stage": stage}, seconds
    for device, count in record.decoded_on.items():
        yield "pipeline_decoded", {"device": device}, count
    took = datetime.fromisoformat(record.ended) - datetime.fromisoformat(record.started)
    yield "pipeline_shard_seconds", {}, took.total_seconds()


class MetricsFile:
    """The metrics of one run of this driver, in a file that is always whole."""

    def __init__(self, url: str, num_jobs: int) -> None:
        """Publishes the file for `num_jobs` waiting jobs. Raises OSError where it cannot."""
        self._url = url
        self._registry = CollectorRegistry()
        self._metrics = {m.name: _make(m, self._registry) for m in (*WORKER_METRICS, MEMORY)}
        self._waiting = Gauge(WAITING.name, WAITING.help, registry=self._registry)
        self._waiting.set(num_jobs)
        self.write()

    def add(self, record: ShardRecord) -> None:
        """Counts a shard; publishes where the file is old."""
        self._waiting.dec()
        for name, labels, value in samples(record):
            _count(self._metrics[name], labels, value)
        if time.monotonic() - self._written >= WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        """Publishes the file; to be called at the end of the run."""
        for process, size in _resident_bytes().items():
            _count(self._metrics[MEMORY.name], {"process": process}, size)
        storage.publish_bytes(self._url, generate_latest(self._registry))
        self._written = time.monotonic()


def _make(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if metric.kind == "histogram":
        return Histogram(
            metric.name, metric.help, metric.labels, registry=registry, buckets=SHARD_SECONDS
        )
    kind = Counter if metric.kind == "counter" else Gauge
    return kind(metric.name, metric.help, metric.labels, registry=registry)


def _count(metric: Counter | Gauge | Histogram, labels: Mapping[str, str], value: float) -> None:
    child = metric.labels(**labels) if labels else metric
    if isinstance(child, Counter):
        child.inc(value)
    elif isinstance(child, Gauge):
        child.set(value)
    else:
        child.observe(value)


def _resident_bytes() -> dict[str, int]:
    """Of the driver, and of all the processes below it together (workers, decoders)."""
    driver = psutil.Process()
    below = 0
    for child in driver.children(recursive=True):
        try:
            below += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return {"driver": driver.memory_info().rss, "children": below}
