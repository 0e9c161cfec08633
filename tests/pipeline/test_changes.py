from collections.abc import Callable
from pathlib import Path

import pytest

from extractors.config import LogMelConfig, MeanColourConfig
from pipeline.changes import ShardChange, estimate, explain, seconds_a_video
from pipeline.config import ExtractConfig
from pipeline.dataset import read_records
from pipeline.extract import Todo, compare
from pipeline.quarantine import put_aside
from tests.pipeline.conftest import changed, extract

Copies = Callable[[int], str]


@pytest.fixture
def source(copies: Copies) -> str:
    return copies(3)


@pytest.fixture
def dataset(source: str, config: ExtractConfig, tmp_path: Path) -> str:
    """Three videos in two shards."""
    extract(source, str(tmp_path / "d"), config)
    return str(tmp_path / "d")


def explained(
    source: str | None, dataset: str, config: ExtractConfig
) -> tuple[Todo, list[ShardChange]]:
    todo = compare(source, dataset, config)
    return todo, explain(todo, dataset, config)


def test_nothing_changed(source: str, dataset: str, config: ExtractConfig) -> None:
    todo, found = explained(source, dataset, config)
    assert (found, len(todo.done)) == ([], 2)


def test_a_setting_is_named_with_both_values(
    source: str, dataset: str, config: ExtractConfig
) -> None:
    other = changed(config, audio=LogMelConfig(bands=16), slow=MeanColourConfig(rate=1))
    _, (first, last) = explained(source, dataset, other)
    assert first.reasons == ("slow: new", "audio: bands changed from 40 to 16")
    assert (first.state, first.videos, first.tracks) == ("stale", 2, {"audio": 2, "slow": 2})
    assert (last.videos, last.tracks) == (1, {"audio": 1, "slow": 1})


def test_a_dropped_track_opens_no_video(source: str, dataset: str, config: ExtractConfig) -> None:
    _, (first, _) = explained(source, dataset, changed(config, audio=None))
    assert first.reasons == ("audio: no longer wanted",)
    assert (first.tracks, first.opened) == ({}, 0)


def test_changed_new_renamed_and_quarantined_videos_are_named(
    source: str, dataset: str, config: ExtractConfig, copies: Copies
) -> None:
    (Path(source) / "clip000.mp4").rename(Path(source) / "zebra.mp4")
    (Path(source) / "clip001.mp4").touch()
    copies(4)  # clip000, anew, and clip003
    put_aside(dataset, {"clip002": "why not"})
    todo, (first, second, new) = explained(source, dataset, config)
    assert set(first.reasons) == {
        "file or captions of clip000 changed", "file or captions of clip001 changed",
    }  # fmt: skip
    assert second.reasons == ("clip002 is quarantined",)
    assert (new.state, new.reasons) == ("missing", ("not made yet",))
    assert todo.update.added == 2
    assert new.tracks == {"colour": 2, "audio": 2}


def test_a_rename_alone(source: str, dataset: str, config: ExtractConfig) -> None:
    (Path(source) / "clip000.mp4").rename(Path(source) / "zebra.mp4")
    todo, (first,) = explained(source, dataset, config)
    assert todo.update.renamed == {"clip000": "zebra"}
    assert first.reasons == ("clip000 is now called zebra",)


def test_videos_to_be_tried_again(source: str, dataset: str, config: ExtractConfig) -> None:
    todo = compare(None, dataset, config, retry={1: ["clip002"]})
    (change,) = explain(todo, dataset, config)
    assert (change.state, change.number) == ("retry", 1)
    assert change.tracks == {"colour": 1, "audio": 1}


def test_cost_comes_from_what_the_shards_took(
    source: str, dataset: str, config: ExtractConfig
) -> None:
    other = changed(config, audio=LogMelConfig(bands=16), slow=MeanColourConfig(rate=1))
    todo, found = explained(source, dataset, other)
    records = read_records(dataset)
    mean = seconds_a_video(todo, records, other)
    costs = {cost.stage: cost for cost in estimate(found, records, mean)}
    assert set(costs) == {"decode", "audio", "slow"}
    seconds = sum(record.video_seconds for record in records)
    assert costs["audio"].video_hours == pytest.approx(seconds / 3600)
    spent = sum(record.stage_seconds["audio"] for record in records)
    assert costs["audio"].worker_hours == pytest.approx(spent / 3600)
    assert (costs["slow"].rate, costs["slow"].worker_hours) == (None, None)


def test_without_a_shard_the_files_say_how_long_they_are(
    source: str, config: ExtractConfig, tmp_path: Path
) -> None:
    (Path(source) / "broken.mp4").write_bytes(b"no video")
    todo, found = explained(source, str(tmp_path / "none"), config)
    mean = seconds_a_video(todo, [], config)
    costs = {cost.stage: cost for cost in estimate(found, [], mean)}
    # four files of a second each, as far as the three that can be read tell
    assert costs["decode"].video_hours == pytest.approx(4 / 3600, rel=0.1)
    assert costs["decode"].rate is None
