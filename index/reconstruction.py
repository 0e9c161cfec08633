"""What the codes of an index keep of the vectors, as autofaiss counts it.

N vectors, D dimension.
"""

from collections.abc import Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

from index.card import Block
from index.config import Metric
from index.stored_vectors import numbered_vectors

ROWS = 1000
"""The first so many, as autofaiss takes them."""


def reconstruction_error(
    index: faiss.Index, output: str, blocks: Sequence[Block], metric: Metric
) -> float | None:
    """100 mean |x' - x| / mean |x|, x' being what the codes of a stored vector x say; None for a
    type of index that does not code single vectors."""
    x_ND = next((x for _, x in numbered_vectors(output, blocks, metric) if len(x)))[:ROWS]
    decoded_ND = _decoded(index, x_ND)
    length = float(np.linalg.norm(x_ND, axis=1).mean())
    if decoded_ND is None or length == 0:
        return None
    missed = float(np.linalg.norm(decoded_ND - x_ND, axis=1).mean())
    return round(100 * missed / length, 4)


def _decoded(index: faiss.Index, x_ND: NDArray[np.float32]) -> NDArray[np.float32] | None:
    typed = faiss.downcast_index(index)
    if isinstance(typed, faiss.IndexHNSW):  # whose links code nothing
        return _decoded(typed.storage, x_ND)
    try:
        return np.asarray(typed.sa_decode(typed.sa_encode(x_ND)))
    except RuntimeError:
        return None
