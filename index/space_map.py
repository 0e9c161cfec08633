"""The space in two dimensions, and its clusters: what the page's map shows.

Published beside the index as map_pca.json and map_umap.json, made again when the index is another.

N clips, D dimension, C clusters.
"""

import importlib
import importlib.util
import logging
import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import CountVectorizer

from index.search import SearchIndex
from index.stored_vectors import numbered_vectors, sample_vectors
from pipeline import storage

logger = logging.getLogger(__name__)

Method = Literal["pca", "umap"]
FORMAT_VERSION = 1
SEED = (0x6D61, 0)
FITTED = 20_000
"""Vectors that k-means and PCA are fitted on."""
DRAWN = 3000
"""Clips on the map."""
MOST_CLUSTERS = 24
TYPICAL = 12
"""Clips of a contact sheet."""
WORDS = 8
WORD = r"(?u)\b[^\W\d_]{3,}\b"
"""Three letters or more."""
TEXTS = 2000
"""Transcripts of a cluster that are read for its words."""


@dataclass(frozen=True)
class Cluster:
    """A cluster of k-means over all clips."""

    size: int
    words: tuple[tuple[str, float], ...]
    """Most typical first, with weights relative to the first."""
    labels: tuple[tuple[str, float], ...]
    """Labels and their shares of its clips, largest first; empty where no clip has one."""
    typical: tuple[str, ...]
    """Ids of the clips nearest to its centre, one a video."""


@dataclass(frozen=True)
class SpaceMap:
    """Clusters by size, largest first, and a sample of the clips in the plane."""

    method: Method
    index_sha256: str
    mask_sha256: str | None
    clusters: tuple[Cluster, ...]
    x: tuple[float, ...]
    """-1 to 1."""
    y: tuple[float, ...]
    cluster: tuple[int, ...]
    id: tuple[str, ...]


def map_methods() -> list[Method]:
    """'pca', and 'umap' where umap-learn is installed."""
    return ["pca", "umap"] if importlib.util.find_spec("umap") else ["pca"]


def space_map(index: SearchIndex, method: Method) -> SpaceMap:
    """The map of an index, read where it is published, else made and published.

    Where the index cannot be written to it is made all the same.
    """
    url = storage.join(index.url, f"map_{method}.json")
    stored = _read(url)
    digests = (index.card.index_sha256, index.card.mask_sha256)
    if stored is not None and (stored.index_sha256, stored.mask_sha256) == digests:
        return stored
    made = make_map(index, method)
    try:
        storage.publish_json(url, {"format_version": FORMAT_VERSION} | asdict(made))
    except OSError as err:
        logger.warning("%s: the map is not kept: %s", url, err)
    return made


def make_map(index: SearchIndex, method: Method) -> SpaceMap:
    """Fits k-means and the projection on a sample, and assigns every clip to its cluster."""
    card = index.card
    ids_N, fitted_ND = sample_vectors(index.url, card.blocks, card.metric, FITTED, SEED)
    centres_CD = cluster_centres(fitted_ND, spherical=card.metric == "cosine")
    nearest_N, distance_N = _assign(index, centres_CD)
    drawn = np.sort(
        np.random.default_rng(SEED).choice(len(ids_N), min(DRAWN, len(ids_N)), replace=False)
    )
    plane_N2 = project(fitted_ND, drawn, method)
    order = np.argsort(-np.bincount(nearest_N[nearest_N >= 0], minlength=len(centres_CD)))
    rank = np.argsort(order)
    nearest_N = np.where(nearest_N >= 0, rank[nearest_N], -1)
    return SpaceMap(
        method=method,
        index_sha256=card.index_sha256,
        mask_sha256=card.mask_sha256,
        clusters=_describe(index.ids, nearest_N, distance_N, len(centres_CD)),
        x=tuple(plane_N2[:, 0].round(4).tolist()),
        y=tuple(plane_N2[:, 1].round(4).tolist()),
        cluster=tuple(nearest_N[ids_N[drawn]].tolist()),
        id=tuple(index.ids.column("id").take(pa.array(ids_N[drawn])).to_pylist()),
    )


