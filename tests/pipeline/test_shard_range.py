import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from extractors.errors import AbortError, UsageError
from pipeline import storage
from pipeline.attempts import Attempts
from pipeline.config import ExtractConfig
from pipeline.extract import plan_extract, plan_range, run_extract
from pipeline.lease import Lease, holding, read_lease
from pipeline.shard_range import (
    ShardRange,
    holding_range,
    holding_whole,
    parse_range,
    range_url,
)
from pipeline.shards import ShardRecord
from tests.pipeline.conftest import CPU, Copies, changed, tar_digests


@pytest.fixture(params=["disk", "memory"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "d") if request.param == "disk" else f"memory://{tmp_path.name}"


def lease_of_another_machine(age: float) -> Lease:
    now = time.time()
    return Lease("other", "elsewhere-1", 4321, 1.0, "ann", now - 900, now - age)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("2:4", [2, 3], [1, 4]),
        (":2", [0, 1], [2]),
        ("3:", [3, 99999], [2]),
        (":", [0, 99999], []),
    ],
)
def test_a_range_is_half_open(text: str, inside: list[int], outside: list[int]) -> None:
    shards = parse_range(text)
    assert all(number in shards for number in inside)
    assert not any(number in shards for number in outside)
    assert parse_range(str(shards)) == shards


@pytest.mark.parametrize("text", ["", "3", "a:b", "-1:2", "1:2:3", "3:3", "4:2", "0:0", ":0"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(UsageError, match=f"--shards {text}: ") as caught:
        parse_range(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("0:2", "2:4", False),
        ("0:3", "2:4", True),
        ("0:9", "2:4", True),
        ("2:", "0:2", False),
        ("2:", "0:3", True),
        ("2:", "5:", True),
    ],
)
def test_overlap(one: str, other: str, overlap: bool) -> None:
    assert parse_range(one).overlaps(parse_range(other)) is overlap
    assert parse_range(other).overlaps(parse_range(one)) is overlap


def test_ranges_are_held_side_by_side(dataset: str) -> None:
    with (
        holding_range(dataset, ShardRange(0, 5)) as first,
        holding_range(dataset, ShardRange(5, None)) as second,
    ):
        first.check()
        second.check()
        for shards in ("0:5", "4:6", "8:9", ":"):
            with (
                pytest.raises(AbortError, match=f"process {os.getpid()} of "),
                holding_range(dataset, parse_range(shards)),
            ):
                pytest.fail("two runs at once")
    with holding_range(dataset, ShardRange(0, 5)):
        pass


def test_a_whole_run_and_ranges_exclude_each_other(dataset: str) -> None:
    with holding_range(dataset, ShardRange(0, 5)):
        with pytest.raises(AbortError, match="works on its shards 0:5"), holding_whole(dataset):
            pytest.fail("two runs at once")
        assert read_lease(dataset) is None  # of the one that was refused
        with holding_whole(dataset, take_over=True):
            pass
    with holding(dataset):
        for take_over in (False, True):
            if take_over:
                with holding_range(dataset, ShardRange(0, 5), take_over=True):
                    continue
            with (
                pytest.raises(AbortError, match="works on it"),
                holding_range(dataset, ShardRange(0, 5)),
            ):
                pytest.fail("two runs at once")


@pytest.mark.parametrize(("age", "refused"), [(290, True), (310, False)])
def test_a_range_whose_run_died_on_another_machine(dataset: str, age: float, refused: bool) -> None:
    url = storage.join(range_url(dataset, ShardRange(0, 5)), "run.json")
    storage.publish_json(url, asdict(lease_of_another_machine(age)))
    if refused:
        with pytest.raises(AbortError, match="4321 of ann"), holding_whole(dataset):
            pytest.fail("two runs at once")
        assert storage.exists(url)
        return
    with holding_whole(dataset):
        assert not storage.exists(url)
        if storage.local_path(dataset) is not None:
            assert storage.names(dataset) == ["run.json"]


def extract_range(
    dataset: str,
    config: ExtractConfig,
    text: str,
    also: Callable[[ShardRecord], None] = lambda _: None,
) -> list[int]:
    made: list[ShardRecord] = []

    def on_record(record: ShardRecord) -> None:
        made.append(record)
        also(record)

    todo = plan_range(dataset, config, parse_range(text))
    run_extract(todo, dataset, config, CPU, executor="local", num_workers=1, on_record=on_record)
    return [record.number for record in made]


def test_only_the_range_is_made_and_nothing_else_is_written(
    copies: Copies, config: ExtractConfig, tmp_path: Path
) -> None:
    dataset = str(tmp_path / "d")
    plan_extract(copies(7), dataset, config)
    before = {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir() if path.is_file()}
    assert before.keys() == {"plan.parquet", "dataset.json", "config.yaml"}
    copies(9)  # videos that came since
    attempt = tmp_path / "d/attempts/000000.json"

    def begin_another(_: ShardRecord) -> None:
        """Another task is at its first shard meanwhile."""
        attempt.write_text(json.dumps(asdict(Attempts("r", "j", attempts=1))))

    assert extract_range(dataset, config, "1:3", begin_another) == [1, 2]
    assert attempt.exists()
    attempt.unlink()
    assert extract_range(dataset, config, "1:3") == []
    assert extract_range(dataset, config, "2:99") == [3]
    assert list(tar_digests(dataset)) == ["000001.tar", "000002.tar", "000003.tar"]
    after = {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir() if path.is_file()}
    assert after == before


def test_a_range_of_a_dataset_that_is_not_planned_so(
    copies: Copies, config: ExtractConfig, tmp_path: Path
) -> None:
    dataset = str(tmp_path / "d")
    with pytest.raises(UsageError, match=r"has no plan yet; .* --plan-only"):
        plan_range(dataset, config, ShardRange(0, 1))
    plan_extract(copies(3), dataset, config)
    with pytest.raises(UsageError, match=r"--shards 2:9: none of these is planned; .* shards 0:2"):
        plan_range(dataset, config, ShardRange(2, 9))
    other = changed(config, audio=config.extractors["audio"].model_copy(update={"bands": 16}))
    with pytest.raises(UsageError, match="planned with other settings"):
        plan_range(dataset, other, ShardRange(0, 1))
    patient = config.model_copy(update={"max_attempts": 9})  # decides no number
    assert [job.number for job in plan_range(dataset, patient, ShardRange(0, 1)).jobs] == [0]
