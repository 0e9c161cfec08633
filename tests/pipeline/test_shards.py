import hashlib
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from extractors.errors import AbortError, Reason
from pipeline import storage
from pipeline.shards import (
    FORMAT_VERSION,
    ROW_SCHEMA,
    ShardRecord,
    read_record,
    read_rows,
    sha256_of,
    shard_name,
    shard_numbers,
    shard_url,
    write_rows,
)

RECORD = ShardRecord(3, 2, 1, {"empty_file": 1}, "t", 5, "p", "j", {"decode": 0.1}, 1.0, "s", "e")


def publish(dataset: str, fields: object, number: int = 3) -> None:
    storage.publish_json(shard_url(dataset, number, "_stats.json"), fields)


def test_names_sort_as_numbers_do() -> None:
    assert shard_name(12) == "000012"
    assert RECORD.name == "000003"
    assert shard_url("d/", 0, "_stats.json") == "d/shards/000000_stats.json"


def test_a_record_is_read_as_written(tmp_path: Path) -> None:
    publish(str(tmp_path), {"format_version": FORMAT_VERSION} | asdict(RECORD))
    assert read_record(str(tmp_path), 3) == RECORD


@pytest.mark.parametrize("version", [None, 0, FORMAT_VERSION + 1, "1"])
def test_a_record_of_another_version_is_refused(tmp_path: Path, version: object) -> None:
    publish(str(tmp_path), asdict(RECORD) | {"format_version": version})
    with pytest.raises(AbortError, match=rf"000003_stats\.json: format version {version!r}"):
        read_record(str(tmp_path), 3)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"\xff"])
def test_what_is_no_record_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    storage.publish_bytes(shard_url(str(tmp_path), 3, "_stats.json"), content)
    with pytest.raises(AbortError, match=r"000003_stats\.json"):
        read_record(str(tmp_path), 3)


def test_a_record_with_other_fields_is_refused(tmp_path: Path) -> None:
    publish(str(tmp_path), {"format_version": FORMAT_VERSION, "number": 3})
    with pytest.raises(AbortError, match=r"000003_stats\.json: not a shard's record"):
        read_record(str(tmp_path), 3)


def test_only_shards_with_a_record_exist(tmp_path: Path) -> None:
    assert shard_numbers(str(tmp_path)) == []
    folder = tmp_path / "shards"
    folder.mkdir()
    shards = ("000002_stats.json", "000010_stats.json", "000001.tar", "000001.parquet")
    others = (".000003_stats.json.x1.partial", ".000004.tar.abc.partial", "x_stats.json")
    for name in shards + others:
        (folder / name).write_bytes(b"")
    assert shard_numbers(str(tmp_path)) == [2, 10]


def test_rows_are_read_as_written(tmp_path: Path) -> None:
    success = {"key": "a", "status": "success", "rows": {"audio": 100, "x": 3}}
    row = dict.fromkeys(ROW_SCHEMA.names) | success
    failed = row | {"key": "b", "status": "failed", "reason": str(Reason.TIMEOUT), "rows": {}}
    (tmp_path / "shards").mkdir()
    path = Path(shard_url(str(tmp_path), 0, ".parquet"))
    write_rows(path, [row, failed])
    assert read_rows(str(tmp_path), 0) == [row, failed]
    assert pq.read_schema(path).equals(ROW_SCHEMA)
    assert sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_shard_without_rows(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    write_rows(Path(shard_url(str(tmp_path), 0, ".parquet")), [])
    assert read_rows(str(tmp_path), 0) == []
