import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.dataset import read_all_rows
from pipeline.samples import read_dataset
from pipeline.shards import read_record, sha256_of, shard_numbers
from tests.pipeline.conftest import (
    Clips,
    Outcome,
    Running,
    command_line,
    descendants,
    numbered_copies,
)


@pytest.fixture
def extract(
    run: Callable[..., Outcome], settings_file: Path, tmp_path: Path
) -> Callable[..., Outcome]:
    def call(source: object, *more: object, output: object = tmp_path / "d") -> Outcome:
        options = ("--input", source, "--output", output, "--config", settings_file)
        return run("run", "extract", *options, *more)

    return call


def test_good_and_bad_videos(
    extract: Callable[..., Outcome], clip: Path, clips: Clips, tmp_path: Path
) -> None:
    """Twenty good videos, one without sound, and three that fail, each for its own reason."""
    videos = tmp_path / "videos"
    numbered_copies(clip, videos, 20)
    (videos / "x_text.mp4").write_text("this is no video\n" * 50)
    (videos / "x_empty.mp4").touch()
    (videos / "x_cut.mp4").write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    silent = clips.make("silent.mp4", "red", tone=None)
    (videos / "y_silent.mp4").write_bytes(silent.read_bytes())
    outcome = extract(videos)
    assert outcome.code == 3
    assert "Traceback" not in outcome.err
    dataset = str(tmp_path / "d")
    failed = {row["key"]: row["reason"] for row in read_all_rows(dataset) if row["reason"]}
    assert failed == {"x_cut": "truncated", "x_empty": "empty_file", "x_text": "not_a_video"}
    keys = [sample.key for sample in read_dataset(dataset)]
    assert keys == [f"clip{number:03d}" for number in range(20)] + ["y_silent"]
    for reason in failed.values():
        assert f"failed: {reason}" in outcome.out
    # it is still what the dataset holds, though there was nothing left to do
    again = extract(videos)
    assert again.code == 3
    assert "12 shards (24 videos) are up to date and kept" in again.err


def test_a_second_run_does_nothing_and_says_so(
    extract: Callable[..., Outcome], copies: Callable[[int], str]
) -> None:
    source = copies(3)
    first = extract(source)
    assert first.code == 0
    assert "2 made now" in first.out
    second = extract(source)
    assert second.code == 0
    assert "2 shards (3 videos) are up to date and kept" in second.err
    assert "0 made now" in second.out
    changed = extract(source, "--set", "extract.extractors.audio.bands=20")
    assert changed.code == 0
    assert "2 made now" in changed.out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "extract.videos_per_shart=3"), "did you mean extract.videos_per_shard?"),
        (("--set", "extract.videos_per_shard=0"), "extract.videos_per_shard = 0"),
        (("--set", "nonsense"), "expected KEY=VALUE"),
        (("--preset", "big"), "no such preset"),
        (("--executor", "slurm"), "--executor slurm: allowed are local and ray"),
        (("--device", "tpu"), "--device tpu"),
    ],
)
def test_wrong_settings_exit_with_2_and_write_nothing(
    extract: Callable[..., Outcome],
    copies: Callable[[int], str],
    tmp_path: Path,
    more: tuple[str, ...],
    message: str,
) -> None:
    outcome = extract(copies(1), *more)
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert message in line
    assert not (tmp_path / "d").exists()


def test_a_source_without_videos_exits_with_2(
    extract: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = extract(tmp_path / "nowhere")
    assert outcome.code == 2
    assert "nowhere: no such file or folder" in outcome.err


@pytest.mark.parametrize("workers", [1, 2])
def test_an_output_that_cannot_be_written_exits_with_1(
    extract: Callable[..., Outcome], copies: Callable[[int], str], clip: Path, workers: int
) -> None:
    outcome = extract(copies(3), "--workers", workers, output=clip / "d")
    assert outcome.code == 1
    (line,) = outcome.err.splitlines()
    assert "red.mp4/d" in line
    assert "Not a directory" in line


@pytest.mark.parametrize(
    "options",
    [(), ("--workers", 2), ("--workers", 2, "--executor", "ray")],
    ids=["one", "two", "ray"],
)
def test_sigterm_ends_a_run_cleanly(
    start: Callable[..., Running],
    copies: Callable[[int], str],
    settings_file: Path,
    tmp_path: Path,
    options: tuple[object, ...],
) -> None:
    dataset = tmp_path / "d"
    running = start(
        "run", "extract", "--input", copies(60), "--output", dataset, "--config", settings_file,
        *options,
    )  # fmt: skip
    running.wait_until(lambda: len(list((dataset / "shards").glob("*_stats.json"))) >= 1)
    running.wait_until(lambda: bool(descendants(running.process.pid)))  # ffmpeg, workers or Ray
    below = descendants(running.process.pid)
    started = time.monotonic()
    code, errors = running.terminate(seconds=60)
    assert time.monotonic() - started < 20
    assert code == 1
    assert "error: interrupted; what was finished is kept" in errors
    assert "Traceback" not in errors
    deadline = time.monotonic() + 10
    while left := [command_line(pid) for pid in below if command_line(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    numbers = shard_numbers(str(dataset))
    assert 0 < len(numbers) < 30
    for number in numbers:
        record = read_record(str(dataset), number)
        assert sha256_of(dataset / "shards" / f"{record.name}.tar") == record.tar_sha256
    if "ray" not in options:  # Ray kills its workers, which leaves the dot files that no one reads
        assert not [name for name in os.listdir(dataset / "shards") if name.startswith(".")]


@pytest.mark.parametrize("stage", ["train", "index"])
def test_an_output_that_holds_another_stages_work_is_refused(
    extract: Callable[..., Outcome], run: Callable[..., Outcome], clip: Path, tmp_path: Path,
    stage: str,
) -> None:  # fmt: skip
    dataset = tmp_path / "d"
    assert extract(clip).code == 0
    before = sorted(path.name for path in dataset.iterdir())
    model = ["--model", dataset] if stage == "index" else []
    outcome = run("run", stage, "--dataset", dataset, "--output", dataset, *model)
    assert outcome.code == 2
    assert "holds a dataset already" in outcome.err
    assert sorted(path.name for path in dataset.iterdir()) == before
