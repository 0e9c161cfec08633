import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

from extractors.errors import AbortError, UsageError
from index.search import Hit, check_model, open_index, search

Build = Callable[..., str]


def edit_card(index: str, **changes: Any) -> None:
    path = Path(index, "index_infos.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_hit_has_these_fields_and_no_others() -> None:
    names = ["rank", "id", "video", "uri", "start", "end", "score", "text"]
    assert [field.name for field in dataclasses.fields(Hit)] == names


def test_a_clips_own_vector_finds_it_first(build_from: Build) -> None:
    index = open_index(build_from())
    row = index.ids.slice(5, 1).to_pylist()[0]
    hits = search(index, index.vectors.reconstruct(5), k=3)
    assert [hit.rank for hit in hits] == [1, 2, 3]
    best = hits[0]
    assert (best.id, best.video, best.uri) == (row["id"], row["key"], row["uri"])
    assert (best.start, best.end, best.text) == (row["start"], row["end"], row["text"])
    assert best.score == pytest.approx(1.0, abs=1e-6)
    assert best.score > hits[1].score >= hits[2].score


def test_a_cosine_does_not_depend_on_the_querys_length(build_from: Build) -> None:
    index = open_index(build_from())
    query_D = np.random.default_rng(2).standard_normal(16)
    short, long = search(index, query_D * 1e-4, k=5), search(index, query_D * 1e4, k=5)
    assert [hit.id for hit in short] == [hit.id for hit in long]
    assert np.allclose([hit.score for hit in short], [hit.score for hit in long], atol=1e-6)


def test_more_hits_than_vectors_gives_them_all(build_from: Build) -> None:
    index = open_index(build_from())
    hits = search(index, np.ones(16), k=10_000)
    assert len(hits) == index.card.count
    assert len({hit.id for hit in hits}) == index.card.count


def test_an_index_that_finds_fewer_gives_fewer(build_from: Build) -> None:
    index = open_index(build_from(factory="IVF8,Flat"))  # looks into one list of eight
    index.vectors.nprobe = 1
    assert 0 < len(search(index, np.ones(16), k=20)) < 20


@pytest.mark.parametrize(
    ("query", "k", "message"),
    [
        (np.ones(16), 0, "k = 0"),
        (np.ones(15), 3, "dimension 15, the index 16"),
        (np.full(16, np.nan), 3, "not finite"),
    ],
)
def test_a_wrong_query_is_refused(build_from: Build, query: Any, k: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        search(open_index(build_from()), query, k)


def test_another_models_queries_are_refused(build_from: Build) -> None:
    index = open_index(build_from())
    check_model(index, "m" * 64)
    with pytest.raises(AbortError, match="made with model mmmmmmmmmmmm, the queries' is 0"):
        check_model(index, "0" * 64)


@pytest.mark.parametrize("name", ["knn.index", "ids.parquet"])
def test_one_changed_byte_is_refused(build_from: Build, name: str) -> None:
    url = build_from()
    path = Path(url, name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(AbortError, match=f"{name}: sha256") as caught:
        open_index(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["knn.index", "ids.parquet", "index_infos.json"])
def test_a_missing_file_is_refused_by_name(build_from: Build, name: str) -> None:
    url = build_from()
    Path(url, name).unlink()
    with pytest.raises(AbortError, match=name):
        open_index(url)


@pytest.mark.parametrize("version", [0, 1, 2, 4, "3", None])
def test_another_format_version_is_refused(build_from: Build, version: Any) -> None:
    url = build_from()
    edit_card(url, format_version=version)
    with pytest.raises(AbortError, match=r"format version .*, this program reads 3"):
        open_index(url)


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"format_version": 3}', "\udcff"])
def test_a_foreign_card_is_refused(build_from: Build, content: str) -> None:
    url = build_from()
    Path(url, "index_infos.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(AbortError, match=r"index_infos\.json") as caught:
        open_index(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [("nb vectors", "number of vectors is"), ("vectors dimension", "dimension is 16")],
)
def test_a_wrong_count_or_dimension_in_the_card_is_refused(
    build_from: Build, key: str, message: str
) -> None:
    url = build_from()
    edit_card(url, **{key: 999})
    with pytest.raises(AbortError, match=f"{message}.*the card says 999"):
        open_index(url)


@pytest.mark.parametrize(
    "changes",
    [{"metric": "hamming"}, {"target_modalities": 3}, {"nb vectors": "many"}, {"index_sha256": 1}],
)
def test_a_card_with_a_value_of_another_kind_is_refused(
    build_from: Build, changes: dict[str, Any]
) -> None:
    url = build_from()
    edit_card(url, **changes)
    with pytest.raises(AbortError, match=f"index_infos.json: '{next(iter(changes))}': ") as caught:
        open_index(url)
    assert "\n" not in str(caught.value)


def test_a_file_in_place_of_a_folder_is_refused(build_from: Build) -> None:
    with pytest.raises(AbortError, match=r"not found: no finished index there"):
        open_index(build_from() + "/knn.index")


def test_fewer_ids_than_vectors_are_refused_even_with_a_right_sha256(build_from: Build) -> None:
    url = build_from()
    path = Path(url, "ids.parquet")
    pq.write_table(pq.read_table(path).slice(1), path)
    edit_card(url, ids_sha256=sha256(path))
    with pytest.raises(AbortError, match=r"ids\.parquet: number of rows"):
        open_index(url)


def test_fewer_vectors_than_ids_are_refused_even_with_a_right_sha256(build_from: Build) -> None:
    url = build_from()
    path = Path(url, "knn.index")
    shorter = faiss.IndexFlatIP(16)
    shorter.add(np.zeros((3, 16), np.float32))
    faiss.write_index(shorter, str(path))
    edit_card(url, index_sha256=sha256(path))
    with pytest.raises(AbortError, match=r"knn\.index: number of vectors is 3"):
        open_index(url)


def test_a_file_that_is_no_index_is_refused_even_with_a_right_sha256(build_from: Build) -> None:
    url = build_from()
    path = Path(url, "knn.index")
    path.write_bytes(b"garbage" * 20)
    edit_card(url, index_sha256=sha256(path))
    with pytest.raises(AbortError, match=r"knn\.index: not a FAISS index"):
        open_index(url)


def test_ids_that_are_no_parquet_are_refused_even_with_a_right_sha256(build_from: Build) -> None:
    url = build_from()
    path = Path(url, "ids.parquet")
    path.write_bytes(b"garbage" * 20)
    edit_card(url, ids_sha256=sha256(path))
    with pytest.raises(AbortError, match=r"ids\.parquet: not a table of clips"):
        open_index(url)
