import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from pipeline import jobs, storage
from pipeline.config import ExtractConfig
from pipeline.jobs import Job, make_jobs, run_job
from pipeline.plan import PlannedVideo
from pipeline.published import withdraw
from pipeline.samples import read_shard
from pipeline.shards import ROW_SCHEMA, read_record, read_rows, shard_numbers
from pipeline.sources import SourceVideo
from pipeline.worker import Worker
from tests.pipeline.conftest import Running, numbered_copies, tar_digests

CPU = torch.device("cpu")


def video(path: Path | str, key: str) -> SourceVideo:
    return SourceVideo(key, str(path), str(path).rpartition("/")[2], label="l", split="train")


def job(dataset: str, *videos: SourceVideo) -> Job:
    (made,) = make_jobs(dataset, [PlannedVideo(one, 0) for one in videos], "f")
    return made


def test_a_digest_says_whether_a_job_is_the_same(tmp_path: Path) -> None:
    first = video("/v/a.mp4", "a")
    digest = job("d", first).digest
    assert job("elsewhere", first).digest == digest
    for facts in ({"size_bytes": 2}, {"captions": "/c.srt"}, {"label": "m"}):
        assert job("d", first._replace(**facts)).digest != digest
    (other,) = make_jobs("d", [PlannedVideo(first, 0)], "other settings")
    assert other.digest != digest


