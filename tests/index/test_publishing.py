"""What is on the disk while an index is published, and which bytes those are."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index import publishing
from index.append import append_records
from index.build import publish_index
from index.config import IndexConfig
from index.embedding_shards import CLIP_SCHEMA, embedding_url
from index.search import open_index
from index.stored_vectors import write_ids
from index.verify import verify_index
from pipeline import storage
from tests.index.conftest import Corpus
from tests.index.test_append import append, changed


class KilledError(Exception):
    """Stands for the end of the process."""


def compact(corpus: Corpus, config: IndexConfig) -> None:
    records = corpus.update(config)
    publish_index(corpus.output, config, records, dataset=corpus.dataset, run="/run")


def files(index: str) -> dict[str, bytes]:
    """All but embeddings and the queries that are kept for the next time."""
    found = [p for p in Path(index).iterdir() if p.is_file() and p.name != "held_out.npz"]
    return {path.name: path.read_bytes() for path in found}


@pytest.mark.parametrize("again", [append, compact])
@pytest.mark.parametrize("writing", ["write_faiss", "write_ids", "card_bytes"])
def test_the_old_index_stays_until_every_file_is_written(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, writing: str, again: Callable
) -> None:
    config = IndexConfig(factory="IVF4,SQ8")
    corpus.build(config)
    changed(corpus, 1)
    append(corpus, config)  # so that there is a mask
    before = files(corpus.output)
    assert "mask.npy" in before
    corpus.add_shard(3, tar_sha256="tar3")

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(publishing, writing, killed)
        with pytest.raises(KilledError):
            again(corpus, config)
    assert files(corpus.output) == before
    open_index(corpus.output)
    again(corpus, config)
    assert verify_index(corpus.output) == []
    assert corpus.embedded == [0, 1, 2, 1, 3]


def test_files_are_replaced_one_after_the_other_and_the_card_last(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, done, real = IndexConfig(), [], storage.publishing

    @contextmanager
    def noting(url: str) -> Iterator[Path]:
        with real(url) as path:
            yield path
        done.append(Path(url).name)

    corpus.build(config)
    changed(corpus, 1)
    records = corpus.update(config)
    monkeypatch.setattr(storage, "publishing", noting)
    append_records(open_index(corpus.output), config, records)
    assert done == [
        *("held_out.npz", "knn.index", "ids.parquet", "mask.npy", "config.yaml"),
        "index_infos.json",
    ]


def test_an_index_is_published_where_there_is_no_rename(corpus: Corpus) -> None:
    corpus.output = "memory://publishing/index"
    config = IndexConfig()
    corpus.build(config)
    changed(corpus, 1)
    append(corpus, config)
    assert storage.exists(f"{corpus.output}/mask.npy")
    assert verify_index(corpus.output) == []
    compact(corpus, config)
    assert not storage.exists(f"{corpus.output}/mask.npy")
    assert verify_index(corpus.output) == []


def parameters(index: faiss.Index) -> dict[str, int]:
    """nprobe and efSearch as FAISS holds them."""
    typed = faiss.downcast_index(index)
    if isinstance(typed, faiss.IndexPreTransform):
        return parameters(typed.index)
    if isinstance(typed, faiss.IndexRefine):
        return parameters(typed.base_index)
    if isinstance(typed, faiss.IndexHNSW):
        return {"efSearch": typed.hnsw.efSearch}
    if not isinstance(typed, faiss.IndexIVF):
        return {}
    quantizer = parameters(typed.quantizer)
    return {"nprobe": typed.nprobe} | {f"quantizer_{k}": v for k, v in quantizer.items()}


FACTORIES = [
    "IVF8,SQ8",
    "PCA8,IVF8,Flat",
    "IVF8_HNSW4,Flat",
    "HNSW4",
    "PCA8,HNSW4",
    "IVF8,SQ4,RFlat",
]


@pytest.mark.parametrize("factory", FACTORIES)
def test_what_tuning_found_is_set_by_opening_and_not_in_the_bytes(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, factory: str
) -> None:
    found, sums = [], []
    for number in (0, -1):  # a machine that is busy and one that is not
        monkeypatch.setattr(
            "index.held_out.tune", lambda index, *_, n=number: publishing.tunable_values(index)[n]
        )
        card = corpus.build(IndexConfig(factory=factory))
        sums.append(card.index_sha256)
        found.append(card.search_parameters)
        assert parameters(open_index(corpus.output).vectors) == card.search_parameters
    corpus.add_shard(3, tar_sha256="tar3")
    append(corpus, IndexConfig(factory=factory))
    opened = open_index(corpus.output)
    assert parameters(opened.vectors) == opened.card.search_parameters
    assert found[0] != found[1]
    assert sums[0] == sums[1]


def test_memory_is_what_a_search_holds(corpus: Corpus) -> None:
    config = IndexConfig()
    corpus.build(config)
    changed(corpus, 1)
    append(corpus, config)
    opened = open_index(corpus.output)
    assert opened.live_N is not None
    held = opened.ids.nbytes + opened.live_N.nbytes + opened.card.size_bytes
    # FAISS id ends, one more offset a column and batch
    assert opened.card.memory_bytes == pytest.approx(held, abs=4 * 8 * 8)


def test_the_bytes_of_a_table_are_those_that_arrow_allocates(tmp_path: Path) -> None:
    count = 50_000
    columns = {
        field.name: np.arange(count, dtype=float)
        if pa.types.is_floating(field.type)
        else [f"{field.name} {i % 1000} of many words" for i in range(count)]
        for field in CLIP_SCHEMA
    }
    path = tmp_path / "ids.parquet"
    taken = write_ids(path, "", pa.table(columns, schema=CLIP_SCHEMA), blocks=())
    del columns
    before = pa.total_allocated_bytes()
    table = pq.read_table(path).combine_chunks()
    held = pa.total_allocated_bytes() - before
    assert table.num_rows == count
    assert path.stat().st_size < held / 5  # compressed it is a small part
    # arrow rounds buffers up, and keeps a bitmap a column
    assert taken == pytest.approx(held, rel=0.05)


def test_a_build_takes_what_it_took_and_what_was_appended(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = IndexConfig()
    corpus.build(config)
    opened = open_index(corpus.output)
    slow = dataclasses.replace(opened, card=dataclasses.replace(opened.card, build_seconds=1000.0))
    corpus.add_shard(3, tar_sha256="tar3")
    card = append_records(slow, config, corpus.update(config))
    assert 1000 < card.build_seconds < 1100
    assert Path(embedding_url(corpus.output, 3, ".parquet")).exists()
