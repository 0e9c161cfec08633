from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extractors.errors import AbortError, UsageError
from index.append import append_index
from index.card import IndexCard, read_card
from index.clip_vectors import clip_vector
from index.config import IndexConfig
from index.embedding_shards import embedding_numbers
from index.encoding import QueryEncoder
from index.formats.importing import ImportOptions, ImportProgress, import_embeddings
from index.formats.layouts import FORMATS, Format
from index.queries import Term
from index.search import open_index, search
from index.vectors import unit_rows
from index.verify import verify_index
from tests.index.conftest import Corpus, in_process
from tests.index.formats.conftest import WIDTH, Foreign


def read(
    source: Path | str,
    output: Path,
    fmt: Format = "clip-retrieval",
    config: IndexConfig | None = None,
    **options: object,
) -> IndexCard:
    given = ImportOptions(fmt, **options)  # type: ignore[arg-type]
    return import_embeddings(str(source), str(output), given, config or IndexConfig())


def ids_of(output: Path) -> pa.Table:
    return pq.read_table(output / "ids.parquet")


@pytest.mark.parametrize("fmt", FORMATS)
def test_there_and_back_gives_the_same_bytes(
    corpus: Corpus, exported, tmp_path: Path, fmt: Format
) -> None:
    folder = exported(fmt)
    card = read(folder, tmp_path / "back", fmt)
    for name in ("knn.index", "ids.parquet"):
        assert Path(tmp_path / "back", name).read_bytes() == Path(corpus.output, name).read_bytes()
    assert card.imported == fmt
    ours = read_card(corpus.output)
    assert ours.imported is None
    assert card.dataset == str(folder)
    if fmt != "clip-retrieval":  # which holds the indexed clips alone
        assert (card.clips, card.videos, card.embeddings) == (
            ours.clips, ours.videos, ours.embeddings
        )  # fmt: skip


def test_vectors_of_clip_retrieval_are_found_by_vector_and_by_id(
    foreign: Foreign, tmp_path: Path
) -> None:
    card = read(foreign.folder, tmp_path / "index", made_by="CLIP ViT-B/32")
    assert (card.count, card.dimension, card.metric) == (8, WIDTH, "cosine")
    assert card.embeddings == {"video": 8, "audio": 0, "text": 8}
    assert card.model_digest == "imported: CLIP ViT-B/32"
    index = open_index(str(tmp_path / "index"))
    rows = index.ids.to_pylist()
    assert rows[6]["uri"] == "photos/1/1 of them.jpg"
    assert rows[6]["text"] == "c1"
    assert rows[6]["key"].startswith("photos__1__1_of_them-")
    (hit,) = search(index, foreign.images[1][1].astype(np.float32), 1)
    assert (hit.id, hit.uri) == (rows[6]["id"], "photos/1/1 of them.jpg")
    assert hit.score == pytest.approx(1, abs=1e-5)
    (by_text,) = search(index, foreign.texts[0][2].astype(np.float32), 1, targets=["text"])
    assert by_text.text == "c2"
    vector = clip_vector(index.url, index.card, index.ids, rows[6]["id"])
    np.testing.assert_array_equal(vector, foreign.images[1][1].astype(np.float32))


def test_a_text_is_refused_since_the_vectors_are_foreign(foreign: Foreign, tmp_path: Path) -> None:
    import torch

    read(foreign.folder, tmp_path / "index")
    index = open_index(str(tmp_path / "index"))
    with QueryEncoder(index, torch.device("cpu")) as encoder:
        with pytest.raises(UsageError, match=r"(foreign|imported)[^\n]*$"):
            encoder.encode([[Term("text", "a red car")]])
        own = index.ids.column("id")[3].as_py()
        (vector,) = encoder.encode([[Term("clip", own)]])
    np.testing.assert_array_equal(vector, foreign.images[0][3].astype(np.float32))


def test_an_import_is_verified_without_its_source_and_not_appended_to(
    foreign: Foreign, tmp_path: Path
) -> None:
    import shutil

    import torch

    output = tmp_path / "index"
    read(foreign.folder, output)
    shutil.rmtree(foreign.folder)
    assert verify_index(str(output)) == []
    with pytest.raises(UsageError, match=r"imported from .*run `pipeline embeddings import"):
        append_index(str(output), torch.device("cpu"), lambda state: None)
    (output / "embeddings" / "000001_stats.json").unlink()
    assert "no record" in verify_index(str(output))[0]


