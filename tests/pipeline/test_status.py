import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extractors.errors import UsageError
from pipeline import storage
from pipeline.cli.app import Interrupted
from pipeline.lease import holding
from pipeline.plan import PLAN_SCHEMA, plan_url
from pipeline.status import bottleneck, read_status
from tests.pipeline.tables import publish_shard, row

NOW = datetime(2026, 1, 1, 1, 0, tzinfo=UTC)


def plan(dataset: str, shards: int, videos: int) -> None:
    rows = [{"key": f"s{s}v{v}", "uri": "/x", "shard": s} for s in range(shards) for v in range(videos)]  # fmt: skip  # noqa: E501
    with storage.publishing(plan_url(dataset)) as path:
        pq.write_table(pa.Table.from_pylist(rows, schema=PLAN_SCHEMA), path)
    storage.publish_json(storage.join(dataset, "dataset.json"), {"format_version": 1})


def minutes_ago(minutes: float) -> str:
    return (NOW - timedelta(minutes=minutes)).isoformat(timespec="seconds")


def test_the_bottleneck_is_the_stage_with_the_largest_share() -> None:
    assert bottleneck({"extract": 3.0, "decode": 6.0, "publish": 1.0}) == ("decode", 0.6)
    assert bottleneck({}) is None
    assert bottleneck({"decode": 0.0}) is None


@pytest.fixture(params=["disk", "memory"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Five planned shards of two videos, three made: one an hour ago, two lately."""
    url = str(tmp_path / "d") if request.param == "disk" else f"memory://{tmp_path.name}"
    plan(url, 5, 2)
    for number, (begun, ended) in enumerate([(65, 60), (8, 6), (6, 1)]):
        publish_shard(
            url,
            number,
            [row(f"s{number}v0"), row(f"s{number}v1", "timeout", "decode")],
            started=minutes_ago(begun),
            ended=minutes_ago(ended),
            decoded_on={"cpu": 1},
        )
    return url


def test_what_is_done_and_how_fast(dataset: str) -> None:
    status = read_status(dataset, NOW)
    assert (status.shards, status.planned_shards) == (3, 5)
    assert (status.videos, status.planned_videos, status.successes) == (6, 10, 3)
    assert status.reasons == {"timeout": 3}
    assert status.video_seconds == 30.0
    assert status.tar_bytes == 3000
    assert status.decoded_on == {"cpu": 3}
    assert status.stage_seconds == {"extract": 9.0, "decode": 6.0}
    assert status.bottleneck == "extract"
    assert status.rate is not None
    # 4 videos since the first of the lately made shards was begun, 8 minutes ago; 4 are left
    assert status.rate.videos_per_hour == 30.0
    assert status.rate.seconds_left == 480.0
    assert status.rate.video_seconds_per_second == pytest.approx(20 / 480, abs=1e-3)
    assert status.lease is None
    assert not status.running


def test_nothing_lately_is_no_rate(dataset: str) -> None:
    assert read_status(dataset, NOW + timedelta(hours=1)).rate is None


def test_a_finished_dataset_has_no_time_left(tmp_path: Path) -> None:
    plan(str(tmp_path), 1, 1)
    publish_shard(str(tmp_path), 0, [row("s0v0")], started=minutes_ago(2), ended=minutes_ago(1))
    status = read_status(str(tmp_path), NOW)
    assert status.rate is None
    assert (status.shards, status.planned_shards) == (1, 1)


def test_before_the_first_shard(tmp_path: Path) -> None:
    plan(str(tmp_path), 2, 3)
    status = read_status(str(tmp_path), NOW)
    assert (status.shards, status.videos, status.rate, status.bottleneck) == (0, 0, None, None)
    with pytest.raises(UsageError, match="not a dataset"):
        read_status(str(tmp_path / "gone"), NOW)


def test_a_record_that_vanishes_is_a_shard_in_the_making(
    dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that is made again loses its record between the listing and the reading."""
    monkeypatch.setattr("pipeline.dataset.shard_numbers", lambda _: [0, 1, 2, 3])
    assert read_status(dataset, NOW).shards == 3


def test_status_command(run: Callable[..., object], tmp_path: Path) -> None:
    dataset = str(tmp_path)
    plan(dataset, 2, 1)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    publish_shard(dataset, 0, [row("s0v0")], started=now, ended=now)
    with holding(dataset):
        outcome = run("status", dataset)
        found = json.loads(run("status", dataset, "--json").out)
    text = " ".join(outcome.out.split())
    for words in ("1 of 2", "the bottleneck", "left at this rate", "run at work"):
        assert words in text
    assert found["running"] is True
    assert found["bottleneck"] == "extract"
    assert found["rate"]["seconds_left"] > 0
    assert run("status", dataset, "--json", "--watch").code == 2


def test_watch_shows_what_is_new_until_it_is_interrupted(
    run: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(str(tmp_path), 2, 1)
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        publish_shard(str(tmp_path), len(waits) - 1, [row("s0v0")])
        if len(waits) == 2:
            raise Interrupted

    monkeypatch.setattr("time.sleep", wait)
    outcome = run("status", tmp_path, "--watch")
    assert (outcome.code, outcome.err) == (0, "")
    assert "1 of 2" in outcome.out
    assert min(waits) >= 2.0
