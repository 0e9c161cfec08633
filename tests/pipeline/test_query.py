import numpy as np
import pytest
import torch

from extractors.errors import UsageError
from pipeline.cli.options import load_config
from pipeline.config import ExtractConfig
from pipeline.query import embed_sentences

CPU = torch.device("cpu")


def test_sentences_that_mean_the_same_are_near() -> None:
    config = load_config("embedded", None, None).extract
    (cat,), (kitten,), (engine,) = embed_sentences(
        ["a cat looks around", "a kitten is watching", "the engine of a motorbike"], config, CPU
    )
    assert np.linalg.norm(cat) == pytest.approx(1, abs=1e-3)
    assert cat @ kitten > cat @ engine + 0.2


def test_a_dataset_without_text_has_no_sentence_encoder(config: ExtractConfig) -> None:
    with pytest.raises(UsageError, match="extracted without text"):
        embed_sentences(["x"], config, CPU)
