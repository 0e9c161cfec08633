"""The book of attempts itself; what the executors make of it is in test_crashes.py."""

import json
from pathlib import Path

import pytest

from extractors.errors import AbortError, Reason
from pipeline.attempts import UNWATCHED, Watch, forget, left_behind, watching
from pipeline.sources import SourceVideo

VIDEO = SourceVideo(key="b", uri="/videos/b.mp4", path="b.mp4")


def die(dataset: Path, at: str | None = None, run: str = "r", job: str = "j") -> Watch:
    """An attempt whose process is killed, at a video or outside: its file stays."""
    watcher = watching(str(dataset), 12, job, run, limit=3)
    watch = watcher.__enter__()
    if at is not None:
        watch.start(at)
    content = (dataset / "attempts/000012.json").read_bytes()
    watcher.__exit__(None, None, None)
    (dataset / "attempts/000012.json").write_bytes(content)
    return watch


def test_an_attempt_that_ends_well_leaves_nothing(tmp_path: Path) -> None:
    with watching(str(tmp_path), 12, "j", "r", limit=3) as watch:
        assert left_behind(str(tmp_path)) == [12]
        written = (tmp_path / "attempts/000012.json").read_bytes()
        watch.start("a")  # not isolated: nothing more is written
        assert (tmp_path / "attempts/000012.json").read_bytes() == written
        assert json.loads(written)["attempts"] == 1
        assert not watch.isolated
    assert left_behind(str(tmp_path)) == []


def test_the_third_attempt_finds_the_video_and_the_fourth_leaves_it_out(tmp_path: Path) -> None:
    assert not die(tmp_path, "a").isolated
    assert not die(tmp_path, "a").isolated
    third = die(tmp_path, "b")
    assert third.isolated
    assert third.suspects == ()
    with watching(str(tmp_path), 12, "j", "r", limit=3) as fourth:
        assert fourth.suspects == ("b",)
        assert fourth.isolated
        row = fourth.blame(VIDEO)
        assert row["reason"] == Reason.CRASHED_WORKER
        assert "/videos/b.mp4" in row["error_message"]
        assert "3 attempts" in row["error_message"]


def test_several_videos_of_a_shard_are_found_one_after_the_other(tmp_path: Path) -> None:
    for at in ("x", "x", "a", "b", "c"):
        die(tmp_path, at)
    with watching(str(tmp_path), 12, "j", "r", limit=3) as watch:
        assert watch.suspects == ("a", "b", "c")


@pytest.mark.parametrize("other", [{"run": "s"}, {"job": "k"}])
def test_deaths_of_another_run_or_job_do_not_count(tmp_path: Path, other: dict[str, str]) -> None:
    for _ in range(5):
        die(tmp_path, "b")
    watch = die(tmp_path, **other)
    assert watch.state.attempts == 1
    assert watch.suspects == ()
    assert not watch.isolated


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, OSError])
def test_what_the_process_survives_does_not_count(
    tmp_path: Path, error: type[BaseException]
) -> None:
    def fail() -> int:
        with watching(str(tmp_path), 12, "j", "r", limit=1) as watch:
            watch.start("a")
            assert watch.state.attempts == 1
            raise error

    for _ in range(5):
        with pytest.raises(error):
            fail()
    assert left_behind(str(tmp_path)) == []


def test_deaths_at_no_video_are_bounded(tmp_path: Path) -> None:
    for _ in range(2):
        die(tmp_path)
    for _ in range(3):
        die(tmp_path, "")  # isolated, and between two videos
    with pytest.raises(AbortError, match=r"shard 000012: .* died 5 times, 3 of them at no video"):
        die(tmp_path)
    assert left_behind(str(tmp_path)) == []


def test_what_a_dead_driver_left_can_be_forgotten(tmp_path: Path) -> None:
    die(tmp_path)
    (tmp_path / "attempts/notes.txt").touch()
    forget(str(tmp_path))
    forget(str(tmp_path / "nothing"))
    assert [path.name for path in (tmp_path / "attempts").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"run": "r"}', '{"crashed": 3}'])
def test_a_damaged_file_is_no_attempt(tmp_path: Path, content: str) -> None:
    (tmp_path / "attempts").mkdir()
    (tmp_path / "attempts/000012.json").write_text(content)
    with watching(str(tmp_path), 12, "j", "r", limit=3) as watch:
        assert watch.state.attempts == 1


def test_outside_of_runs_nothing_is_watched() -> None:
    UNWATCHED.start("a")
    assert UNWATCHED.suspects == ()
