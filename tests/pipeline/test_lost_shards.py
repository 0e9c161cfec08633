"""A shard never loses what it has: its files are damaged, or its videos cannot be read now."""

from pathlib import Path

import pytest

from extractors.config import LogMelConfig
from extractors.errors import AbortError
from extractors.views import SoundView
from pipeline.config import ExtractConfig
from pipeline.dataset import read_all_rows, read_records
from pipeline.extract import Todo, plan_extract, run_extract
from pipeline.published import withdraw, withdrawn_shards
from pipeline.samples import read_dataset
from pipeline.shards import ShardRecord, shard_url
from tests.pipeline.conftest import CPU, Copies, Decoded, changed, extract, tar_digests


@pytest.mark.parametrize("change", ["setting", "neighbour"])
def test_a_video_that_is_out_of_reach_keeps_its_features(
    copies: Copies,
    config: ExtractConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    change: str,
) -> None:
    source, dataset, wanted = copies(2), str(tmp_path / "d"), config
    listed = tmp_path / "list.csv"
    listed.write_text("path,key\nvideos/clip000.mp4,clip000\nvideos/clip001.mp4,clip001\n")
    extract(str(listed), dataset, config)
    before = tar_digests(dataset)
    (Path(source) / "clip000.mp4").rename(tmp_path / "elsewhere.mp4")
    todo = plan_extract(str(listed), dataset, config)
    assert (todo.jobs, todo.update.out_of_reach) == ((), ("clip000",))
    if change == "setting":
        wanted = changed(config, audio=LogMelConfig(bands=16))
        todo = plan_extract(str(listed), dataset, wanted)
        records = run_all(todo, dataset, wanted)
        assert todo.left(records) == records
        assert "shard 000000 is left as it was" in caplog.text
        assert "clip000.mp4: no such file" in caplog.text
        assert tar_digests(dataset) == before
    else:  # what needs not be opened is carried
        (Path(source) / "clip001.mp4").touch()
        extract(str(listed), dataset, config)
        assert tar_digests(dataset) == before
    (tmp_path / "elsewhere.mp4").rename(Path(source) / "clip000.mp4")
    extract(str(listed), dataset, wanted)
    assert len(list(read_dataset(dataset))) == 2


def run_all(todo: Todo, dataset: str, config: ExtractConfig) -> list[ShardRecord]:
    return run_extract(
        todo, dataset, config, CPU, executor="local", num_workers=1, on_record=lambda _: None
    )


def test_a_job_that_is_left_spoils_no_batch_of_the_next(
    copies: Copies, config: ExtractConfig, tmp_path: Path
) -> None:
    source, dataset = copies(4), str(tmp_path / "d")
    extract(source, dataset, config)
    (Path(source) / "clip001.mp4").unlink()  # the second of shard 0: windows of the first wait
    wider = changed(config, audio=LogMelConfig(bands=16))
    todo = plan_extract(source, dataset, wider)
    assert [record.number for record in todo.left(run_all(todo, dataset, wider))] == [0]
    copies(4)
    (Path(source) / "clip001.mp4").touch()
    extract(source, str(tmp_path / "anew"), wider)
    assert tar_digests(dataset)["000001.tar"] == tar_digests(tmp_path / "anew")["000001.tar"]


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_a_lost_parquet_is_read_out_of_the_manifest(
    copies: Copies, config: ExtractConfig, tmp_path: Path, decoded: Decoded, damage: str
) -> None:
    source, dataset = copies(3), str(tmp_path / "d")
    (Path(source) / "clip001.mp4").write_bytes(b"")  # failures are in the parquet alone
    extract(source, dataset, config)
    decoded.clear()
    spoil(Path(shard_url(dataset, 0, ".parquet")), damage)
    extract(source, dataset, changed(config, audio=LogMelConfig(bands=16)))
    assert all(isinstance(view, SoundView) for _, views in decoded for view in views)
    assert [row["attempts"] for row in read_all_rows(dataset)] == [1, 2, 1]  # it knew of the first


@pytest.mark.parametrize("lost", [("manifest.parquet", "shards/000000.parquet"), ("record",)])
def test_a_damaged_shard_is_not_made_anew_without_its_files(
    copies: Copies, config: ExtractConfig, tmp_path: Path, lost: tuple[str, ...]
) -> None:
    source, dataset = copies(2), str(tmp_path / "d")
    extract(source, dataset, config)
    before = tar_digests(dataset)
    for name in lost:
        if name == "record":
            Path(shard_url(dataset, 0, "_stats.json")).write_text("")
        else:
            (tmp_path / "d" / name).unlink()
    (Path(source) / "clip000.mp4").unlink()
    with pytest.raises(AbortError, match="is damaged, and cannot be made anew"):
        run_all(plan_extract(source, dataset, config), dataset, config)
    assert tar_digests(dataset) == before
    run_all(plan_extract(source, dataset, config, drop_failed=True), dataset, config)
    assert [row["reason"] for row in read_all_rows(dataset)] == ["not_found", None]


def test_a_video_that_fails_now_keeps_its_features(
    copies: Copies, config: ExtractConfig, tmp_path: Path
) -> None:
    source, dataset = copies(2), str(tmp_path / "d")
    extract(source, dataset, config)
    before = tar_digests(dataset)
    (Path(source) / "clip000.mp4").write_bytes(b"")  # a copy that was begun
    todo = plan_extract(source, dataset, config)
    records = run_all(todo, dataset, config)
    assert (todo.left(records), tar_digests(dataset)) == (records, before)


def test_a_shard_that_is_left_gets_back_what_it_lacks(
    copies: Copies, config: ExtractConfig, tmp_path: Path
) -> None:
    source, dataset = copies(2), str(tmp_path / "d")
    (record,) = run_all(plan_extract(source, dataset, config), dataset, config)
    parquet = Path(shard_url(dataset, 0, ".parquet"))
    rows = parquet.read_bytes()
    withdraw(dataset, record)  # a run that died before it replaced anything
    assert withdrawn_shards(dataset) == [0]
    parquet.unlink()
    (Path(source) / "clip000.mp4").unlink()
    wider = changed(config, audio=LogMelConfig(bands=16))
    assert run_all(plan_extract(source, dataset, wider), dataset, wider) == [record]
    assert read_records(dataset) == [record]
    assert (parquet.read_bytes(), withdrawn_shards(dataset)) == (rows, [])


def test_shards_without_a_plan_are_not_planned_anew(
    copies: Copies, config: ExtractConfig, tmp_path: Path
) -> None:
    source, dataset = copies(2), str(tmp_path / "d")
    extract(source, dataset, config)
    (tmp_path / "d/plan.parquet").unlink()
    with pytest.raises(AbortError, match=r"plan\.parquet: missing, while 1 shards"):
        plan_extract(source, dataset, config)


def spoil(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
        return
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[100] ^= 1
    path.write_bytes(content)


def test_damage_is_not_carried(
    copies: Copies, config: ExtractConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, dataset = copies(2), str(tmp_path / "d")
    extract(source, dataset, config)
    tar = Path(shard_url(dataset, 0, ".tar"))
    content = bytearray(tar.read_bytes())
    content[2000] ^= 1
    tar.write_bytes(content)
    wider = changed(config, audio=LogMelConfig(bands=16))
    extract(source, dataset, wider)
    assert "shard 000000 is damaged and is made anew" in caplog.text
    extract(source, str(tmp_path / "anew"), wider)
    assert tar_digests(dataset) == tar_digests(tmp_path / "anew")
