"""Word vectors: files that gensim itself writes and ships, and which words are taken."""

from pathlib import Path

import gensim
import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors

from extractors.errors import UsageError
from extractors.speech_config import WordVectorsConfig
from extractors.word_vectors import WordVectors, tokenise

WORDS = ["the", "onion", "Onion", "don't", "cut", "é_1"]
SHIPPED = Path(gensim.__file__).parent / "test" / "test_data" / "euclidean_vectors.bin"


@pytest.fixture(scope="module")
def vectors():
    """Random vectors of six words, exact in float16."""
    made = KeyedVectors(8)
    values = np.random.default_rng(0).normal(size=(len(WORDS), 8)).astype(np.float16)
    made.add_vectors(WORDS, values.astype(np.float32))
    return made


@pytest.fixture(scope="module", params=["v.bin", "v.txt", "v.vec", "v.bin.gz", "v.txt.gz"])
def path(request, vectors, tmp_path_factory):
    target = str(tmp_path_factory.mktemp("vectors") / request.param)
    vectors.save_word2vec_format(target, binary=".bin" in request.param)
    return target


def load(path, **settings):
    encoder = WordVectors(WordVectorsConfig(vectors=str(path), **settings))
    encoder.setup(torch.device("cpu"))
    return encoder


def test_tokens_are_those_of_the_released_code():
    text = "Don't cut-up the Onion, it's 2.5 cm_long… café 'quoted'"
    assert tokenise(text) == [
        "Don't", "cut", "up", "the", "Onion", "it's", "2", "5", "cm_long", "café", "'quoted'"
    ]  # fmt: skip


def test_rows_are_the_vectors_of_the_words(path, vectors):
    found = load(path).encode_rows(["Cut the onion, the Onion!", "?", "nothing known", "don't é_1"])
    expected = ["the", "onion", "the", "Onion", "don't", "é_1"]
    np.testing.assert_array_equal(found.rows, np.stack([vectors[word] for word in expected]))
    assert found.rows.dtype == np.float32
    assert found.offsets.tolist() == [0, 4, 4, 4, 6]  # Cut is another word than cut


def test_words_without_a_vector_are_dropped_before_the_cut(path):
    found = load(path, max_words=2).encode_rows(["unknown the words cut the the", "the"])
    np.testing.assert_array_equal(found.offsets, [0, 2, 3])
    np.testing.assert_array_equal(found.rows, load(path).encode_rows(["the cut the"]).rows)


def test_twenty_words_by_default(path):
    assert load(path).encode_rows(["the " * 50]).offsets.tolist() == [0, 20]


def test_no_texts_and_no_words(path):
    encoder = load(path)
    assert encoder.encode_rows([]).rows.shape == (0, 8)
    assert encoder.encode_rows([]).offsets.tolist() == [0]
    assert encoder.encode_rows(["", "???"]).rows.shape == (0, 8)


def test_a_part_of_the_vocabulary(path):
    found = load(path, vocabulary=2).encode_rows(["the onion cut"])
    assert found.offsets.tolist() == [0, 2]


def test_a_published_binary_file():
    """As gensim itself reads it; rows are rounded to float16, 11 bits, as they are stored."""
    known = KeyedVectors.load_word2vec_format(str(SHIPPED), binary=True)
    words = [word for word in known.index_to_key if tokenise(word) == [word]][:20]
    assert len(words) == 20
    found = load(SHIPPED).encode_rows([" ".join(words)])
    expected = np.stack([known[word] for word in words])
    np.testing.assert_allclose(found.rows, expected, rtol=2**-11, atol=1e-7)


def test_facts_for_fingerprint_and_scheduler(path):
    encoder = WordVectors(WordVectorsConfig(vectors=path))
    assert len(encoder.weights_sha256) == 64
    assert encoder.resources.gpus == 0
    assert encoder.resources.memory_mb >= 200


@pytest.mark.parametrize(("name", "content"), [
    ("a.bin", b"no header\n"), ("a.bin", b""), ("a.bin", b"3 4\na \0\0"), ("a.txt", b"\xff\xfe\0"),
    ("a.txt", b"the 0.1 0.2\n"), ("a.txt", b"2 2\na 0.1\n"), ("a.txt", b"2 2\na x y\n"),
    ("a.txt.gz", b"not packed"), ("a.bin", b"9999999999999999 300\nx "),
])  # fmt: skip
def test_what_is_no_file_of_word_vectors(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=r"text\.vectors = .*: not word2vec's") as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_gone(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        load(tmp_path / "gone.bin")
    with pytest.raises(UsageError, match="no such file"):
        _ = WordVectors(WordVectorsConfig(vectors=str(tmp_path / "gone.bin"))).weights_sha256
