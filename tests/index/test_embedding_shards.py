from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extractors.errors import AbortError
from index.embedding_shards import (
    MODALITIES,
    ClipRow,
    clip_table,
    embedding_batches,
    embedding_numbers,
    embedding_url,
    is_whole,
    publish_embeddings,
    read_embeddings,
    read_record,
    vectors_of,
)
from pipeline import storage

CLIPS = [ClipRow("a", "/a.mp4", 0.0, 1.25, "hello"), ClipRow("b", "/b.mp4", 2.0, 10.0)]
ONES = {name: np.full((2, 3), i + 1, np.float32) for i, name in enumerate(MODALITIES)}
PRESENT = {
    "video": np.array([True, False]),
    "audio": np.array([True, False]),
    "text": np.array([False, True]),
}


def publish(index: str, table: pa.Table, tar_sha256: str = "tar") -> None:
    publish_embeddings(
        index, 4, table, tar_sha256=tar_sha256, model_digest="model", settings={"window": 8.0}
    )


def test_ids_name_the_video_and_its_time() -> None:
    assert [clip.id for clip in CLIPS] == ["a@0.000-1.250", "b@2.000-10.000"]


def test_the_sum_is_over_present_targets_and_null_without_any() -> None:
    table = clip_table(CLIPS, ONES, PRESENT, ("video", "audio"))
    assert table.column("sum_embedding").to_pylist() == [[3.0, 3.0, 3.0], None]
    assert table.column("video_embedding").to_pylist() == [[1.0, 1.0, 1.0], None]
    assert table.column("text_embedding").to_pylist() == [None, [3.0, 3.0, 3.0]]
    with_text = clip_table(CLIPS, ONES, PRESENT, ("audio", "text"))
    assert with_text.column("sum_embedding").to_pylist() == [[2.0, 2.0, 2.0], [3.0, 3.0, 3.0]]


def test_what_an_absent_modality_holds_never_reaches_the_sum() -> None:
    noisy = ONES | {"audio": np.array([[2, 2, 2], [np.nan, 9, 9]], np.float32)}
    table = clip_table(CLIPS, noisy, PRESENT, ("audio", "text"))
    assert table.column("sum_embedding").to_pylist()[1] == [3.0, 3.0, 3.0]


def test_embeddings_that_are_not_finite_are_refused_by_name() -> None:
    diverged = ONES | {"audio": np.array([[2, np.inf, 2], [0, 0, 0]], np.float32)}
    with pytest.raises(AbortError, match=r"a@0\.000-1\.250: its audio embedding is not finite"):
        clip_table(CLIPS, diverged, PRESENT, ("video",))


def test_a_table_survives_the_disk_with_fixed_size_float32_columns(tmp_path: Path) -> None:
    table = clip_table(CLIPS, ONES, PRESENT, ("video", "audio", "text"))
    publish(str(tmp_path), table)
    back = read_embeddings(str(tmp_path), 4)
    assert back.equals(table)
    assert back.schema.field("sum_embedding").type == pa.list_(pa.float32(), 3)
    assert np.array_equal(vectors_of(back, "sum"), [[3, 3, 3], [3, 3, 3]])
    assert pq.read_schema(embedding_url(str(tmp_path), 4, ".parquet")).names == [
        *["id", "key", "uri", "start", "end", "text", "label", "split", "language"],
        *["video_embedding", "audio_embedding", "text_embedding", "sum_embedding"],
    ]


def test_vectors_of_a_filtered_table_are_the_rows_that_remain() -> None:
    table = clip_table(CLIPS, ONES, PRESENT, ("text",))
    kept = table.filter(table.column("sum_embedding").is_valid())
    assert kept.column("id").to_pylist() == ["b@2.000-10.000"]
    assert np.array_equal(vectors_of(kept, "sum"), [[3, 3, 3]])


def test_a_shard_whose_videos_all_failed_has_an_empty_table(tmp_path: Path) -> None:
    empty = {name: np.zeros((0, 3), np.float32) for name in MODALITIES}
    none = {name: np.zeros(0, bool) for name in MODALITIES}
    publish(str(tmp_path), clip_table([], empty, none, ("video",)))
    record = read_record(str(tmp_path), 4)
    assert record is not None
    assert (record.clips, record.videos, record.dimension) == (0, 0, 3)


