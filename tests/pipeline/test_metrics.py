import re
from pathlib import Path

import pytest

from pipeline import metrics
from pipeline.metrics import MetricsFile, samples
from pipeline.shards import ShardRecord

RECORD = ShardRecord(
    number=3,
    count=5,
    successes=3,
    reasons={"timeout": 1, "crashed_worker": 1},
    tar_sha256="",
    tar_bytes=10,
    parquet_sha256="",
    job="j",
    stage_seconds={"decode": 6.0, "visual_2d": 3.0, "finish": 1.0},
    video_seconds=12.5,
    started="2026-01-01T00:00:00+00:00",
    ended="2026-01-01T00:00:20+00:00",
    decoded_on={"cpu": 3},
)


def read(path: Path) -> dict[str, float]:
    """Prometheus' text format: each series and its value."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines)}


def test_the_file_counts_what_the_records_say(tmp_path: Path) -> None:
    path = tmp_path / "metrics.prom"
    file = MetricsFile(str(path), num_jobs=7)
    assert read(path)["pipeline_jobs_waiting"] == 7
    for _ in range(2):
        file.add(RECORD)
    file.write()
    found = read(path)
    assert found["pipeline_jobs_waiting"] == 5
    assert found["pipeline_shards_total"] == 2
    assert found['pipeline_videos_total{status="success"}'] == 6
    assert found['pipeline_videos_total{status="failed"}'] == 4
    assert found['pipeline_failures_total{reason="timeout"}'] == 2
    assert found["pipeline_video_seconds_total"] == 25
    assert found['pipeline_stage_seconds_total{stage="decode"}'] == 12
    assert found['pipeline_decoded_total{device="cpu"}'] == 6
    assert found['pipeline_shard_seconds_bucket{le="15.0"}'] == 0
    assert found['pipeline_shard_seconds_bucket{le="60.0"}'] == 2
    assert found["pipeline_shard_seconds_sum"] == 40
    assert found['pipeline_resident_bytes{process="driver"}'] > 10 * 2**20
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.prom"]


def test_the_file_is_as_prometheus_reads_it(tmp_path: Path) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    MetricsFile(str(tmp_path / "m"), 1).add(RECORD)
    families = list(text_string_to_metric_families((tmp_path / "m").read_text()))
    names = {family.name for family in families}
    assert {metric.name for metric in metrics.WORKER_METRICS} <= names
    assert all(re.fullmatch(r"pipeline_[a-z_]+", name) for name in names)
    assert all(family.documentation for family in families)


def test_a_run_of_many_short_shards_writes_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.prom"
    file = MetricsFile(str(path), num_jobs=3)
    file.add(RECORD)
    assert read(path)["pipeline_jobs_waiting"] == 3
    monkeypatch.setattr(metrics, "WRITE_SECONDS", 0.0)
    file.add(RECORD)
    assert read(path)["pipeline_jobs_waiting"] == 1


def test_every_sample_is_of_a_declared_metric_with_its_labels() -> None:
    declared = {metric.name: set(metric.labels) for metric in metrics.WORKER_METRICS}
    found = [(name, set(labels)) for name, labels, _ in samples(RECORD)]
    assert all(declared[name] == labels for name, labels in found)
    assert {name for name, _ in found} == set(declared)
