"""A dataset as `run extract` leaves it, of random features of the papers' shapes, and imports."""

import dataclasses
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.tracks import Segment, Track
from pipeline import storage
from pipeline.config import ExtractConfig
from pipeline.formats.choice import Reading, check_format, make_exporter, open_source
from pipeline.formats.exporting import Exported, export_dataset
from pipeline.formats.imported_card import ImportOptions
from pipeline.formats.importing import plan_import, run_import
from pipeline.jobs import make_jobs
from pipeline.plan import PlannedVideo, write_plan
from pipeline.samples import VideoSample, encode_sample, read_dataset, write_tar
from pipeline.shards import FORMAT_VERSION, ShardRecord, sha256_of, shard_url, write_rows
from pipeline.sources import SourceVideo

WIDTHS = {"visual_2d": 2048, "visual_3d": 2048, "audio": 40}
TIMES = {"visual_2d": (0.5, 1.0), "visual_3d": (1 / 3, 2 / 3), "audio": (0.0, 0.01)}
CPU = torch.device("cpu")


def make_video(
    number: int, seconds: int, *, sound: bool = True, picture: bool = True, spoken: bool = True
) -> VideoSample:
    rng = np.random.default_rng((3, number))
    counts = {
        "visual_2d": seconds * picture,
        "visual_3d": round(seconds * 1.5) * picture,
        "audio": (seconds * 100 + 1) * sound,
    }
    tracks = {
        name: Track(rng.normal(size=(count, WIDTHS[name])).astype(np.float16), *TIMES[name])
        for name, count in counts.items()
        if count
    }
    segments = [
        Segment(0.25, 2.0, "Größe \"one\"", "captions"), Segment(2.0, 4.5, "two", "asr")
    ]  # fmt: skip
    key = f"abcdefghij{number}"
    meta = {
        "path": f"food/{key}.mp4",
        "label": "cook" if number % 2 else None,
        "split": "test" if number == 2 else None,
        "duration": float(seconds),
        "text_source": "captions" if spoken else "",
        "tracks": {
            name: {"start": start, "hop": hop, "dim": WIDTHS[name], "dtype": "float16"}
            for name, (start, hop) in TIMES.items()
        },
    }
    text = rng.normal(size=(2, 8)).astype(np.float16) if spoken else np.zeros((0, 8), np.float16)
    return VideoSample(key, meta, tracks, tuple(segments) if spoken else (), text)


def write_dataset(folder: Path, shards: list[list[VideoSample]]) -> str:
    """Plan, tars, rows, records and dataset.json."""
    dataset = str(folder)
    plan = [
        PlannedVideo(SourceVideo(s.key, f"/x/{s.meta['path']}", s.meta["path"]), number)
        for number, samples in enumerate(shards)
        for s in samples
    ]
    write_plan(dataset, plan)
    for job, samples in zip(make_jobs(dataset, plan, "f"), shards, strict=True):
        publish_shard(dataset, job.number, job.digest, samples)
    card = {
        "format_version": FORMAT_VERSION,
        "fingerprint": "f",
        "tracks": {
            name: {"dim": WIDTHS[name], "dtype": "float16", "start": start, "hop": hop}
            for name, (start, hop) in TIMES.items()
        },
        "fingerprints": {},
        "config": ExtractConfig(speech=None, text=None).model_dump(mode="json"),
    }
    storage.publish_json(f"{dataset}/dataset.json", card)
    return dataset


def publish_shard(dataset: str, number: int, job: str, samples: list[VideoSample]) -> None:
    tar, parquet = (Path(shard_url(dataset, number, s)) for s in (".tar", ".parquet"))
    tar.parent.mkdir(parents=True, exist_ok=True)
    write_tar(tar, [(sample.key, encode_sample(sample)) for sample in samples])
    write_rows(parquet, [{"key": s.key, "status": "success", "rows": {}} for s in samples])
    record = ShardRecord(
        number=number, count=len(samples), successes=len(samples), reasons={},
        tar_sha256=sha256_of(tar), tar_bytes=tar.stat().st_size, parquet_sha256=sha256_of(parquet),
        job=job, stage_seconds={}, video_seconds=0.0, started="", ended="",
    )  # fmt: skip
    url = shard_url(dataset, number, "_stats.json")
    storage.publish_json(url, {"format_version": FORMAT_VERSION} | asdict(record))


@pytest.fixture(scope="session")
def samples() -> list[VideoSample]:
    """Four videos: the second is silent, the third has no picture, the fourth nobody speaks in."""
    return [
        make_video(0, 6), make_video(1, 5, sound=False), make_video(2, 4, picture=False),
        make_video(3, 3, spoken=False),
    ]  # fmt: skip


@pytest.fixture
def dataset(samples: list[VideoSample], tmp_path: Path) -> str:
    return write_dataset(tmp_path / "dataset", [samples[:2], samples[2:]])


@pytest.fixture
def export(dataset: str, tmp_path: Path) -> Callable[..., tuple[Path, Exported]]:
    """Exports the dataset; gives the folder and what the export says."""

    def call(fmt: str, items: str = "youcook2", **tracks: str) -> tuple[Path, Exported]:
        given = {name.removeprefix("_"): track for name, track in tracks.items()}
        exporter = make_exporter(check_format(fmt), TIMES, given, items)  # type: ignore[arg-type]
        folder = tmp_path / "out"
        return folder, export_dataset(dataset, str(folder), fmt, exporter)

    return call


@pytest.fixture
def bring(tmp_path: Path) -> Callable[..., tuple[str, list[VideoSample]]]:
    """Imports; gives the dataset and its samples."""

    def call(
        fmt: str,
        source: Path | str,
        reading: Reading | None = None,
        options: ImportOptions | None = None,
        output: str = "imported",
    ) -> tuple[str, list[VideoSample]]:
        target = str(tmp_path / output)
        options = options or ImportOptions()
        options = dataclasses.replace(options, videos_per_shard=2)
        with open_source(check_format(fmt), str(source), reading or Reading()) as opened:
            run_import(plan_import(opened, target, options), CPU)
        return target, list(read_dataset(target))

    return call


def assert_same_tracks(found: list[VideoSample], wanted: list[VideoSample], within: float) -> None:
    """Rows to the bit; centres of rows to `within` seconds."""
    by_key = {sample.key: sample for sample in found}
    assert by_key.keys() == {sample.key for sample in wanted}
    for sample in wanted:
        other = by_key[sample.key]
        assert other.tracks.keys() == sample.tracks.keys()
        for name, track in sample.tracks.items():
            assert other.tracks[name].rows.dtype == np.float16
            np.testing.assert_array_equal(other.tracks[name].rows, track.rows)
            last = len(track.rows) - 1
            assert other.tracks[name].start == pytest.approx(track.start, abs=within)
            end = track.start + last * track.hop
            found_end = other.tracks[name].start + last * other.tracks[name].hop
            assert found_end == pytest.approx(end, abs=within)
