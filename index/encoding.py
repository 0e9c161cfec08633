"""From queries to vectors, batches of them at a time; models load when they are first needed.

D dimension.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.errors import PipelineError, UsageError, VideoError
from extractors.text import TextEncoder
from index.card import check_has_model
from index.clip_vectors import clip_vector
from index.embeddings import (
    Embedder,
    file_vectors,
    load_embedder,
    queries_from_text_rows,
)
from index.queries import FILE_MODALITIES, Term, combine, query_vector
from index.search import SearchIndex, check_model
from pipeline.config import ExtractConfig
from pipeline.dataset import read_dataset_config
from pipeline.query import open_text_encoder
from pipeline.samples import VideoSample
from pipeline.sources import SourceVideo, key_of
from pipeline.worker import Worker
from training.clips import read_tracks
from training.provenance import check_same_features

Vector = NDArray[np.float32]
WINDOW = 10.0
"""Seconds of a file around a moment of it."""


class QueryEncoder:
    """The models that make queries of an index comparable with its clips. A context manager.

    Not to be used by two threads at once.
    """

    def __init__(
        self,
        index: SearchIndex,
        device: torch.device,
        *,
        window: float = WINDOW,
        decode: Mapping[str, Any] | None = None,
    ) -> None:
        """`decode` are settings of `extract.decode` that differ from the dataset's: the bounds
        that a stranger's file is held to."""
        self._index = index
        self._device = device
        self._window = window
        self._decode = dict(decode or {})
        self._embedder: Embedder | None = None
        self._text: TextEncoder | None = None
        self._worker: Worker | None = None
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> "QueryEncoder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._resources.__exit__(kind, error, traceback)

    def encode(self, queries: Sequence[Sequence[Term]]) -> list[Vector | PipelineError]:
        """The vector (D,) of each query, or why it has none; one that fails does not touch the
        others.

        All texts go through their encoder in one batch, the windows of all files through theirs;
        equal terms once. Raises UsageError or AbortError where the models cannot be had at all.
        """
        terms = list(dict.fromkeys(self._unweighted(t) for query in queries for t in query))
        found = self._texts([term for term in terms if term.kind == "text"])
        found |= self._files([term for term in terms if term.kind in FILE_MODALITIES])
        found |= {term: self._clip(term) for term in terms if term.kind == "clip"}
        found |= {term: self._given(term) for term in terms if term.kind == "vector"}
        return [self._combined(query, found) for query in queries]

    def embed_file(self, path: str, at: float | None = None) -> tuple[float, dict[str, Vector]]:
        """Length in seconds and embeddings, by modality, of the picture and sound of one file.

        Raises the file's VideoError, and UsageError where the model can do nothing with it.
        """
        (sample,) = self._extract([path])
        if isinstance(sample, VideoError):
            raise sample
        modalities = FILE_MODALITIES["media"]
        vectors = file_vectors(self._model(), sample, modalities, self._window, at)
        return sample.duration, vectors

    def load_text(self) -> None:
        """Loads what texts need, so that the first one does not wait for it.

        Raises UsageError where the model or the dataset knows no text.
        """
        if "text" not in self._model().run.model.modalities:
            raise UsageError("the model was trained without text")
        self.encode([[Term("text", "warm up")]])

    def load_files(self) -> None:
        """Loads what files need, likewise."""
        self._file_worker()

    def close(self) -> None:
        """Frees the models."""
        self._resources.close()

    @staticmethod
    def _unweighted(term: Term) -> Term:
        return replace(term, weight=1.0)

    def _combined(
        self, query: Sequence[Term], found: Mapping[Term, Vector | PipelineError]
    ) -> Vector | PipelineError:
        vectors: list[Vector] = []
        for term in query:
            vector = found[self._unweighted(term)]
            if isinstance(vector, PipelineError):
                return vector
            vectors.append(vector)
        try:
            return combine(vectors, [term.weight for term in query])
        except UsageError as err:
            return err

    def _texts(self, terms: Sequence[Term]) -> dict[Term, Vector | PipelineError]:
        if not terms:
            return {}
        embedder, encoder = self._model(), self._text_encoder()
        rows = encoder.encode_rows([term.value for term in terms])
        queries_ND = queries_from_text_rows(embedder, rows)
        return {
            term: UsageError(f"text {term.value!r}: the encoder knows none of these words")
            if np.isnan(query_D).any()
            else query_D
            for term, query_D in zip(terms, queries_ND, strict=True)
        }

    def _files(self, terms: Sequence[Term]) -> dict[Term, Vector | PipelineError]:
        if not terms:
            return {}
        paths = list(dict.fromkeys(term.value for term in terms))
        samples = dict(zip(paths, self._extract(paths), strict=True))
        return {term: self._file(term, samples[term.value]) for term in terms}

    def _file(self, term: Term, sample: VideoSample | VideoError) -> Vector | PipelineError:
        if isinstance(sample, VideoError):
            return UsageError(f"--{term.kind} {sample.message}")
        modalities = FILE_MODALITIES[term.kind]
        try:
            found = file_vectors(self._model(), sample, modalities, self._window, term.at)
        except PipelineError as err:
            return err
        query_D: Vector = np.sum(list(found.values()), axis=0, dtype=np.float32)
        return query_D

    def _clip(self, term: Term) -> Vector | PipelineError:
        index = self._index
        try:
            return clip_vector(index.url, index.card, index.ids, term.value, live_N=index.live_N)
        except PipelineError as err:
            return err

    def _given(self, term: Term) -> Vector | PipelineError:
        try:
            return query_vector(term, self._index.card.dimension)
        except UsageError as err:
            return err

    def _extract(self, paths: Iterable[str]) -> list[VideoSample | VideoError]:
        """Each file's tracks, or why it has none, windows batched across files."""
        videos = [
            SourceVideo(key=key_of(Path(path).name), uri=path, path=Path(path).name)
            for path in paths
        ]
        found: list[VideoSample | VideoError] = []
        for progress, sample in self._file_worker().extract(videos):
            failure = sample if sample is not None else progress.failure
            assert failure is not None
            found.append(failure)
        return found

    def _model(self) -> Embedder:
        if self._embedder is None:
            card = self._index.card
            check_has_model(self._index.url, card)
            self._embedder = load_embedder(card.model, self._device)
            check_model(self._index, self._embedder.digest)
            # a query goes through the extractors that dataset.json states now
            run = self._embedder.run
            check_same_features(run.card, card.dataset, run.config.sampling)
        return self._embedder

    def _settings(self) -> ExtractConfig:
        check_has_model(self._index.url, self._index.card)
        return read_dataset_config(self._index.card.dataset)

    def _text_encoder(self) -> TextEncoder:
        if self._text is None:
            encoder = open_text_encoder(self._settings(), self._device)
            self._text = self._resources.enter_context(encoder)
        return self._text

    def _file_worker(self) -> Worker:
        """With the extractors alone whose tracks the model reads: no speech, text or proxy."""
        if self._worker is None:
            settings = self._settings()
            tracks = read_tracks(self._model().run.config.sampling)
            wanted = {name: one for name, one in settings.wanted.items() if name in tracks}
            if not wanted:
                raise UsageError(
                    f"{self._index.card.dataset} was imported without the extractors of its "
                    "tracks, so no file can be held against it; search by text, or by a clip of "
                    "its own"
                )
            decode = settings.decode.model_copy(update=self._decode)
            without = {"speech": None, "text": None, "proxy": None}
            update = {**without, "extractors": wanted, "decode": decode}
            worker = Worker(settings.model_copy(update=update), self._device)
            self._worker = self._resources.enter_context(worker)
        return self._worker
