"""Sentences to be held against a dataset go through its own text encoder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.errors import UsageError
from extractors.text import TextEncoder, build_text_encoder
from pipeline.config import ExtractConfig


@contextmanager
def open_text_encoder(config: ExtractConfig, device: torch.device) -> Iterator[TextEncoder]:
    """The encoder of a dataset's settings, loaded. Raises UsageError for one without text."""
    if config.text is None:
        raise UsageError("this dataset was extracted without text (extract.text is null)")
    encoder = build_text_encoder(config.text)
    encoder.setup(device)
    try:
        yield encoder
    finally:
        encoder.close()


def embed_sentences(
    sentences: Sequence[str], config: ExtractConfig, device: torch.device
) -> list[NDArray[np.float32]]:
    """For each sentence its (R, D) rows: one, or one a word. Raises as `open_text_encoder` does."""
    with open_text_encoder(config, device) as encoder:
        found = encoder.encode_rows(sentences)
        return np.split(found.rows, found.offsets[1:-1]) if sentences else []