def test_the_record_counts_and_ties_the_parquet_to_what_it_was_made_from(tmp_path: Path) -> None:
    publish(str(tmp_path), clip_table(CLIPS, ONES, PRESENT, ("video", "audio")))
    record = read_record(str(tmp_path), 4)
    assert record is not None
    assert (record.clips, record.videos, record.dimension) == (2, 2, 3)
    assert record.present == {"video": 1, "audio": 1, "text": 1, "sum": 1}
    assert record.is_of("tar", "model", {"window": 8.0})
    assert not record.is_of("other", "model", {"window": 8.0})
    assert not record.is_of("tar", "other", {"window": 8.0})
    assert not record.is_of("tar", "model", {"window": 4.0})
    assert is_whole(str(tmp_path), record)


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        publish(str(tmp_path / name), clip_table(CLIPS, ONES, PRESENT, ("video",)))
    for suffix in (".parquet", "_stats.json"):
        first, second = (embedding_url(str(tmp_path / name), 4, suffix) for name in ("a", "b"))
        assert storage.read_bytes(first) == storage.read_bytes(second)


def test_a_changed_or_missing_parquet_is_not_whole(tmp_path: Path) -> None:
    publish(str(tmp_path), clip_table(CLIPS, ONES, PRESENT, ("video",)))
    record = read_record(str(tmp_path), 4)
    assert record is not None
    path = Path(embedding_url(str(tmp_path), 4, ".parquet"))
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_whole(str(tmp_path), record)
    path.unlink()
    assert not is_whole(str(tmp_path), record)


@pytest.mark.parametrize("content", ["{", '{"format_version": 99}', '{"format_version": 1}', "[1]"])
def test_a_foreign_record_counts_as_none(tmp_path: Path, content: str) -> None:
    storage.publish_bytes(embedding_url(str(tmp_path), 4, "_stats.json"), content.encode())
    assert read_record(str(tmp_path), 4) is None


def test_only_shards_with_a_record_count(tmp_path: Path) -> None:
    publish(str(tmp_path), clip_table(CLIPS, ONES, PRESENT, ("video",)))
    storage.publish_bytes(embedding_url(str(tmp_path), 9, ".parquet"), b"unfinished")
    assert embedding_numbers(str(tmp_path)) == [4]
    assert embedding_numbers(str(tmp_path / "nowhere")) == []


@pytest.mark.parametrize(
    ("targets", "clips"), [(("video",), CLIPS[:1]), (("audio", "text"), CLIPS)]
)
@pytest.mark.parametrize("columns", [["id"], ["id", "sum_embedding"], ["text_embedding", "id"]])
def test_clips_without_a_sum_are_left_out_whatever_is_read(
    tmp_path: Path, targets: tuple[str, ...], clips: list[ClipRow], columns: list[str]
) -> None:
    """Also where the sums themselves are not asked for: the statistics tell whether one is null."""
    table = clip_table(CLIPS, ONES, PRESENT, targets)
    publish(str(tmp_path), table)
    (batch,) = embedding_batches(str(tmp_path), 4, columns)
    assert batch.column_names == columns
    assert batch.column("id").to_pylist() == [clip.id for clip in clips]
    if "sum_embedding" in columns:
        expected = table.column("sum_embedding").drop_null().to_pylist()
        assert batch.column("sum_embedding").to_pylist() == expected


def test_vectors_are_packed_so_that_they_are_read_fast(tmp_path: Path) -> None:
    """No dictionary, which vectors do not have; bytes of a kind together, which compress."""
    publish(str(tmp_path), clip_table(CLIPS, ONES, PRESENT, ("video",)))
    group = pq.ParquetFile(tmp_path / "embeddings/000004.parquet").metadata.row_group(0)
    columns = {c.path_in_schema: c for c in map(group.column, range(group.num_columns))}
    vectors = columns["sum_embedding.list.element"]
    assert "BYTE_STREAM_SPLIT" in vectors.encodings
    assert not vectors.has_dictionary_page
    assert columns["text"].has_dictionary_page
