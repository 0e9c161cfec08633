from pathlib import Path

import faiss
import numpy as np
import pytest

from index.config import IndexConfig
from index.reconstruction import reconstruction_error
from index.search import open_index
from pipeline import storage
from tests.index.conftest import Corpus


@pytest.mark.parametrize("factory", ["SQ4", "IVF2,SQ4", "PCA8,IVF2,Flat", "IVF2,Flat"])
def test_it_is_that_of_what_faiss_reconstructs(corpus: Corpus, factory: str) -> None:
    card = corpus.build(IndexConfig(factory=factory, metric="l2"))
    corpus.output += "flat"
    corpus.build(IndexConfig(factory="Flat", metric="l2"))
    exact_ND = open_index(corpus.output).vectors.reconstruct_n(0, card.count)
    index = faiss.read_index(str(Path(corpus.output.removesuffix("flat"), "knn.index")))
    if lists := faiss.try_extract_index_ivf(index):
        lists.make_direct_map()
    coded_ND = index.reconstruct_n(0, card.count)
    block = slice(0, card.blocks[0].count)  # a batch is read, which is a shard's
    missed_N = np.linalg.norm(coded_ND - exact_ND, axis=1)[block]
    expected = 100 * missed_N.mean() / np.linalg.norm(exact_ND, axis=1)[block].mean()
    assert card.reconstruction_error == pytest.approx(expected, abs=1e-3)
    assert (expected == 0) == (factory == "IVF2,Flat")


@pytest.mark.parametrize(("factory", "least"), [("Flat", 0.0), ("HNSW8", 0.0), ("HNSW8,SQ8", 1e-3)])
def test_a_graph_loses_what_its_codes_lose(corpus: Corpus, factory: str, least: float) -> None:
    card = corpus.build(IndexConfig(factory=factory))
    content = storage.read_json(f"{corpus.output}/index_infos.json")
    assert content["reconstruction error %"] == card.reconstruction_error
    assert card.reconstruction_error is not None
    assert least <= card.reconstruction_error < 1  # of 8 bits


def test_what_cannot_be_coded_alone_has_none(corpus: Corpus) -> None:
    card = corpus.build(IndexConfig())
    index = faiss.index_factory(16, "PCA8,HNSW4")
    index.train(np.random.default_rng(1).standard_normal((40, 16)).astype(np.float32))
    assert reconstruction_error(index, corpus.output, card.blocks, "cosine") is None