def test_jobs_are_the_shards_of_the_plan() -> None:
    plan = [PlannedVideo(video(f"/v/{n}.mp4", f"v{n}"), n // 2) for n in range(5)]
    made = list(make_jobs("d", plan, "f"))
    assert [[one.key for one in job.videos] for job in made] == [["v0", "v1"], ["v2", "v3"], ["v4"]]
    assert [job.number for job in made] == [0, 1, 2]


@pytest.mark.parametrize("base", ["{}", "memory://jobs{}"])
def test_a_job_makes_a_shard(tmp_path: Path, clip: Path, config: ExtractConfig, base: str) -> None:
    dataset = base.format(tmp_path)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    with Worker(config, CPU) as worker:
        made = run_job(job(dataset, video(clip, "a"), video(empty, "b")), worker)
    assert made == read_record(dataset, 0)
    assert (made.count, made.successes, made.reasons) == (2, 1, {"empty_file": 1})
    assert made.video_seconds == pytest.approx(1.0, abs=0.1)
    (sample,) = read_shard(dataset, 0)
    good, bad = read_rows(dataset, 0)
    assert (sample.key, good["key"], bad["key"]) == ("a", "a", "b")
    assert good["rows"] == {name: len(track.rows) for name, track in sample.tracks.items()}
    assert (good["status"], good["reason"], good["label"]) == ("success", None, "l")
    assert (bad["status"], bad["reason"], bad["stage"]) == ("failed", "empty_file", "probe")
    assert "0 bytes" in bad["error_message"]
    assert storage.names(storage.join(dataset, "shards")) == [
        "000000.parquet", "000000.tar", "000000_stats.json",
    ]  # fmt: skip


def test_a_shard_in_which_all_failed_is_a_shard(tmp_path: Path, config: ExtractConfig) -> None:
    with Worker(config, CPU) as worker:
        made = run_job(job(str(tmp_path), video("/no/file.mp4", "a")), worker)
    assert (made.count, made.successes, made.reasons) == (1, 0, {"not_found": 1})
    assert list(read_shard(str(tmp_path), 0)) == []


def test_what_stops_a_job_leaves_no_shard(
    tmp_path: Path, clip: Path, config: ExtractConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = str(tmp_path)
    with Worker(config, CPU) as worker:
        run_job(job(dataset, video(clip, "a")), worker)
        before = tar_digests(dataset)

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(jobs, "write_rows", full)
        with pytest.raises(OSError, match="No space"):
            run_job(job(dataset, video(clip, "b")), worker)
    assert tar_digests(dataset) == before
    assert shard_numbers(dataset) == [0]
    assert [path.name for path in (tmp_path / "shards").glob(".*")] == []


def test_an_old_record_never_vouches_for_new_files(
    tmp_path: Path, clip: Path, config: ExtractConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = str(tmp_path)
    with Worker(config, CPU) as worker:
        run_job(job(dataset, video(clip, "a")), worker)
        monkeypatch.setattr(jobs, "publish_record", _killed)
        with pytest.raises(KeyboardInterrupt):
            run_job(job(dataset, video(clip, "b")), worker)
    assert shard_numbers(dataset) == []


def test_a_run_that_dies_between_two_editions_loses_nothing(
    tmp_path: Path, clip: Path, config: ExtractConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = str(tmp_path)
    with Worker(config, CPU) as worker:
        run_job(job(dataset, video(clip, "a")), worker)
        before = tar_digests(dataset)
        with monkeypatch.context() as patched:  # the record is withdrawn, the tar not yet replaced
            patched.setattr(jobs, "withdraw", lambda *given: _killed(withdraw(*given)))
            with pytest.raises(KeyboardInterrupt):
                run_job(job(dataset, video(clip, "a"), video(clip, "b")), worker)
        assert (shard_numbers(dataset), tar_digests(dataset)) == ([], before)
        record = run_job(job(dataset, video(clip, "a")), worker)
    assert (record.carried, tar_digests(dataset)) == (1, before)
    assert list((tmp_path / "attempts").iterdir()) == []


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def extract(start: Callable[..., Running], source: str, dataset: Path, settings: Path) -> Running:
    return start("run", "extract", "--input", source, "--output", dataset, "--config", settings)


def check_nothing_half(dataset: Path, expected: dict[str, str]) -> None:
    """Whatever a reader can see is whole: each visible tar, parquet and record."""
    found = tar_digests(dataset)
    assert found.items() <= expected.items()
    for number in shard_numbers(str(dataset)):
        record = read_record(str(dataset), number)
        assert found[f"{record.name}.tar"] == record.tar_sha256
    for parquet in (dataset / "shards").glob("*.parquet"):
        assert pq.read_table(parquet).schema.equals(ROW_SCHEMA)


def undisturbed(source: str, dataset: Path, settings: Path) -> dict[str, str]:
    options = ["--input", source, "--output", str(dataset), "--config", str(settings)]
    command = [sys.executable, "-m", "pipeline", "run", "extract", *options]
    subprocess.run(command, check=True, capture_output=True, timeout=280)
    return tar_digests(dataset)


def killed_at(pattern: str, count: int, dataset: Path) -> Callable[[], bool]:
    return lambda: len(list((dataset / "shards").glob(pattern))) >= count


def test_killed_runs_go_on_to_the_same_tars(
    start: Callable[..., Running], copies: Callable[[int], str], settings_file: Path, tmp_path: Path
) -> None:
    source, dataset = copies(8), tmp_path / "killed"
    expected = undisturbed(source, tmp_path / "undisturbed", settings_file)
    assert len(set(expected.values())) == 4
    for pattern, count in ((".000000.tar.*", 1), ("*.parquet", 2), ("*_stats.json", 3)):
        running = extract(start, source, dataset, settings_file)
        running.wait_until(killed_at(pattern, count, dataset))
        running.kill()
        check_nothing_half(dataset, expected)
    assert undisturbed(source, dataset, settings_file) == expected
    check_nothing_half(dataset, expected)


@pytest.mark.slow
def test_a_killed_run_of_a_hundred_clips_goes_on_to_the_same_tars(
    start: Callable[..., Running], clip: Path, settings_file: Path, tmp_path: Path
) -> None:
    numbered_copies(clip, tmp_path / "videos", 100)
    source, dataset = str(tmp_path / "videos"), tmp_path / "killed"
    expected = undisturbed(source, tmp_path / "undisturbed", settings_file)
    assert len(set(expected.values())) == 50
    running = extract(start, source, dataset, settings_file)
    running.wait_until(killed_at("*_stats.json", 25, dataset))
    running.kill()
    check_nothing_half(dataset, expected)
    assert undisturbed(source, dataset, settings_file) == expected


def test_two_runs_at_once_do_not_spoil_a_dataset(
    start: Callable[..., Running], copies: Callable[[int], str], settings_file: Path, tmp_path: Path
) -> None:
    source, dataset = copies(6), tmp_path / "shared"
    runs = [extract(start, source, dataset, settings_file) for _ in range(2)]
    for running in runs:
        running.process.communicate(timeout=120)
    expected = undisturbed(source, tmp_path / "alone", settings_file)
    assert undisturbed(source, dataset, settings_file) == expected
    check_nothing_half(dataset, expected)
    assert not [name for name in os.listdir(dataset / "shards") if name.startswith(".")]
