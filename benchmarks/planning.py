"""Planning and resuming at HowTo100M's size: seconds and memory of whole commands.

    python benchmarks/planning.py [--videos 1200000] [--shards 10000] [--json FILE]

Limits that docs/log.md holds these against: planning and status of 1.2 million videos in 60 s and
2 GB, resuming a finished run of 10,000 shards in 20 s.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from pipeline import storage
from pipeline.config import ExtractConfig
from pipeline.extract import plan_extract
from pipeline.jobs import Job
from pipeline.shards import FORMAT_VERSION, ShardRecord, sha256_of, shard_url, write_rows

SETTINGS = """
extract:
  videos_per_shard: 64
  extractors: {visual_2d: null, visual_3d: null, audio: null, colour: {kind: mean_colour}}
  speech: null
  text: null
"""


@dataclass(frozen=True)
class Measured:
    """One command."""

    what: str
    wall_seconds: float
    cpu_seconds: float
    peak_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=1_200_000)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        results = _plan(Path(folder), arguments.videos) + _resume(Path(folder), arguments.shards)
    for result in results:
        print(f"{result.what:<58} {result.wall_seconds:7.1f} s {result.cpu_seconds:7.1f} CPU s "
              f"{result.peak_mb:7.0f} MB")  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=2))


def _plan(folder: Path, count: int) -> list[Measured]:
    """A new plan, the same plan again, and its status."""
    options = _options(folder, "planned", count)
    plan = [
        sys.executable, "-c",
        "import sys; from pipeline.cli.options import load_config; "
        "from pipeline.extract import plan_extract; from pathlib import Path; "
        "plan_extract(sys.argv[1], sys.argv[2], "
        "load_config('embedded', Path(sys.argv[3]), None).extract)",
        *options[1::2],
    ]  # fmt: skip
    return [
        measure(f"plan {count:,} new videos", plan),
        measure(f"plan the same {count:,} again", plan),
        measure(f"pipeline plan of {count:,}", _command("plan", *options, "--json")),
        measure(f"pipeline status of {count:,} planned", _command("status", options[3])),
    ]


def _resume(folder: Path, shards: int) -> list[Measured]:
    """A run that has nothing left to do, and its status."""
    options = _options(folder, "finished", shards * 64)
    _finish(options[1], options[3], Path(options[5]))
    run = _command("run", "extract", *options)
    return [
        measure(f"first run over {shards:,} finished shards (manifest made)", run),
        measure(f"run again, nothing to do, {shards:,} shards", run),
        measure(f"pipeline status of {shards:,} finished shards", _command("status", options[3])),
    ]


def _options(folder: Path, name: str, count: int) -> list[str]:
    """A list of that many URLs, and the options that name it."""
    source, settings = folder / f"{name}.csv", folder / "settings.yaml"
    settings.write_text(SETTINGS)
    with source.open("w") as file:
        file.write("path,key\n")
        for number in range(count):
            file.write(f"s3://bucket/videos/{number % 1000:03d}/v{number:08d}.mp4,v{number:08d}\n")
    return ["--input", str(source), "--output", str(folder / name), "--config", str(settings)]


def _finish(source: str, dataset: str, settings: Path) -> None:
    """Publishes every shard of the plan as a run would, with rows of failed videos: no video is
    opened, and rows and records are of the usual size."""
    from pipeline.cli.options import load_config

    config = load_config("embedded", settings, None).extract
    for job in plan_extract(source, dataset, config).jobs:
        _publish(job, config)


def _publish(job: Job, config: ExtractConfig) -> None:
    tar, parquet = (Path(shard_url(job.dataset, job.number, s)) for s in (".tar", ".parquet"))
    tar.parent.mkdir(parents=True, exist_ok=True)
    tar.touch()
    write_rows(
        parquet,
        [
            {
                "key": video.key,
                "uri": video.uri,
                "version": video.version,
                "status": "failed",
                "reason": "not_found",
                "stage": "fetch",
                "error_message": f"{video.uri}: no such file",
                "attempts": 1,
                "rows": {},
            }
            for video in job.videos
        ],
    )
    record = ShardRecord(
        number=job.number,
        count=len(job.videos),
        successes=0,
        reasons={"not_found": len(job.videos)},
        tar_sha256=sha256_of(tar),
        tar_bytes=0,
        parquet_sha256=sha256_of(parquet),
        job=job.digest,
        stage_seconds={"probe": 1.0, "decode": 2.0},
        video_seconds=0.0,
        started="2026-01-01T00:00:00+00:00",
        ended="2026-01-01T00:00:01+00:00",
    )
    url = shard_url(job.dataset, job.number, "_stats.json")
    storage.publish_json(url, {"format_version": FORMAT_VERSION} | asdict(record))


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", *arguments]


def measure(what: str, command: list[str]) -> Measured:
    """Runs a command to its end; wall and CPU seconds and peak resident memory of that process."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 3):  # 3: finished with failed videos
        raise SystemExit(f"{what}: exit code {code}: {' '.join(command)}")
    wall = time.monotonic() - started
    return Measured(what, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


if __name__ == "__main__":
    main()
