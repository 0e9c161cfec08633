"""Word vectors of a transcript, as MCN uses word2vec: the rows are the words themselves.

The model pools words after a layer of its own (q = max over words of ReLU(Linear(word))), so the
words' vectors are stored, not a mean of them: (R, D) rows of all segments one after the other,
and where each segment begins. That is half of what zero-padding every segment to 20 rows takes,
and no reader has to tell padding from words.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.errors import UsageError
from extractors.extractor import Resources
from extractors.speech_config import WordVectorsConfig
from extractors.text import TextRows
from extractors.weights import weights_digest

_TOKEN = re.compile(r"[\w']+")


def tokenise(text: str) -> list[str]:
    """The words of a text, their case kept (MCN's released code, training text)."""
    return _TOKEN.findall(text)


class WordVectors:
    """A file of word2vec's format as an encoder of texts; words it does not have are dropped."""

    dtype = "float16"

    def __init__(self, config: WordVectorsConfig) -> None:
        self._config = config
        self._index: dict[str, int] = {}
        self._vectors: NDArray[np.float32 | np.float16] | None = None

    @property
    def resources(self) -> Resources:
        """No GPU. Memory by the file's size: float16 halves its binary vectors, words add to it."""
        path = Path(self._config.vectors)
        return Resources(memory_mb=200 + (os.path.getsize(path) >> 20 if path.is_file() else 0))

    @property
    def weights_sha256(self) -> str:
        """Of the file. Raises UsageError where it is gone."""
        return weights_digest(self._config.vectors, self._config.vectors)

    def setup(self, device: torch.device) -> None:
        """Reads the file. Raises UsageError where it is gone or is none of word2vec's formats."""
        from gensim.models import KeyedVectors  # two seconds of import

        path = self._config.vectors
        if not Path(path).is_file():
            raise UsageError(f"text.vectors = {path}: no such file")
        try:
            vectors: Any = KeyedVectors.load_word2vec_format(
                path,
                binary=path.endswith((".bin", ".bin.gz")),
                limit=self._config.vocabulary,
                unicode_errors="replace",  # published files have a few broken words
                datatype=np.float16,  # as rows are stored: half the memory, the same rows
            )
        except (ValueError, EOFError, OSError, MemoryError) as err:
            message = " ".join(str(err).split())
            raise UsageError(
                f"text.vectors = {path}: not word2vec's binary (.bin) or text format: {message}"
            ) from err
        self._index, self._vectors = vectors.key_to_index, vectors.vectors

    def encode_rows(self, texts: Sequence[str]) -> TextRows:
        """A row a word, the first `text.max_words` that have a vector; a text of others has none.

        Rows are neither scaled nor centred. Words are dropped before they are counted.
        """
        assert self._vectors is not None, "encode before setup"
        known = [[self._index[word] for word in tokenise(text) if word in self._index]
                 for text in texts]  # fmt: skip
        kept = [indices[: self._config.max_words] for indices in known]
        offsets = np.cumsum([0, *map(len, kept)])
        flat = np.array([index for indices in kept for index in indices], np.int64)
        return TextRows(self._vectors[flat].astype(np.float32), offsets)

    def close(self) -> None:
        """Frees the vectors."""
        self._index, self._vectors = {}, None