def test_the_sum_is_over_the_targets(foreign: Foreign, tmp_path: Path) -> None:
    config = IndexConfig(targets=("video", "text"), factory="Flat")
    read(foreign.folder, tmp_path / "index", config=config)
    index = open_index(str(tmp_path / "index"))
    both = foreign.images[0].astype(np.float32) + foreign.texts[0].astype(np.float32)
    stored = np.stack([index.vectors.reconstruct(i) for i in range(5)])
    np.testing.assert_allclose(stored, unit_rows(both), atol=1e-6)


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float16(), WIDTH)],
    ids=str,
)
def test_any_column_of_floats_can_be_taken(tmp_path: Path, kind: pa.DataType) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((4, WIDTH)).astype(np.float16)
    values = [row.tolist() for row in vectors]
    if kind.value_type == pa.float16():
        values = [list(row) for row in vectors]
    values[2] = None
    rows = {"embedding": pa.array(values, kind), "video_id": ["a", "b", "c", "d.mp4"]}
    table = pa.table(rows | {"from": [0, 1, 2, 3], "to": [2, 3, 4, 5.5]})
    pq.write_table(table, tmp_path / "mine.parquet")
    columns = {"video_id": "key", "from": "start", "to": "end"}
    card = read(tmp_path / "mine.parquet", tmp_path / "index", "parquet", columns=columns)
    assert (card.count, card.clips) == (3, 4)  # one has no vector
    assert ids_of(tmp_path / "index").column("id").to_pylist() == [
        "a@0.000-2.000", "b@1.000-3.000", "d@3.000-5.500"
    ]  # fmt: skip
    index = open_index(str(tmp_path / "index"))
    found = clip_vector(index.url, card, index.ids, "d@3.000-5.500")
    np.testing.assert_array_equal(found, vectors[3].astype(np.float32))


