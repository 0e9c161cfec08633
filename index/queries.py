"""Queries: sums and differences of texts, files and clips.

N terms, D dimension.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from extractors.errors import UsageError
from index.vectors import unit_rows
from pipeline import storage

Kind = Literal["text", "audio", "video", "media", "clip", "vector"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FILE_MODALITIES = {"audio": ("audio",), "video": ("video",), "media": ("video", "audio")}
"""What of a file each kind is asked by; 'media' takes those that the file has."""

_PREFIX = re.compile(rf"(?P<kind>{'|'.join(KINDS)})(?:@(?P<at>\d+(?:\.\d+)?))?:(?P<value>.+)", re.S)


@dataclass(frozen=True)
class Term:
    """One part of a query."""

    kind: Kind
    value: str
    """The words, the path or URL of a file, the id of a clip, or the .npy of a vector."""
    weight: float = 1.0
    """1 to add, -1 to take away."""
    at: float | None = None
    """Of a file: the second around which it is asked, None for all of it."""
    numbers: tuple[float, ...] | None = None
    """Of a vector that lies in no file."""

    def __post_init__(self) -> None:
        if not self.value.strip():
            raise UsageError(f"--{self.kind}: empty; say what to look for")
        if self.at is not None and self.kind not in FILE_MODALITIES:
            raise UsageError(f"--at {self.at:g}: a moment of a file; this query is a {self.kind}")


@dataclass(frozen=True)
class Query:
    """What is looked for, and which clips may answer."""

    terms: tuple[Term, ...]
    where: dict[str, str] = field(default_factory=dict)


def parse_term(text: str, weight: float) -> Term:
    """`video:clip.mp4`, `video@12.5:clip.mp4`, `audio:…`, `media:…`, `clip:KEY@0-10`,
    `vector:FILE.npy`, `text:…`; without one of these prefixes it is a text."""
    found = _PREFIX.fullmatch(text)
    if found is None:
        return Term("text", text, weight)
    kind = next(kind for kind in KINDS if kind == found["kind"])
    return Term(kind, found["value"], weight, float(found["at"]) if found["at"] else None)


def query_vector(term: Term, dimension: int) -> NDArray[np.float32]:
    """The numbers (D,) of a term that is a vector. Raises UsageError where they are not one row of
    `dimension` finite numbers."""
    if term.numbers is None:
        name, given_D = f"--vector {term.value}", _read_array(term.value)
    else:
        name, given_D = "vector", np.asarray(term.numbers)
    if given_D.dtype.kind not in "fiu" or given_D.shape not in ((dimension,), (1, dimension)):
        found = f"{given_D.dtype} of shape {given_D.shape}"
        raise UsageError(f"{name}: {found}; the index takes {dimension} numbers, one row")
    with np.errstate(over="ignore"):
        vector_D = given_D.reshape(dimension).astype(np.float32)
    if not np.isfinite(vector_D).all():
        raise UsageError(f"{name}: holds a number that is not finite in float32")
    return vector_D


def _read_array(url: str) -> NDArray[Any]:
    try:
        content = np.load(io.BytesIO(storage.read_bytes(url)), allow_pickle=False)
    except FileNotFoundError as err:
        raise UsageError(f"--vector {url}: no such file") from err
    except (OSError, ValueError, EOFError) as err:
        raise UsageError(f"--vector {url}: not numbers as numpy.save writes them") from err
    if not isinstance(content, np.ndarray):
        raise UsageError(f"--vector {url}: several arrays; give one of them as .npy")
    return content


def combine(
    vectors_ND: Sequence[NDArray[np.floating]], weights: Sequence[float]
) -> NDArray[np.float32]:
    """The vector (D,) of a query from those of its terms.

    One term is as it is. Of several each is scaled to unit length first, so that a modality
    whose vectors are long does not drown the others, then weighted and summed (the arithmetic
    of word vectors, Mikolov 2013). Raises UsageError where they cancel out.
    """
    if len(vectors_ND) == 1 and weights[0] > 0:
        return np.asarray(vectors_ND[0], np.float32)
    units_ND = unit_rows(np.stack(vectors_ND).astype(np.float32))
    sum_D = np.asarray(weights, np.float32) @ units_ND
    if np.linalg.norm(sum_D) < 1e-6:
        raise UsageError("the terms of this query cancel each other out: nothing is left to ask")
    return np.asarray(sum_D, np.float32)
