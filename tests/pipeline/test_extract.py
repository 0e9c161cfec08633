import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
import torch

from extractors.config import LogMelConfig
from extractors.errors import AbortError, UsageError
from pipeline import storage
from pipeline.config import ExtractConfig
from pipeline.dataset import read_all_rows, read_dataset_card, read_dataset_config
from pipeline.extract import plan_extract, run_extract
from pipeline.plan import read_plan
from pipeline.samples import read_dataset
from pipeline.shards import ShardRecord, shard_url
from tests.pipeline.conftest import numbered_copies, tar_digests

CPU = torch.device("cpu")


def extract(source: str, dataset: str, config: ExtractConfig, workers: int = 1) -> list[int]:
    """Runs to the end; gives the numbers of the shards that were made."""
    made: list[ShardRecord] = []
    todo = plan_extract(source, dataset, config)
    run_extract(
        todo, dataset, config, CPU, executor="local", num_workers=workers, on_record=made.append
    )
    return sorted(record.number for record in made)


def test_a_second_run_has_nothing_to_do(
    copies: Callable[[int], str], config: ExtractConfig, tmp_path: Path
) -> None:
    source, dataset = copies(3), str(tmp_path / "d")
    assert extract(source, dataset, config) == [0, 1]
    before = tar_digests(dataset)
    todo = plan_extract(source, dataset, config)
    assert (todo.jobs, todo.num_videos, len(todo.done)) == ((), 0, 2)
    assert extract(source, dataset, config) == []
    assert tar_digests(dataset) == before


def test_only_what_changed_is_made_again(
    copies: Callable[[int], str], clip: Path, config: ExtractConfig, tmp_path: Path
) -> None:
    source, dataset = copies(4), str(tmp_path / "d")
    assert extract(source, dataset, config) == [0, 1]
    before = tar_digests(dataset)
    # an added video, wherever it sorts, goes to a shard of its own
    numbered_copies(clip, tmp_path / "new", 1)
    (tmp_path / "new/clip000.mp4").rename(tmp_path / "videos/a.mp4")
    assert extract(source, dataset, config) == [2]
    assert before.items() <= tar_digests(dataset).items()
    # a changed file: its shard alone
    with (tmp_path / "videos/clip003.mp4").open("ab") as file:
        file.write(b"\0\0\0\x08free")
    assert extract(source, dataset, config) == [1]
    after = tar_digests(dataset)
    assert after["000000.tar"] == before["000000.tar"]
    assert after["000001.tar"] != before["000001.tar"]
    # a removed one stays
    (tmp_path / "videos/clip000.mp4").unlink()
    assert extract(source, dataset, config) == []
    assert len(list(read_dataset(dataset))) == 5
    # a changed setting: all is made again, but a shard that would lose the video that is gone
    wider = config.model_copy(
        update={"extractors": config.extractors | {"audio": LogMelConfig(bands=16)}}
    )
    assert extract(source, dataset, wider) == [0, 1, 2]
    assert tar_digests(dataset)["000000.tar"] == before["000000.tar"]
    todo = plan_extract(source, dataset, wider, drop_failed=True)
    assert [job.number for job in todo.jobs] == [0]
    (record,) = [
        record
        for record in run_extract(
            todo, dataset, wider, CPU, executor="local", num_workers=1, on_record=lambda _: None
        )
        if record.number == 0
    ]
    assert todo.left([record]) == []
    rows = {row["key"]: row for row in read_all_rows(dataset)}
    assert rows["clip000"]["reason"] == "not_found"
    assert all(sample.tracks["audio"].rows.shape[1] == 16 for sample in read_dataset(dataset))


def test_a_dataset_says_what_it_is(
    copies: Callable[[int], str], config: ExtractConfig, tmp_path: Path
) -> None:
    dataset = str(tmp_path / "d")
    extract(copies(3), dataset, config)
    card = read_dataset_card(dataset)
    assert card["tracks"] == {
        "audio": {"dim": 40, "dtype": "float16", "start": 0.0, "hop": 0.01},
        "colour": {"dim": 3, "dtype": "float32", "start": 0.125, "hop": 0.25},
    }
    assert set(card["fingerprints"]) == {"audio", "colour"}
    assert read_dataset_config(dataset) == config
    assert "bands: 40" in (tmp_path / "d/config.yaml").read_text()
    manifest = pq.read_table(tmp_path / "d/manifest.parquet").to_pylist()
    assert [(row["key"], row["shard"]) for row in manifest] == [
        ("clip000", 0), ("clip001", 0), ("clip002", 1),
    ]  # fmt: skip
    digests = tar_digests(dataset)
    assert [row["tar_sha256"] for row in manifest] == [
        digests[f"{row['shard']:06d}.tar"] for row in manifest
    ]
    assert [planned.video.key for planned in read_plan(dataset)] == [r["key"] for r in manifest]


