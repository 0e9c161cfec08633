"""Vectors of a transcript's segments: one a segment (sentence-transformers), or one a word."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.extractor import Resources
from extractors.speech import registry_or_path
from extractors.speech_config import TextConfig, WordVectorsConfig
from extractors.weights import locate, weights_digest

VERSION = 1


@dataclass(frozen=True)
class TextRows:
    """The vectors of S texts, one after the other."""

    rows: NDArray[np.float32] = field(repr=False)
    """(R, D) float32."""
    offsets: NDArray[np.int64]
    """(S + 1,): text i has the rows `offsets[i]:offsets[i + 1]`, possibly none; of a sentence
    encoder 0, 1, 2 …, one row a text."""


class TextEncoder(Protocol):
    """What makes the vectors of segments; see `build_text_encoder`."""

    @property
    def resources(self) -> Resources:
        """What it needs, with its model loaded."""

    @property
    def dtype(self) -> str:
        """How rows are stored."""

    @property
    def weights_sha256(self) -> str:
        """Of what its numbers come from."""

    def setup(self, device: torch.device) -> None:
        """Loads the model."""

    def encode_rows(self, texts: Sequence[str]) -> TextRows:
        """The vectors of texts."""

    def close(self) -> None:
        """Frees the model."""


def build_text_encoder(config: TextConfig | WordVectorsConfig) -> TextEncoder:
    """The encoder of a configuration; nothing is loaded before its `setup`."""
    match config:
        case TextConfig():
            return SentenceEncoder(config)
        case WordVectorsConfig():
            from extractors.word_vectors import WordVectors  # gensim only where it is wanted

            return WordVectors(config)


class SentenceEncoder:
    """Vectors of length 1, float16 on disk."""

    resources = Resources(gpus=0.1, memory_mb=500)
    dtype = "float16"

    def __init__(self, config: TextConfig) -> None:
        self._config = config
        self._model: Any = None

    @property
    def weights_sha256(self) -> str:
        """Of the registry's files, or of the local folder."""
        name, local = registry_or_path(self._config.model)
        return weights_digest(name, local)

    def setup(self, device: torch.device) -> None:
        """Loads the encoder. Raises AbortError where its weights are missing."""
        from sentence_transformers import SentenceTransformer  # two seconds of import
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]  # loading is a blink; its bar would break ours
        name, local = registry_or_path(self._config.model)
        path = locate(name, local, "text.model")
        self._model = SentenceTransformer(str(path), device=str(device), local_files_only=True)

    def encode(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """(N, D) float32, one row a sentence, each of length 1; (0, D) for no sentences."""
        assert self._model is not None, "encode before setup"
        if not sentences:
            return np.zeros((0, self._model.get_embedding_dimension()), np.float32)
        vectors: NDArray[np.float32] = self._model.encode(
            list(sentences),
            batch_size=self._config.batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return vectors.astype(np.float32)

    def encode_rows(self, texts: Sequence[str]) -> TextRows:
        """One row a text."""
        return TextRows(self.encode(texts), np.arange(len(texts) + 1))

    def close(self) -> None:
        """Frees the encoder."""
        self._model = None
