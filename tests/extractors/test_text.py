"""Sentence vectors of the real model."""

import numpy as np
import pytest
import torch

from extractors.config import TextConfig
from extractors.errors import UsageError
from extractors.text import SentenceEncoder

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
