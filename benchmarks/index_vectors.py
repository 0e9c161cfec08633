"""Vectors to index: a seeded mixture of any size, sentences of this machine, and files of others.

N vectors, D dimension, R rank, K clusters.
"""

import ast
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.vectors import unit_rows

PIECE = 16_384
"""Rows that are drawn at a time, from a generator of their own: a longer set begins with a shorter
one, and no set is in memory whole unless somebody asks."""
CLUSTERS = 2000
RANK = 64
SPREAD = (1.0, 0.4)
"""Median of the length of a cluster's noise, its centre being 1 long, and the standard deviation
of its logarithm: some topics are narrow, some wide."""
FLOOR = 0.15
"""Length of the noise in all dimensions, outside of the subspace too."""
DOCSTRING_LETTERS = (25, 300)


@dataclass(frozen=True)
class Mixture:
    """Gaussians on a subspace of R of D dimensions, each with axes and spread of its own."""

    basis: NDArray[np.float32]
    """(R, D), orthonormal."""
    centres: NDArray[np.float32]
    """(K, R), of unit length."""
    scales: NDArray[np.float32]
    """(K, R), standard deviations along the axes."""
    weights: NDArray[np.float64]
    """(K,): how often a cluster is drawn; exponentially distributed, as the sizes of topics."""


def mixture(dimension: int, seed: int = 0, clusters: int = CLUSTERS) -> Mixture:
    """The axes' variances fall as 1 / rank, as the spectra of embeddings do; every cluster has
    them in another order, so that no rotation suits all."""
    rng = np.random.default_rng((seed, 0))
    rank = min(RANK, dimension)
    basis_DR, _ = np.linalg.qr(rng.standard_normal((dimension, rank)))
    spectrum_R = np.arange(1, rank + 1) ** -0.5
    spectrum_R /= np.linalg.norm(spectrum_R)
    centres_KR = rng.standard_normal((clusters, rank)) * spectrum_R
    orders_KR = rng.permuted(np.tile(np.arange(rank), (clusters, 1)), axis=1)
    spread_K1 = SPREAD[0] * np.exp(SPREAD[1] * rng.standard_normal((clusters, 1)))
    weights_K = rng.exponential(size=clusters)
    return Mixture(
        np.ascontiguousarray(basis_DR.T, np.float32),
        unit_rows(centres_KR.astype(np.float32)),
        (spread_K1 * spectrum_R[orders_KR]).astype(np.float32),
        weights_K / weights_K.sum(),
    )


def drawn(of: Mixture, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Unit vectors (count, D) of the mixture."""
    chosen_N = rng.choice(len(of.weights), count, p=of.weights)
    noise_NR = rng.standard_normal((count, of.basis.shape[0]), np.float32)
    x_ND = (of.centres[chosen_N] + noise_NR * of.scales[chosen_N]) @ of.basis
    floor_ND = rng.standard_normal(x_ND.shape, np.float32)
    return unit_rows(x_ND + np.float32(FLOOR / x_ND.shape[1] ** 0.5) * floor_ND)


def mixture_rows(of: Mixture, count: int, seed: int = 0, piece: int = 0) -> NDArray[np.float32]:
    """The first `count` rows from a piece on."""
    pieces = (drawn(of, PIECE, np.random.default_rng((seed, 1, n)))
              for n in range(piece, piece + -(-count // PIECE)))  # fmt: skip
    x_ND = np.empty((count, of.basis.shape[1]), np.float32)
    for first, piece_ND in zip(range(0, count, PIECE), pieces, strict=True):
        x_ND[first : first + PIECE] = piece_ND[: count - first]
    return x_ND


def mixture_set(
    count: int, dimension: int, queries: int, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A set and held-out queries, which are other vectors of the same mixture."""
    of = mixture(dimension, seed, clusters=min(CLUSTERS, max(8, count // 100)))
    return mixture_rows(of, count, seed), drawn(of, queries, np.random.default_rng((seed, 2)))


def numbered_pieces(x_ND: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Of a set in memory, as the index reads embeddings."""
    for first in range(0, len(x_ND), PIECE):
        yield first, x_ND[first : first + PIECE]


def pieces(x_ND: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """The same without numbers."""
    for _, piece_ND in numbered_pieces(x_ND):
        yield piece_ND


def sentences(most: int, folder: Path | None = None) -> list[str]:
    """First paragraphs of the docstrings of the installed packages (or of a folder's `.py`), each
    once, of files drawn by a seed: real sentences that every machine with this environment has."""
    root = folder or Path(sysconfig.get_paths()["purelib"])
    files = sorted(root.rglob("*.py"))
    found: dict[str, None] = {}
    for number in np.random.default_rng(0).permutation(len(files)):
        found |= dict.fromkeys(_docstrings(files[number]))
        if len(found) >= most:
            break
    return list(found)[:most]


def sentence_vectors(texts: list[str]) -> NDArray[np.float32]:
    """As the pipeline embeds segments of transcripts: sentence-transformers, of unit length."""
    import torch

    from extractors.speech_config import TextConfig
    from extractors.text import SentenceEncoder

    encoder = SentenceEncoder(TextConfig())
    encoder.setup(torch.device("cpu"))
    ordered = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows = [encoder.encode_rows([texts[i] for i in ordered[k : k + 64]]).rows
            for k in range(0, len(texts), 64)]  # fmt: skip
    encoder.close()
    x_ND = np.concatenate(rows)
    return unit_rows(x_ND[np.argsort(ordered)])


def _docstrings(file: Path) -> list[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return []  # templates and files of other Pythons
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = (ast.get_docstring(n) or "" for n in ast.walk(tree) if isinstance(n, nodes))
    firsts = (re.sub(r"\s+", " ", text.partition("\n\n")[0]).strip() for text in texts)
    least, most = DOCSTRING_LETTERS
    return [text for text in firsts if least <= len(text) <= most]
