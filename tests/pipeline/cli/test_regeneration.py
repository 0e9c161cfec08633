import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.samples import read_dataset
from tests.pipeline.conftest import Outcome, tar_digests

Run = Callable[..., Outcome]


@pytest.fixture
def source(copies: Callable[[int], str]) -> Path:
    folder = Path(copies(2))
    (folder / "broken.mp4").write_bytes(b"")
    return folder


@pytest.fixture
def made(run: Run, source: Path, settings_file: Path, tmp_path: Path) -> tuple[object, ...]:
    """The options of a run that was done: three videos in two shards, one of them failed."""
    options = ("--input", source, "--output", tmp_path / "d", "--config", settings_file)
    assert run("run", "extract", *options).code == 3
    return options


def test_a_plan_says_what_and_why_and_writes_nothing(
    run: Run, made: tuple[object, ...], tmp_path: Path
) -> None:
    before = tar_digests(tmp_path / "d")
    card = (tmp_path / "d/dataset.json").read_bytes()
    found = run("plan", *made, "--set", "extract.extractors.audio.bands=16")
    assert found.code == 0
    assert "audio: bands changed from 40 to 16" in found.out
    assert "worker-hours" in found.out
    asked = run("plan", *made, "--set", "extract.extractors.audio.bands=16", "--json")
    content = json.loads(asked.out)
    assert [shard["state"] for shard in content["shards"]] == ["stale", "stale"]
    assert {cost["stage"] for cost in content["cost"]} == {"decode", "audio"}
    assert content["up_to_date"] == []
    assert tar_digests(tmp_path / "d") == before
    assert (tmp_path / "d/dataset.json").read_bytes() == card


def test_a_plan_of_what_is_up_to_date(run: Run, made: tuple[object, ...]) -> None:
    content = json.loads(run("plan", *made, "--json").out)
    assert (content["up_to_date"], content["shards"]) == ([0, 1], [])


def test_unlisted_and_renamed_videos_are_said(
    run: Run, made: tuple[object, ...], source: Path, tmp_path: Path
) -> None:
    (source / "clip000.mp4").rename(source / "zebra.mp4")
    (source / "clip001.mp4").unlink()
    said = run("plan", *made).err
    assert "clip000 is now called zebra" in said
    assert "1 video no longer listed, kept (--prune drops them): clip001" in said
    assert run("run", "extract", *made, "--prune").code == 3
    assert [sample.key for sample in read_dataset(str(tmp_path / "d"))] == ["zebra"]


def test_retry_tries_what_meets_the_conditions(
    run: Run, made: tuple[object, ...], source: Path, clip: Path, tmp_path: Path
) -> None:
    dataset = tmp_path / "d"
    assert "no failed video meets" in run("retry", dataset, "--where", "reason=timeout").err
    assert run("retry", dataset, "--where", "reason=empty_file").code == 3
    (source / "broken.mp4").write_bytes(clip.read_bytes())
    assert run("retry", dataset).code == 0
    keys = [sample.key for sample in read_dataset(str(dataset))]
    assert keys == ["broken", "clip000", "clip001"]


def test_quarantine_puts_aside_and_releases(
    run: Run, made: tuple[object, ...], tmp_path: Path
) -> None:
    dataset = tmp_path / "d"
    assert run("quarantine", dataset, "clip000", "--why", "asked for").code == 0
    run("quarantine", dataset, "--where", "reason=empty_file")
    found = json.loads(run("quarantine", dataset, "--json").out)
    assert {key: entry["why"] for key, entry in found.items()} == {
        "broken": "", "clip000": "asked for",
    }  # fmt: skip
    assert run("run", "extract", *made).code == 3
    assert [sample.key for sample in read_dataset(str(dataset))] == ["clip001"]
    assert "quarantine" in run("quarantine", dataset, "nobody").err
    wrong = run("quarantine", dataset, "clip001", "--release")
    assert (wrong.code, "not in the quarantine" in wrong.err) == (2, True)
    assert run("quarantine", dataset, "clip000", "--release").code == 0
    run("run", "extract", *made)
    assert [sample.key for sample in read_dataset(str(dataset))] == ["clip000", "clip001"]


def test_an_estimate_of_all(run: Run, made: tuple[object, ...], source: Path) -> None:
    # one more video, so that a shard is to be made
    (source / "more.mp4").write_bytes((source / "clip000.mp4").read_bytes())
    found = run("plan", *made, "--estimate", "--days", "2")
    assert found.code == 0
    assert "workers for 2 days" in found.out
    assert "network out, 2 days" in found.out
    assert "never measured" not in found.out  # the dataset's shards have every stage
    content = json.loads(run("plan", *made, "--estimate", "--json").out)["estimate"]
    extraction = content["extraction"]
    assert extraction["shards"] == 3
    assert {stage["rate_from"] for stage in extraction["stages"]} == {"this dataset"}
    assert extraction["source_bytes"] == (source / "more.mp4").stat().st_size
    sizes = {size["member"]: size for size in extraction["sizes"]}
    # four videos of a second (a broken one is taken for one): 4 rows of three float32
    assert sizes["colour"]["bytes"] == 4 * (128 + 4 * 3 * 4)
    assert sizes["meta"]["source"] == "measured"
    assert content["index"]["factory"] == "Flat"


def test_an_estimate_before_anything_is_made(
    run: Run, source: Path, settings_file: Path, tmp_path: Path
) -> None:
    options = ("--input", source, "--output", tmp_path / "none", "--config", settings_file)
    found = run("plan", *options, "--estimate")
    assert found.code == 0
    assert "not in it, never measured" in found.out
    assert not (tmp_path / "none").exists()
    content = json.loads(run("plan", *options, "--estimate", "--json").out)["estimate"]
    rates = {stage["stage"]: stage["rate"] for stage in content["extraction"]["stages"]}
    assert rates["colour"] is None
    assert rates["decode"] == pytest.approx(0.102 + 4 * 0.0023)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--days", "3"), "give that too"),
        (("--estimate", "--days", "0"), "more than 0"),
        (("--estimate", "--model", "nowhere"), "has no metrics.jsonl"),
    ],
)
def test_options_of_an_estimate(
    run: Run, made: tuple[object, ...], options: tuple[str, ...], message: str
) -> None:
    found = run("plan", *made, *options)
    assert found.code == 2
    assert message in " ".join(found.err.split())
