"""How hard a FAISS index looks: nprobe and efSearch, and which ids it may answer with.

N vectors, D dimension, Q queries, K neighbours.
"""

import math
from collections.abc import Mapping

import faiss
import numpy as np
from numpy.typing import NDArray

from extractors.errors import AbortError, UsageError
from index.construct import has_graph
from index.vectors import last_line

GRAPH_SHARE = 0.2
"""A graph whose answers are filtered to fewer than this share loses its way; all the vectors that
may be answered are compared instead."""


def tunable_values(index: faiss.Index) -> list[dict[str, int]]:
    """Settings from the fastest to the most thorough; empty for an index that compares all.

    A graph that finds the lists looks at twice as many as are then scanned.
    """
    if has_graph(index):
        return [{"efSearch": 2**power} for power in range(4, 12)]
    lists = faiss.try_extract_index_ivf(index)
    if lists is None:
        return []
    powers = range(math.ceil(math.log2(lists.nlist)) + 1)
    found = [{"nprobe": min(2**power, lists.nlist)} for power in powers]
    if isinstance(faiss.downcast_index(lists.quantizer), faiss.IndexHNSW):
        return [v | {"quantizer_efSearch": max(64, 2 * v["nprobe"])} for v in found]
    return found


def apply_parameters(index: faiss.Index, parameters: Mapping[str, int]) -> None:
    """Sets them on an index. Raises AbortError for one that it does not have."""
    space = faiss.ParameterSpace()
    for name, value in parameters.items():
        try:
            space.set_index_parameter(index, name, value)
        except RuntimeError as err:
            raise AbortError(f"{name} = {value}: not a parameter of this index") from err


def search_allowed(
    index: faiss.Index, queries_QD: NDArray[np.float32], k: int, allowed_N: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """FAISS's distances and ids, (Q, K) each, of the ids that are allowed; None allows all.

    -1 stands where there are fewer. The fewer are allowed, the more lists are looked into. Raises
    UsageError for a type of index that cannot be filtered.
    """
    if allowed_N is None:
        distances_QK, ids_QK = index.search(queries_QD, k)
        return distances_QK, ids_QK
    share = np.count_nonzero(allowed_N) / max(1, len(allowed_N))
    if share == 0:
        shape = (len(queries_QD), k)
        return np.zeros(shape, np.float32), np.full(shape, -1, np.int64)
    bitmap = np.packbits(allowed_N, bitorder="little")
    selector = faiss.IDSelectorBitmap(bitmap)
    asked = _exact_part(index) if share < GRAPH_SHARE else index
    try:
        distances_QK, ids_QK = asked.search(
            queries_QD, k, params=_parameters(asked, selector, share)
        )
    except RuntimeError as err:
        raise UsageError(
            f"{type(asked).__name__}: FAISS cannot filter this type of index: {last_line(err)}; "
            "'auto' takes types that can be filtered"
        ) from err
    return distances_QK, ids_QK


def _exact_part(index: faiss.Index) -> faiss.Index:
    """The vectors of a graph without its links; any other index as it is."""
    if not isinstance(index, faiss.IndexHNSW):
        return index
    storage = faiss.downcast_index(index.storage)
    return storage if isinstance(storage, faiss.IndexFlat | faiss.IndexScalarQuantizer) else index


def _parameters(
    index: faiss.Index, selector: faiss.IDSelector, share: float
) -> faiss.SearchParameters:
    """What the index is set to, with a selector."""
    typed = faiss.downcast_index(index)
    if isinstance(typed, faiss.IndexPreTransform):
        inner = _parameters(typed.index, selector, share)
        return faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(typed, faiss.IndexRefine):
        inner = _parameters(typed.base_index, selector, share)
        return faiss.IndexRefineSearchParameters(k_factor=typed.k_factor, base_index_params=inner)
    if isinstance(typed, faiss.IndexIVF):
        nprobe = min(typed.nlist, math.ceil(typed.nprobe / share))
        coarse = None
        if isinstance(faiss.downcast_index(typed.quantizer), faiss.IndexHNSW):
            coarse = faiss.SearchParametersHNSW(efSearch=max(64, 2 * nprobe))
        return faiss.SearchParametersIVF(sel=selector, nprobe=nprobe, quantizer_params=coarse)
    if isinstance(typed, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(
            sel=selector, efSearch=math.ceil(typed.hnsw.efSearch / share)
        )
    return faiss.SearchParameters(sel=selector)
