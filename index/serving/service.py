"""What the server does, apart from HTTP: searches in batches, files, clips and maps.

Q queries, D dimension.
"""

import os
import re
import secrets
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import pyarrow.compute as pc
import torch

from extractors.errors import PipelineError, UsageError, VideoError
from index.config import Modality
from index.encoding import QueryEncoder, Vector
from index.hits import Hit
from index.queries import Term, combine
from index.search import SearchIndex, is_scanned, search_many
from index.serving.clips import ClipMedia
from index.serving.limits import Limits
from index.space_map import Method, SpaceMap, space_map

Ask = Literal["text", "file", "clip", "vector"]


@dataclass(frozen=True)
class UploadTerm:
    """A part of a query that is a file which was embedded before."""

    id: str
    weight: float
    modality: str | None = None


@dataclass(frozen=True)
class SearchRequest:
    """One search."""

    terms: tuple[Term | UploadTerm, ...]
    k: int
    where: tuple[tuple[str, str], ...] = ()
    targets: tuple[str, ...] | None = None
    merge: bool = False


@dataclass(frozen=True)
class Scan:
    """A search that compares with every stored embedding: not for the thread of the others."""

    request: SearchRequest
    vector: Vector


class Service:
    """An open index with the models that ask it.

    `search` belongs to one thread, `embed_file` to another; the rest, `scan` too, may be called
    from any.
    """

    def __init__(
        self,
        index: SearchIndex,
        device: torch.device,
        limits: Limits,
        on_batch: Callable[[int], None] = lambda _size: None,
    ) -> None:
        decode = {
            "max_seconds": limits.file_seconds,
            "deadline_base": limits.file_timeout / 4,
            "deadline_factor": limits.file_timeout / 2 / limits.file_seconds,
            "device": "cpu",
        }
        self.index = index
        self.limits = limits
        self.clips = ClipMedia(index)
        self.on_batch = on_batch
        # one each: neither is to be used by two threads
        self._texts = QueryEncoder(index, device)
        self._files = QueryEncoder(index, device, decode=decode)
        self._uploads: OrderedDict[str, dict[str, Vector]] = OrderedDict()
        self._maps: dict[Method, SpaceMap] = {}
        self._map_lock = threading.Lock()
        self.asks: tuple[Ask, ...] = ("clip", "vector")

    def load(self) -> list[str]:
        """Loads the models; gives what cannot be asked and why, a line each."""
        without = []
        loading: tuple[tuple[Ask, Callable[[], object]], ...] = (
            ("text", self._texts.load_text),
            ("file", self._files.load_files),
        )
        for ask, load in loading:
            try:
                load()
            except UsageError as err:
                without.append(f"no {ask} queries: {err}")
            else:
                self.asks = (*self.asks, ask)
        return without

    def close(self) -> None:
        """Frees the models."""
        for encoder in (self._texts, self._files):
            encoder.close()

    def search(self, requests: list[SearchRequest]) -> list[list[Hit] | Scan | PipelineError]:
        """The hits of each, what is left to do for them, or why it has none: one call of the
        encoder for all texts, and one of FAISS for all that agree in all else. What one finds does
        not depend on the others."""
        self.on_batch(len(requests))
        vectors = self._vectors(requests)
        results: list[list[Hit] | Scan | PipelineError] = [
            v if isinstance(v, PipelineError) else Scan(request, v)
            for request, v in zip(requests, vectors, strict=True)
        ]
        groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            waits = is_scanned(self.index, request.targets)
            if not waits and not isinstance(vectors[number], PipelineError):
                group = (request.where, request.targets, request.merge, request.k)
                groups[group].append(number)
        for numbers in groups.values():
            found = self._search_group(
                [requests[n] for n in numbers], [vectors[n] for n in numbers]
            )
            for number, one in zip(numbers, found, strict=True):
                results[number] = one
        return results

    def scan(self, scan: Scan, stopped: Callable[[], bool] = lambda: False) -> list[Hit]:
        """The hits of a search that was left. Raises PipelineError, also when it was stopped."""
        one = scan.request
        return search_many(
            self.index,
            scan.vector[None],
            one.k,
            dict(one.where),
            targets=one.targets,
            merge=one.merge,
            stopped=stopped,
        )[0]

    def embed_file(self, path: str, at: float | None) -> tuple[str, float, list[Modality]]:
        """Id, seconds and modalities of a file that can be asked by from now on.

        Raises UsageError with a sentence that names no path.
        """
        if "file" not in self.asks:
            raise UsageError("this server cannot embed files")
        try:
            seconds, vectors = self._files.embed_file(path, at)
        except VideoError as err:
            reason = err.reason.value.replace("_", " ")
            raise UsageError(f"this file cannot be used: {reason}") from err
        except UsageError as err:  # names the file as it is named here
            raise UsageError(re.sub(r"^query \S+: ", "this file ", str(err))) from err
        upload = secrets.token_urlsafe(16)
        self._uploads[upload] = vectors
        while len(self._uploads) > self.limits.stored_files:
            self._uploads.popitem(last=False)
        return upload, seconds, [name for name in get_args(Modality) if name in vectors]

    def map(self, method: Method) -> SpaceMap:
        """Made once, by the first who asks."""
        with self._map_lock:
            if method not in self._maps:
                self._maps[method] = space_map(self.index, method)
            return self._maps[method]

    def values(self, column: str, most: int = 200) -> list[str]:
        """The values of a column of ids, the commonest first."""
        counts = pc.value_counts(self.index.ids.column(column).drop_null())
        pairs = sorted(counts.to_pylist(), key=lambda pair: (-pair["counts"], pair["values"]))
        return [pair["values"] for pair in pairs[:most]]

    def public(self, message: str) -> str:
        """A message without the places of this server."""
        url, card = self.index.url, self.index.card
        places = {url, os.path.abspath(url), card.dataset, card.model}
        for place in sorted(places, key=len, reverse=True):
            known = re.escape(place)
            if not os.path.isabs(place) and "://" not in place:  # '.' is one, and ends sentences
                known = rf"(?<![\w./-]){known}(?![\w-]|\.\.)"
            message = re.sub(known, "the index", message)
        return message

    def _vectors(self, requests: Sequence[SearchRequest]) -> list[Vector | PipelineError]:
        terms = [t for request in requests for t in request.terms if isinstance(t, Term)]
        unique = list(dict.fromkeys(replace(term, weight=1.0) for term in terms))
        known = [term for term in unique if term.kind != "text" or "text" in self.asks]
        encoded = self._texts.encode([[term] for term in known])
        found = dict(zip(known, encoded, strict=True))
        return [self._vector(request, found) for request in requests]

    def _vector(
        self, request: SearchRequest, found: "dict[Term, Vector | PipelineError]"
    ) -> Vector | PipelineError:
        try:
            parts = [self._part(term, found) for term in request.terms]
            return combine(parts, [term.weight for term in request.terms])
        except PipelineError as err:
            return err

    def _part(self, term: Term | UploadTerm, found: "dict[Term, Vector | PipelineError]") -> Vector:
        if isinstance(term, UploadTerm):
            return self._upload(term)
        vector = found.get(replace(term, weight=1.0))
        if vector is None:
            raise UsageError("this server cannot embed texts")
        if isinstance(vector, PipelineError):
            raise vector
        return vector

    def _upload(self, term: UploadTerm) -> Vector:
        vectors = self._uploads.get(term.id)
        if vectors is None:
            raise UsageError("that upload is no longer kept; send the file again")
        names = [term.modality] if term.modality else list(vectors)
        if missing := [name for name in names if name not in vectors]:
            raise UsageError(f"that file has no {missing[0]}")
        query_D: Vector = np.sum([vectors[name] for name in names], axis=0, dtype=np.float32)
        return query_D

    def _search_group(
        self, requests: Sequence[SearchRequest], vectors: Sequence[Vector | PipelineError]
    ) -> Sequence[list[Hit] | PipelineError]:
        """Requests that differ in their query alone, and compare with what was indexed."""
        first = requests[0]
        queries_QD = np.stack([np.asarray(vector) for vector in vectors])
        try:
            return search_many(
                self.index,
                queries_QD,
                first.k,
                dict(first.where),
                merge=first.merge,
            )
        except PipelineError as err:
            return [err for _ in requests]