def test_datasets_saved_to_disk_are_read(exported, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is a dev dependency")
    folder = exported("huggingface")
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    loaded["train"].save_to_disk(tmp_path / "saved", num_shards=2)
    card = read(tmp_path / "saved", tmp_path / "made", "huggingface")
    straight = read(folder, tmp_path / "straight", "huggingface")
    assert card.index_sha256 == straight.index_sha256
    loaded.save_to_disk(tmp_path / "splits")
    with pytest.raises(UsageError, match=r"several splits \(train\): name one's folder"):
        read(tmp_path / "splits", tmp_path / "other", "huggingface")


def test_without_metadata_a_clip_is_its_row(foreign: Foreign, tmp_path: Path) -> None:
    for path in (foreign.folder / "metadata").iterdir():
        path.unlink()
    (foreign.folder / "metadata").rmdir()
    read(foreign.folder, tmp_path / "index")
    ids = ids_of(tmp_path / "index").column("id").to_pylist()
    assert ids[5] == "000001_000000000@0.000-0.000"


def test_batches_and_ray_give_the_same_bytes(foreign: Foreign, tmp_path: Path, monkeypatch) -> None:
    whole = read(foreign.folder, tmp_path / "whole")
    for module in ("sources", "tables"):
        monkeypatch.setattr(f"index.formats.{module}.BATCH_ROWS", 2)
    options, config = ImportOptions("clip-retrieval"), IndexConfig()
    source, output = str(foreign.folder), str(tmp_path / "pieces")
    made = import_embeddings(source, output, options, config, execute=in_process)
    assert made.index_sha256 == whole.index_sha256
    assert ids_of(tmp_path / "pieces").equals(ids_of(tmp_path / "whole"))


def test_run_again_only_changed_parts_are_read(foreign: Foreign, tmp_path: Path) -> None:
    seen: list[ImportProgress] = []
    source, output = str(foreign.folder), str(tmp_path / "index")
    options = ImportOptions("clip-retrieval")

    def again() -> int:
        import_embeddings(source, output, options, IndexConfig(), seen.append)
        return seen[-1].kept

    assert again() == 0
    assert again() == 2
    before = read_card(output)
    changed = foreign.array("img_emb", 1, 3)
    assert again() == 1
    index = open_index(output)
    assert index.card.index_sha256 != before.index_sha256
    assert search(index, changed[2], 1)[0].uri == "photos/1/2 of them.jpg"
    for path in foreign.folder.rglob("*_1.*"):
        path.unlink()
    assert again() == 1
    assert embedding_numbers(output) == [0]
    assert open_index(output).card.count == 5


def refused(message: str, source: Path, tmp_path: Path, fmt: Format = "clip-retrieval", **more):
    """One line, and nothing that could be taken for an index."""
    with pytest.raises((UsageError, AbortError), match=message) as caught:
        read(source, tmp_path / "made", fmt, **more)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made" / "index_infos.json").exists()


def test_a_folder_with_fewer_rows_is_refused(foreign: Foreign, tmp_path: Path) -> None:
    foreign.array("text_emb", 1, 2)
    refused(r"text_emb_1\.npy: 2 rows, .*img_emb_1\.npy has 3", foreign.folder, tmp_path)


def test_metadata_with_more_rows_is_refused(foreign: Foreign, tmp_path: Path) -> None:
    foreign.table(0, {"image_path": [str(i) for i in range(6)]})
    refused(r"metadata_0\.parquet: 6 rows, .*img_emb_0\.npy has 5", foreign.folder, tmp_path)


@pytest.mark.parametrize("name", ["img_emb", "text_emb", "metadata"])
def test_a_number_that_one_folder_lacks_is_refused(
    foreign: Foreign, tmp_path: Path, name: str
) -> None:
    next((foreign.folder / name).glob("*_1.*")).unlink()
    refused(rf"_1\.\w+: .*/{name} has no file of that number", foreign.folder, tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused(
    foreign: Foreign, tmp_path: Path, value: float
) -> None:
    array = foreign.images[1].copy()
    array[2, 3] = value
    foreign.write("img_emb", 1, array)
    refused(r"img_emb_1\.npy: row 2 is not finite", foreign.folder, tmp_path)


def test_another_dimension_is_refused(foreign: Foreign, tmp_path: Path) -> None:
    wide = np.ones((3, WIDTH + 1), np.float32)
    foreign.write("text_emb", 1, wide)
    refused(r"text_emb_1\.npy: 9 dimensions, .*img_emb_1\.npy has 8", foreign.folder, tmp_path)
    foreign.write("img_emb", 1, wide)
    refused(r"img_emb_1\.npy: 9 dimensions, .*img_emb_0\.npy has 8", foreign.folder, tmp_path)


def test_a_npy_that_was_cut_short_is_refused(foreign: Foreign, tmp_path: Path) -> None:
    path = foreign.folder / "img_emb" / "img_emb_0.npy"
    path.write_bytes(path.read_bytes()[:-3])
    refused(r"img_emb_0\.npy: 77 bytes of rows, its header says 80", foreign.folder, tmp_path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((5, WIDTH), np.int64), r"img_emb_0\.npy: int64 \(5, 8\): float rows"),
        (np.ones(5, np.float32), r"img_emb_0\.npy: float32 \(5,\): float rows"),
        (np.asfortranarray(np.ones((5, WIDTH), np.float32)), "columns first"),
        (np.array([{}] * 5), r"img_emb_0\.npy: object"),
    ],
)
def test_arrays_of_something_else_are_refused(
    foreign: Foreign, tmp_path: Path, array: np.ndarray, message: str
) -> None:
    foreign.write("img_emb", 0, array)
    refused(message, foreign.folder, tmp_path)


def test_no_npy_at_all_is_refused(foreign: Foreign, tmp_path: Path) -> None:
    (foreign.folder / "img_emb" / "img_emb_0.npy").write_text("not an array")
    refused(r"img_emb_0\.npy: not a \.npy", foreign.folder, tmp_path)


