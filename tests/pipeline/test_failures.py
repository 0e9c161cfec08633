import json
from collections.abc import Callable
from pathlib import Path

import pytest

from extractors.errors import UsageError
from pipeline import storage
from pipeline.failures import (
    GROUPS,
    FailedVideo,
    count_failed,
    failed_videos,
    parse_where,
    select_failed,
)
from tests.pipeline.tables import publish_shard, row

ROWS = {
    0: [row("a"), row("b_1", "timeout", "decode", split="train")],
    1: [
        row("b_2", "timeout", "decode", split="test"),
        row("c%", "extractor_error", "audio", split="test"),
        row("cx", "extractor_error", "text"),
    ],
    2: [row("d")],
}


@pytest.fixture(params=["disk", "memory"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Three shards on a disk and on an object store."""
    url = str(tmp_path) if request.param == "disk" else f"memory://{tmp_path.name}"
    for number, rows in ROWS.items():
        publish_shard(url, number, rows)
    return url


@pytest.mark.parametrize(
    ("conditions", "keys"),
    [
        ([], ["b_1", "b_2", "c%", "cx"]),
        (["reason=timeout"], ["b_1", "b_2"]),
        (["reason=timeout", "split!=test"], ["b_1"]),
        (["key=b*"], ["b_1", "b_2"]),
        (["key=b?1"], ["b_1"]),
        (["key=c%"], ["c%"]),
        (["key=c%*"], ["c%"]),  # a sign of SQL is a sign like others
        (["key!=b_*"], ["c%", "cx"]),
        (["extractor=audio"], ["c%"]),
        (["extractor="], ["b_1", "b_2"]),
        (["stage=decode", "shard=1"], ["b_2"]),
        (["split="], ["cx"]),
        (["split!="], ["b_1", "b_2", "c%"]),
        (["reason=time*"], ["b_1", "b_2"]),
        (["reason!=timeout", "stage!=audio"], ["cx"]),
        (["uri=/videos/b_2.mp4"], ["b_2"]),
        (["key=nobody"], []),
    ],
)
def test_conditions_choose_failed_videos(
    dataset: str, conditions: list[str], keys: list[str]
) -> None:
    selected = select_failed(dataset, parse_where(conditions))
    assert [video.key for video in selected] == keys


def test_a_failed_video_can_be_found_again(dataset: str) -> None:
    assert select_failed(dataset, parse_where(["key=b_2"])) == [FailedVideo(1, "b_2", "timeout")]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("reason", "expected COLUMN=VALUE"),
        ("raeson=timeout", "did you mean reason"),
        ("reason=timout", "did you mean timeout"),
        ("colour=red", "there are key, uri"),
        ("shard=first", "a shard is a number"),
    ],
)
def test_a_wrong_condition_says_what_is_right(condition: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_where([condition])


@pytest.mark.parametrize(
    ("by", "counts"),
    [
        ("reason", [("extractor_error", 2), ("timeout", 2)]),
        ("stage", [("decode", 2), ("audio", 1), ("text", 1)]),
        ("extractor", [(None, 2), ("audio", 1), ("text", 1)]),
        ("split", [("test", 2), ("train", 1), (None, 1)]),
        ("shard", [(1, 3), (0, 1)]),
    ],
)
def test_failures_are_counted(dataset: str, by: str, counts: list[tuple[object, int]]) -> None:
    assert count_failed(failed_videos(dataset), by) == counts
    with pytest.raises(UsageError, match="--by colour: allowed are reason"):
        count_failed(failed_videos(dataset), "colour")
    assert by in GROUPS


def test_a_shard_of_an_older_version_lacks_columns(tmp_path: Path) -> None:
    publish_shard(str(tmp_path), 0, ROWS[1], drop=("split", "version", "attempts"))
    (failed,) = failed_videos(str(tmp_path), parse_where(["key=b_2"])).to_pylist()
    assert failed["split"] is None
    assert failed["reason"] == "timeout"


def test_shards_in_the_making_do_not_count(tmp_path: Path) -> None:
    for number in (0, 1):
        publish_shard(str(tmp_path), number, ROWS[number])
    (tmp_path / "shards/000001_stats.json").unlink()
    assert [video.key for video in select_failed(str(tmp_path))] == ["b_1"]


def test_many_shards_are_joined_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table for each of many shards would take far more memory than its rows."""
    monkeypatch.setattr("pipeline.scan.BLOCK", 8)
    for number in range(20):
        publish_shard(str(tmp_path), number, [row(f"k{number}", "timeout", "decode")])
    table = failed_videos(str(tmp_path))
    assert table.column("shard").to_pylist() == list(range(20))
    assert sum(len(chunk) > 0 for chunk in table.column("key").chunks) == 3
    assert count_failed(table, "shard") == [(number, 1) for number in range(20)]


def test_errors_command(run: Callable[..., object], dataset: str) -> None:
    storage.publish_json(storage.join(dataset, "dataset.json"), {"format_version": 1})
    outcome = run("errors", dataset, "--by", "extractor", "--limit", 1)
    assert outcome.code == 0
    assert "4 failed videos" in " ".join(outcome.out.split())
    assert "b_1" in outcome.out
    assert "b_2" not in outcome.out
    assert "and 3 more" in outcome.err
    found = json.loads(run("errors", dataset, "--json", "--where", "stage=decode").out)
    assert found["failed"] == 2
    assert found["counts"] == [{"reason": "timeout", "videos": 2}]
    assert [video["key"] for video in found["videos"]] == ["b_1", "b_2"]
    assert "no failed videos meet" in run("errors", dataset, "--where", "key=x").err
    assert run("errors", dataset, "--by", "colour").code == 2
    assert run("errors", dataset + "x").code == 2
