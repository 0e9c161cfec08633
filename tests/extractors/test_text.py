"""Vectors of segments: sentence vectors of the real model, and which encoder is built."""

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from extractors.errors import UsageError
from extractors.speech_config import TextChoice, TextConfig, WordVectorsConfig
from extractors.text import SentenceEncoder, build_text_encoder
from extractors.word_vectors import WordVectors

SENTENCES = [
    "Cut the onion into thin slices.",
    "Chop an onion finely.",
    "The rocket lifts off from the launch pad.",
]


@pytest.fixture(scope="module")
def encoder():
    encoder = SentenceEncoder(TextConfig())
    encoder.setup(torch.device("cpu"))
    yield encoder
    encoder.close()


def test_vectors_are_of_length_one(encoder):
    vectors = encoder.encode(SENTENCES)
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_what_means_the_same_lies_closer(encoder):
    vectors = encoder.encode(SENTENCES)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.7
    assert similarity[0, 2] < 0.2
    assert similarity[1, 2] < 0.2


def test_a_vector_depends_on_its_sentence_only(encoder):
    together = encoder.encode([*SENTENCES, "word " * 300])
    alone = np.concatenate([encoder.encode([sentence]) for sentence in SENTENCES])
    np.testing.assert_allclose(together[:3], alone, atol=1e-5)  # padding changes sums' order


def test_a_missing_local_model():
    with pytest.raises(UsageError, match=r"text\.model = \./nowhere: no such file"):
        SentenceEncoder(TextConfig(model="./nowhere")).setup(torch.device("cpu"))


def test_one_row_a_sentence(encoder):
    found = encoder.encode_rows(SENTENCES)
    np.testing.assert_array_equal(found.rows, encoder.encode(SENTENCES))
    assert found.offsets.tolist() == [0, 1, 2, 3]
    nothing = encoder.encode_rows([])
    assert (nothing.rows.shape, nothing.offsets.tolist()) == ((0, 384), [0])


@pytest.mark.parametrize(("given", "config", "built"), [
    ({}, TextConfig(), SentenceEncoder),
    ({"model": "./x", "batch_size": 2}, TextConfig(model="./x", batch_size=2), SentenceEncoder),
    ({"kind": "sentences"}, TextConfig(), SentenceEncoder),
    ({"kind": "words", "vectors": "a.bin"}, WordVectorsConfig(vectors="a.bin"), WordVectors),
])  # fmt: skip
def test_the_kind_chooses_and_old_configurations_have_none(given, config, built):
    adapter = TypeAdapter(TextChoice)
    assert adapter.validate_python(given) == config
    assert adapter.validate_python(config) == config
    assert adapter.validate_python(config.model_dump(mode="json")) == config
    assert isinstance(build_text_encoder(config), built)


@pytest.mark.parametrize("given", [
    {"kind": "words"}, {"kind": "letters"}, {"kind": "words", "vectors": "a", "batch_size": 1},
    {"max_words": 3},
])  # fmt: skip
def test_settings_of_the_other_kind_are_refused(given):
    with pytest.raises(ValidationError):
        TypeAdapter(TextChoice).validate_python(given)