def test_clips_that_come_twice_are_refused(foreign: Foreign, tmp_path: Path) -> None:
    foreign.table(1, {"key": ["a", "b", "c"], "start": [0, 1, 0], "end": [1, 2, 1]})
    foreign.table(0, {"key": ["d", "e", "f", "g", "b"], "start": [1] * 5, "end": [2] * 5})
    message = r"metadata_1\.parquet: row 1 is the clip b@1\.000-2\.000, which is there already"
    refused(message, foreign.folder, tmp_path)


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (-1.0, 2.0, r"row 3: start -1\.0 is no time"),
        (float("nan"), 2.0, "row 3: start nan is no time"),
        (3.0, 2.0, r"row 3 ends at 2, before its start 3"),
    ],
)
def test_times_that_are_none_are_refused(
    foreign: Foreign, tmp_path: Path, start: float, end: float, message: str
) -> None:
    keys = list("abcde")
    foreign.table(0, {"key": keys, "start": [0, 0, 0, start, 0], "end": [1, 1, 1, end, 1]})
    refused(rf"metadata_0\.parquet: {message}", foreign.folder, tmp_path)


def test_vectors_of_differing_lengths_in_a_column_are_refused(tmp_path: Path) -> None:
    column = pa.array([[1.0, 2.0], [3.0, 4.0], [5.0]], pa.list_(pa.float32()))
    source = tmp_path / "a.parquet"
    pq.write_table(pa.table({"embedding": column}), source)
    refused(r"a\.parquet, column embedding: vectors of \[2, 1\]", source, tmp_path, "parquet")


def test_columns_that_cannot_be_told_are_refused(tmp_path: Path) -> None:
    column = pa.array([[1.0, 2.0]], pa.list_(pa.float32()))
    source = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": column, "y": column, "name": ["n"]}), source)
    refused("columns x, y: say with --vectors", source, tmp_path, "parquet")
    refused("--vectors z: .* columns x, y", source, tmp_path, "parquet", vectors={"z": "video"})
    refused(
        "--column nome: .* has the columns y, name",
        source,
        tmp_path,
        "parquet",
        vectors={"x": "video"},
        columns={"nome": "key"},
    )
    refused(
        "fields are key, uri",
        source,
        tmp_path,
        "parquet",
        vectors={"x": "video"},
        columns={"name": "title"},
    )
    read(source, tmp_path / "index", "parquet", vectors={"y": "audio"})


def test_vectors_without_a_target_are_refused(foreign: Foreign, tmp_path: Path) -> None:
    refused(
        r"has vectors of text, index\.targets names video, audio: --set index\.targets=\[text\]",
        foreign.folder,
        tmp_path,
        vectors={"text_emb": "text"},
    )


def test_modalities_that_are_none_are_refused() -> None:
    with pytest.raises(UsageError, match="--vectors: picture; allowed are video, audio, text"):
        ImportOptions("parquet", {"a": "picture"})
    with pytest.raises(UsageError, match="a modality twice"):
        ImportOptions("parquet", {"a": "video", "b": "video"})


def test_an_export_that_was_stopped_is_refused(exported, tmp_path: Path) -> None:
    folder = exported("parquet")
    (folder / ".export" / "finished.json").unlink()
    refused("an export that was stopped", folder, tmp_path, "parquet")


def test_an_index_of_our_own_is_not_overwritten(
    corpus: Corpus, foreign: Foreign, tmp_path: Path
) -> None:
    corpus.build(IndexConfig())
    with pytest.raises(UsageError, match="an index of a dataset of ours"):
        read(foreign.folder, Path(corpus.output))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "card.json").touch()
    with pytest.raises(UsageError, match=r"holds card\.json"):
        read(foreign.folder, tmp_path / "run")


@pytest.mark.parametrize("fmt", FORMATS)
def test_an_empty_folder_is_refused(tmp_path: Path, fmt: Format) -> None:
    (tmp_path / "nothing").mkdir()
    refused("nothing", tmp_path / "nothing", tmp_path, fmt)


def test_a_damaged_parquet_is_refused(exported, tmp_path: Path) -> None:
    folder = exported("parquet")
    path = folder / "000001.parquet"
    content = bytearray(path.read_bytes())
    content[40:4000] = bytes(3960)
    path.write_bytes(content)
    refused(r"000001\.parquet: cannot be read", folder, tmp_path, "parquet")


def test_from_a_bucket_to_a_bucket(foreign: Foreign, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(foreign.folder), "/importing/source", recursive=True)
    source, output = "memory://importing/source", "memory://importing/index"
    made = import_embeddings(source, output, ImportOptions("clip-retrieval"), IndexConfig())
    assert made.index_sha256 == read(foreign.folder, tmp_path / "index").index_sha256
    assert open_index(output).card.dataset == source
    memory.rm("/importing", recursive=True)