def cluster_centres(x_ND: NDArray[np.float32], *, spherical: bool) -> NDArray[np.float32]:
    """(C, D) centres by k-means; C is the root of half the number of vectors, 24 at most."""
    count = max(1, min(MOST_CLUSTERS, math.isqrt(len(x_ND) // 2)))
    kmeans = faiss.Kmeans(
        x_ND.shape[1],
        count,
        niter=20,
        nredo=3,
        seed=SEED[0],
        spherical=spherical,
        min_points_per_centroid=1,
    )
    kmeans.train(x_ND)
    return np.asarray(kmeans.centroids, np.float32)


def project(
    x_ND: NDArray[np.float32], drawn: NDArray[np.int64], method: Method
) -> NDArray[np.float64]:
    """The drawn rows in the plane, (rows, 2), centred and scaled to -1..1.

    PCA is fitted on all rows, UMAP (McInnes 2018) on those that are drawn. It starts from the PCA
    (Kobak and Linderman 2021): its own start takes clusters that no neighbour joins for an error.
    """
    if (x_ND == x_ND[:1]).all():  # no variance that either could divide by
        return np.zeros((len(drawn), 2))
    if method == "umap" and len(drawn) > 4:
        neighbours = min(15, len(drawn) - 1)
        umap = importlib.import_module("umap")  # optional: numba takes seconds to load
        made = umap.UMAP(n_neighbors=neighbours, init="pca", random_state=SEED[0], n_jobs=1)
        plane_N2 = np.asarray(made.fit_transform(x_ND[drawn]), np.float64)
    else:
        plane_N2 = _pca(x_ND)[drawn]
    plane_N2 = plane_N2 - (plane_N2.max(axis=0) + plane_N2.min(axis=0)) / 2
    return np.asarray(plane_N2 / max(float(np.abs(plane_N2).max()), 1e-12), np.float64)


def typical_words(texts: list[list[str]]) -> list[list[tuple[str, float]]]:
    """Of each cluster's transcripts the words that tell it from the others, with weights.

    Class-based tf-idf (Grootendorst 2022): tf in the cluster times log(1 + A / f), A the mean
    number of words of a cluster, f how often the word comes in all.
    """
    vectoriser = CountVectorizer(stop_words="english", token_pattern=WORD)
    try:
        counts = vectoriser.fit_transform([" ".join(one) for one in texts])
    except ValueError:  # nothing but stop words, or nothing at all
        return [[] for _ in texts]
    total = np.asarray(counts.sum(axis=0)).ravel()
    weights = counts.multiply(np.log1p(counts.sum() / len(texts) / total)).tocsr()
    names = vectoriser.get_feature_names_out()
    found = []
    for row in weights:
        best = np.argsort(-row.data, kind="stable")[:WORDS]
        scale = row.data[best[0]] if len(best) else 1.0
        found.append([(str(names[row.indices[i]]), round(row.data[i] / scale, 3)) for i in best])
    return found


def _pca(x_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    size = min(2, *x_ND.shape)
    plane = PCA(size, svd_solver="full").fit_transform(x_ND.astype(np.float64))
    return np.pad(plane, ((0, 0), (0, 2 - size)))


def _assign(
    index: SearchIndex, centres_CD: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest centre of every clip and the squared distance to it; -1 for masked ones."""
    nearest_N = np.full(index.card.count, -1, np.int64)
    distance_N = np.full(index.card.count, np.inf, np.float32)
    centres = faiss.IndexFlatL2(centres_CD.shape[1])
    centres.add(centres_CD)
    for first, x_ND in numbered_vectors(index.url, index.card.blocks, index.card.metric):
        found_N1, number_N1 = centres.search(x_ND, 1)
        rows = slice(first, first + len(x_ND))
        nearest_N[rows], distance_N[rows] = number_N1[:, 0], found_N1[:, 0]
    return nearest_N, distance_N


def _describe(
    ids: pa.Table, nearest_N: NDArray[np.int64], distance_N: NDArray[np.float32], count: int
) -> tuple[Cluster, ...]:
    texts, facts = [], []
    for number in range(count):
        rows_N = np.flatnonzero(nearest_N == number)
        rows_N = rows_N[np.argsort(distance_N[rows_N], kind="stable")]
        near = ids.take(pa.array(rows_N[:TEXTS]))
        texts.append([text for text in near.column("text").to_pylist() if text])
        labels = Counter(filter(None, ids.column("label").take(pa.array(rows_N)).to_pylist()))
        shares = [(label, round(n / len(rows_N), 4)) for label, n in labels.most_common(8)]
        facts.append((len(rows_N), tuple(shares), _one_a_video(near)))
    return tuple(
        Cluster(size, tuple(words), shares, typical)
        for (size, shares, typical), words in zip(facts, typical_words(texts), strict=True)
    )


def _one_a_video(near: pa.Table) -> tuple[str, ...]:
    first: dict[str, str] = {}
    for key, clip in zip(
        near.column("key").to_pylist(), near.column("id").to_pylist(), strict=True
    ):
        first.setdefault(key, clip)
    return tuple(first.values())[:TYPICAL]


def _read(url: str) -> SpaceMap | None:
    """A published map; None where there is none, or one of another format."""
    try:
        content: Any = storage.read_json(url)
        if content.pop("format_version", None) != FORMAT_VERSION:
            return None
        return TypeAdapter(SpaceMap).validate_python(content)
    except (FileNotFoundError, ValueError, AttributeError, ValidationError):
        return None
