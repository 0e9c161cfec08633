import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extractors.errors import AbortError, UsageError
from index.append import append_records, read_config
from index.card import read_card
from index.config import IndexConfig
from index.embedding_shards import CLIP_SCHEMA, embedding_url, read_embeddings
from index.formats.exporting import export_embeddings
from index.formats.layouts import FORMATS, check_format, in_order, numpy_name
from index.search import open_index
from tests.index.conftest import CLIPS, DIM, Corpus


def contents(folder: Path) -> dict[str, bytes]:
    """All but the ledgers."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if ".export" not in path.parts
    }


def test_row_i_of_every_file_is_the_same_clip(corpus: Corpus, exported) -> None:
    folder = exported("clip-retrieval")
    card = read_card(corpus.output)
    ids = pq.read_table(Path(corpus.output, "ids.parquet"))
    for number, block in enumerate(card.blocks):
        rows = pq.read_table(folder / "metadata" / f"metadata_{number}.parquet")
        assert rows.column("id").to_pylist() == ids.column("id").slice(
            block.first, block.count
        ).to_pylist()  # fmt: skip
        stored = {row["id"]: row for row in read_embeddings(corpus.output, number).to_pylist()}
        for name, modality in (("img", "sum"), ("text", "text"), ("video", "video")):
            array = np.load(folder / f"{name}_emb" / f"{name}_emb_{number}.npy")
            assert array.shape == (block.count, DIM)
            assert array.dtype == np.float32
            for clip, vector in zip(rows.column("id").to_pylist(), array, strict=True):
                expected = stored[clip][f"{modality}_embedding"]
                np.testing.assert_array_equal(
                    vector, np.zeros(DIM) if expected is None else expected
                )
        has = rows.column("has_audio").to_pylist()
        known = [stored[c]["audio_embedding"] is not None for c in rows.column("id").to_pylist()]
        assert has == known
        assert not all(has)
        assert rows.column("caption").to_pylist() == [
            stored[c]["text"] for c in rows.column("id").to_pylist()
        ]


@pytest.mark.parametrize("fmt", ["parquet", "huggingface"])
def test_tables_hold_every_clip_with_nulls_where_it_has_no_vector(
    corpus: Corpus, exported, fmt: str
) -> None:
    folder = exported(fmt)
    parts = sorted(folder.rglob("*.parquet"))
    assert len(parts) == 3
    for number, part in enumerate(parts):
        assert pq.read_table(part).equals(read_embeddings(corpus.output, number))
    assert pq.read_table(parts[0]).column("sum_embedding").null_count  # clip 0 is text alone


def test_datasets_loads_and_checks_it(exported, tmp_path: Path, monkeypatch) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is a dev dependency")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = exported("huggingface")
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    assert len(loaded) == 3 * CLIPS
    assert loaded.column_names[: len(CLIP_SCHEMA)] == CLIP_SCHEMA.names
    assert loaded.features["video_embedding"].length == DIM
    first = pq.read_table(folder / "data" / "train-00000-of-00003.parquet").to_pylist()[1]
    assert loaded[1] == first
    readme = (folder / "README.md").read_text()
    (folder / "README.md").write_text(readme.replace("num_examples: 36", "num_examples: 35"))
    with pytest.raises(Exception, match="35"):
        datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "other"))


@pytest.mark.parametrize("fmt", FORMATS)
def test_run_again_it_writes_only_what_is_missing(corpus: Corpus, exported, fmt) -> None:
    folder = exported(fmt)
    before = contents(folder)
    gone = sorted(folder.rglob("*.parquet"))[1]
    gone.unlink()
    stamps = {p: p.stat().st_mtime_ns for p in folder.rglob("*.parquet")}
    made = export_embeddings(corpus.output, str(folder), fmt)
    assert made.kept == 2
    assert contents(folder) == before
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert export_embeddings(corpus.output, str(folder), fmt).kept == 3


def test_a_masked_shard_is_left_out_and_its_files_go(corpus: Corpus, exported) -> None:
    config = IndexConfig()
    folder = exported("huggingface")
    assert len(list(folder.rglob("*.parquet"))) == 3
    records = corpus.update(config)
    append_records(open_index(corpus.output), read_config(corpus.output), records[:2])
    export_embeddings(corpus.output, str(folder), "huggingface")
    names = sorted(path.name for path in folder.rglob("*.parquet"))
    assert names == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    finished = json.loads((folder / ".export" / "finished.json").read_text())
    assert finished["clips"] == 2 * CLIPS


def test_embeddings_that_are_not_the_indexed_ones_are_refused(
    corpus: Corpus, tmp_path: Path
) -> None:
    corpus.build(IndexConfig())
    corpus.update(IndexConfig(targets=("video",)))
    with pytest.raises(AbortError, match=r"embeddings/000000\.parquet: not the embeddings that"):
        export_embeddings(corpus.output, str(tmp_path / "out"), "parquet")


def test_a_folder_with_something_else_is_refused(corpus: Corpus, exported, tmp_path: Path) -> None:
    folder = exported("parquet")
    with pytest.raises(UsageError, match="as parquet; choose another"):
        export_embeddings(corpus.output, str(folder), "huggingface")
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"not empty \(holds thesis.tex\)"):
        export_embeddings(corpus.output, str(other), "parquet")


def test_a_parquet_that_lost_rows_is_not_exported(corpus: Corpus, tmp_path: Path) -> None:
    corpus.build(IndexConfig())
    path = Path(embedding_url(corpus.output, 1, ".parquet"))
    pq.write_table(pq.read_table(path).slice(2), path)  # clip 1 is indexed
    with pytest.raises(AbortError, match=r"000001\.parquet: \d+ rows, its record says"):
        export_embeddings(corpus.output, str(tmp_path / "out"), "clip-retrieval")
    assert not list((tmp_path / "out").rglob("*_1.*"))


def test_names() -> None:
    assert numpy_name("img_emb", 7, 10) == "img_emb/img_emb_7.npy"
    assert numpy_name("img_emb", 7, 11) == "img_emb/img_emb_07.npy"
    assert in_order(["p_10.npy", "p_9.npy", "a.npy"]) == ["a.npy", "p_9.npy", "p_10.npy"]
    with pytest.raises(UsageError, match="allowed are clip-retrieval, parquet, huggingface"):
        check_format("csv")


def test_an_export_holds_a_batch_at_a_time(corpus: Corpus, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("index.formats.exporting.BATCH_ROWS", 5)
    corpus.build(IndexConfig())
    seen: list[int] = []
    append = pq.ParquetWriter.write_table

    def write(self: pq.ParquetWriter, table: pa.Table, *more: object, **named: object) -> None:
        seen.append(table.num_rows)
        append(self, table, *more, **named)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write)
    for fmt in FORMATS:
        export_embeddings(corpus.output, str(tmp_path / fmt), fmt)
    assert max(seen) == 5
    arrays = sorted((tmp_path / "clip-retrieval" / "img_emb").iterdir())
    assert sum(len(np.load(path)) for path in arrays) == read_card(corpus.output).count


@pytest.mark.parametrize("content", ["{}", "[]", '{"source": 1, "files": {"../outside.txt": 1}}'])
def test_a_ledger_that_is_not_ours_removes_nothing(tmp_path: Path, content: str) -> None:
    from index.formats.exporting import _read_ledger

    ledger = tmp_path / "000000.json"
    ledger.write_text(content)
    assert _read_ledger(str(ledger)) is None