@pytest.fixture
def bucket() -> Iterator[str]:
    memory = fsspec.filesystem("memory")
    yield "memory://extract"
    memory.rm("/extract", recursive=True)


def test_from_a_bucket_to_a_bucket(
    bucket: str, copies: Callable[[int], str], config: ExtractConfig, tmp_path: Path
) -> None:
    local = copies(2)
    for path in Path(local).iterdir():
        fsspec.filesystem("memory").pipe(f"/extract/videos/{path.name}", path.read_bytes())
    assert extract(f"{bucket}/videos", f"{bucket}/d", config) == [0]
    assert extract(f"{bucket}/videos", f"{bucket}/d", config) == []
    extract(local, str(tmp_path / "d"), config)
    remote = storage.read_bytes(shard_url(f"{bucket}/d", 0, ".tar"))
    assert remote == (tmp_path / "d/shards/000000.tar").read_bytes()


def test_a_dataset_of_another_version_is_not_touched(
    copies: Callable[[int], str], config: ExtractConfig, tmp_path: Path
) -> None:
    source, dataset = copies(1), tmp_path / "d"
    extract(source, str(dataset), config)
    card = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(card | {"format_version": 99}))
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    with pytest.raises(AbortError, match="format version 99"):
        plan_extract(copies(2), str(dataset), config)
    assert {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()} == before


def test_an_output_below_a_file_aborts(
    copies: Callable[[int], str], config: ExtractConfig, clip: Path
) -> None:
    with pytest.raises(AbortError, match=r"red\.mp4/d: .*Not a directory"):
        plan_extract(copies(1), str(clip / "d"), config)


def test_a_bad_source_leaves_no_dataset(tmp_path: Path, config: ExtractConfig) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no videos found"):
        plan_extract(str(tmp_path / "empty"), str(tmp_path / "d"), config)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_aborts_and_keeps_what_is_finished(
    copies: Callable[[int], str],
    clips: Path,
    config: ExtractConfig,
    tmp_path: Path,
    workers: int,
) -> None:
    """A limit on the size of files stands for the end of the disk: the same OSError, only later."""
    source, dataset = copies(6), str(tmp_path / "d")
    todo = plan_extract(source, dataset, config)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, hard))
    try:
        with pytest.raises(AbortError, match=r"File too large.*finished shards are kept"):
            run_extract(
                todo,
                dataset,
                config,
                CPU,
                executor="local",
                num_workers=workers,
                on_record=lambda _: None,
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "d/shards").iterdir()) == []
    assert extract(source, dataset, config) == [0, 1, 2]


def test_failed_videos_are_tried_again_when_asked(
    copies: Callable[[int], str], config: ExtractConfig, tmp_path: Path
) -> None:
    source, dataset = copies(3), str(tmp_path / "d")
    short = config.model_copy(
        update={"decode": config.decode.model_copy(update={"max_seconds": 0.1})}
    )
    extract(source, dataset, short)
    assert {row["reason"] for row in read_all_rows(dataset)} == {"too_long"}
    assert plan_extract(source, dataset, config).jobs == ()
    retry = {0: ["clip000", "clip001"], 1: ["clip002"]}
    todo = plan_extract(source, dataset, config, retry=retry)
    assert len(todo.jobs) == 2
    run_extract(
        todo, dataset, config, CPU, executor="local", num_workers=1, on_record=lambda _: None
    )
    assert {row["status"] for row in read_all_rows(dataset)} == {"success"}


def test_a_url_of_an_unknown_protocol_is_a_row(
    clip: Path, config: ExtractConfig, tmp_path: Path
) -> None:
    source, dataset = tmp_path / "list.csv", str(tmp_path / "d")
    source.write_text(f"path,key\n{clip},good\nnosuch://host/x.mp4,bad\n")
    extract(str(source), dataset, config)
    rows = {row["key"]: (row["status"], row["reason"]) for row in read_all_rows(dataset)}
    assert rows == {"good": ("success", None), "bad": ("failed", "unreadable")}


def test_changed_captions_make_their_shard_again(
    copies: Callable[[int], str], config: ExtractConfig, tmp_path: Path
) -> None:
    source, dataset = copies(3), str(tmp_path / "d")
    assert extract(source, dataset, config) == [0, 1]
    (tmp_path / "videos/clip002.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    assert extract(source, dataset, config) == [1]
