"""Building a FAISS index in pieces: train on a sample, add a batch at a time, merge parts.

FAISS's lists are C++ vectors, which double when they are full: an index that grew takes up to twice
its size. So lists are counted first and get what they need (`fill_index`, `reserve_lists`).

The same sample and the same vectors in the same order give the same bytes, whatever the pieces
(but for graphs, which are therefore built in one piece).
GPUs are used where this build of FAISS sees any (`faiss.get_num_gpus() > 0`): for k-means and
for adding. That path is written device-agnostic and has not been run on a GPU; bytes made there
may differ from a CPU's.

N vectors, D dimension, L lists.
"""

from collections.abc import Callable, Iterable

import faiss
import numpy as np
from numpy.typing import NDArray

from extractors.errors import UsageError
from index.config import Metric
from index.vectors import empty_index, faiss_threads, last_line

POINTS_A_LIST = 64
"""Training vectors a list: between FAISS's least (39) and most (256)."""
LEAST_TRAINING = 65_536
"""FAISS trains a product quantizer or OPQ on no more (256 centroids x 256)."""
RANGES = {faiss.ScalarQuantizer.QT_4bit: 3.0, faiss.ScalarQuantizer.QT_6bit: 4.0}
"""Standard deviations on both sides of the mean that scalar codes of few bits span, about what
costs a Gaussian least (Max, 1960). FAISS spans all that the sample has, so that outliers widen the
steps of all: with 80 dimensions of 4 bits .79 of the 10 nearest were found, so .87."""
OPQ_ROUNDS = 10
PRODUCT_ROWS = 16_384
"""OPQ's rotation moves little after the first rounds, and 64 rows a centroid place it; FAISS's 50
rounds on 65,536 rows take minutes."""


def training_rows(factory: str, count: int, dimension: int, metric: Metric) -> int:
    """How many vectors a factory string is trained on; 0 where it needs no training."""
    index = empty_index(factory, dimension, metric)
    if index.is_trained:
        return 0
    lists = faiss.try_extract_index_ivf(index)
    return min(count, max(LEAST_TRAINING, POINTS_A_LIST * (lists.nlist if lists else 0)))


def train_index(
    factory: str,
    dimension: int,
    metric: Metric,
    sample_ND: NDArray[np.float32],
    centres_LD: NDArray[np.float32] | None = None,
) -> faiss.Index:
    """An index without vectors, trained on a sample. Raises UsageError where FAISS refuses.

    `centres_LD` are those of the lists, where k-means has been run for an index with the same
    number of lists and the same transforms.
    """
    index = empty_index(factory, dimension, metric)
    if index.is_trained:
        return index
    try:
        _set_up(index)
        _train_coarse(index, sample_ND, centres_LD)
        index.train(sample_ND)
    except RuntimeError as err:
        raise UsageError(
            f"index.factory = {factory!r}: FAISS cannot train it on {len(sample_ND)} vectors of "
            f"dimension {dimension}: {last_line(err)}; 'auto' and 'Flat' always work"
        ) from err
    return index


def add_vectors(index: faiss.Index, batches: Iterable[NDArray[np.float32]]) -> faiss.Index:
    """Adds batches in order, ids go on from `index.ntotal`; gives the index, changed.

    A graph is linked by one thread, for its links depend on the order of adding; they depend on
    the batches too, other types do not.
    """
    graph = has_graph(index)
    accelerated = None if graph else _on_gpus(index)
    with faiss_threads(1 if graph else None):
        for batch_ND in batches:
            if len(batch_ND):
                (accelerated or index).add(batch_ND)
    return index if accelerated is None else faiss.index_gpu_to_cpu(accelerated)


def fill_index(
    index: faiss.Index, batches: Callable[[], Iterable[NDArray[np.float32]]]
) -> faiss.Index:
    """`add_vectors` to an empty index, to the same bytes, in no more memory than they need.

    `batches` is called twice: to count what goes into each list, and to add it. To which list a
    vector goes is found out once and kept in between, 4 bytes each.
    """
    lists = _array_lists(index)
    if lists is None or _on_gpus(index) is not None:
        return add_vectors(index, batches())
    found = [_nearest_lists(index, batch_ND) for batch_ND in batches() if len(batch_ND)]
    if not found:
        return index
    reserve_lists(index, np.bincount(np.concatenate(found), minlength=lists.nlist))
    filled = (batch_ND for batch_ND in batches() if len(batch_ND))
    for batch_ND, lists_N in zip(filled, found, strict=True):
        _add_to_lists(index, batch_ND, lists_N.astype(np.int64))
    return index


def reserve_lists(index: faiss.Index, lengths_L: NDArray[np.int64]) -> None:
    """Gives every list of an empty index the memory for so many vectors; nothing where lists are
    of a kind that does not grow by doubling."""
    lists = _array_lists(index)
    if lists is not None:
        arrays = faiss.downcast_InvertedLists(lists.invlists)
        for number, length in enumerate(lengths_L.tolist()):
            arrays.resize(number, length)
            arrays.resize(number, 0)  # a vector keeps what it once had


def list_lengths(index: faiss.Index) -> NDArray[np.int64] | None:
    """(L,) vectors in each list; None where there are no lists."""
    lists = faiss.try_extract_index_ivf(index)
    if lists is None:
        return None
    return np.array([lists.get_list_size(number) for number in range(lists.nlist)], np.int64)


def can_merge(index: faiss.Index) -> bool:
    """Whether parts with the same training can be joined: all types but graphs and refined ones."""
    typed = faiss.downcast_index(index)
    if isinstance(typed, faiss.IndexPreTransform):
        return can_merge(typed.index)
    return isinstance(typed, faiss.IndexIVF | faiss.IndexFlatCodes) and not has_graph(index)


def merge_part(index: faiss.Index, part: faiss.Index) -> None:
    """Appends a part's vectors, their ids shifted by `index.ntotal`; leaves the part empty.

    Joined in memory; `index.lists_on_disk` joins what would not fit.
    """
    numbered = faiss.try_extract_index_ivf(index) is not None
    index.merge_from(part, index.ntotal if numbered else 0)  # flat codes are numbered by position


def has_graph(index: faiss.Index) -> bool:
    """Whether the vectors themselves (not only the lists' centres) are linked in a graph."""
    typed = faiss.downcast_index(index)
    if isinstance(typed, faiss.IndexPreTransform):
        return has_graph(typed.index)
    if isinstance(typed, faiss.IndexRefine):
        return has_graph(typed.base_index)
    return isinstance(typed, faiss.IndexHNSW)


def _array_lists(index: faiss.Index) -> faiss.IndexIVF | None:
    """The lists of an index, where they are plain arrays and take vectors one by one."""
    lists = faiss.try_extract_index_ivf(index)
    if lists is None or has_graph(index):
        return None
    plain = isinstance(faiss.downcast_InvertedLists(lists.invlists), faiss.ArrayInvertedLists)
    outer = faiss.downcast_index(index)
    inner = outer.index if isinstance(outer, faiss.IndexPreTransform) else outer
    return lists if plain and isinstance(faiss.downcast_index(inner), faiss.IndexIVF) else None


def _nearest_lists(index: faiss.Index, batch_ND: NDArray[np.float32]) -> NDArray[np.int32]:
    lists = faiss.extract_index_ivf(index)
    found_N1 = lists.quantizer.assign(_transformed(index, batch_ND), 1)
    return np.asarray(found_N1.ravel(), np.int32)


def _add_to_lists(
    index: faiss.Index, batch_ND: NDArray[np.float32], lists_N: NDArray[np.int64]
) -> None:
    """What `index.add` does once it has found the lists."""
    x_ND = np.ascontiguousarray(_transformed(index, batch_ND))
    lists = faiss.downcast_index(faiss.extract_index_ivf(index))
    lists.add_core(len(x_ND), faiss.swig_ptr(x_ND), None, faiss.swig_ptr(lists_N), None)
    index.ntotal = lists.ntotal


def _transformed(index: faiss.Index, x_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    typed = faiss.downcast_index(index)
    if isinstance(typed, faiss.IndexPreTransform):
        for number in range(typed.chain.size()):
            x_ND = typed.chain.at(number).apply(x_ND)
    return x_ND


def _set_up(index: faiss.Index) -> None:
    """How codes and rotations are trained, where we know better than FAISS's defaults."""
    typed = faiss.downcast_index(index)
    if isinstance(typed, faiss.IndexPreTransform):
        for number in range(typed.chain.size()):
            transform = faiss.downcast_VectorTransform(typed.chain.at(number))
            if isinstance(transform, faiss.OPQMatrix):
                transform.niter = transform.niter_pq_0 = OPQ_ROUNDS
                transform.max_train_points = PRODUCT_ROWS
        typed = faiss.downcast_index(typed.index)
    if isinstance(typed, faiss.IndexIVFScalarQuantizer) and typed.sq.qtype in RANGES:
        typed.sq.rangestat = faiss.ScalarQuantizer.RS_meanstd
        typed.sq.rangestat_arg = RANGES[typed.sq.qtype]
    if isinstance(typed, faiss.IndexIVFPQ):
        typed.pq.cp.max_points_per_centroid = PRODUCT_ROWS // typed.pq.ksub


def _train_coarse(
    index: faiss.Index, sample_ND: NDArray[np.float32], centres_LD: NDArray[np.float32] | None
) -> None:
    """Trains what stands before the codes: the rotations, and the centres of the lists.

    FAISS would do so too, but would link a graph over the centres with all threads, and would
    not use a GPU. `index.train` skips what is trained.
    """
    typed = faiss.downcast_index(index)
    if not isinstance(typed, faiss.IndexPreTransform | faiss.IndexIVF):
        return
    x_ND = sample_ND
    if isinstance(typed, faiss.IndexPreTransform):
        for number in range(typed.chain.size()):
            transform = typed.chain.at(number)
            if not transform.is_trained:
                transform.train(x_ND)
                _keep_mean(transform, typed.metric_type)
            x_ND = transform.apply(x_ND)
        typed = faiss.downcast_index(typed.index)
    if isinstance(typed, faiss.IndexIVF):
        centres_LD = _centres(typed, x_ND) if centres_LD is None else centres_LD
        with faiss_threads(1):
            typed.quantizer.train(centres_LD)
            typed.quantizer.add(centres_LD)


def _keep_mean(transform: faiss.VectorTransform, metric: int) -> None:
    """A PCA takes the mean off, which changes the order of inner products; its directions alone
    do not."""
    typed = faiss.downcast_VectorTransform(transform)
    if isinstance(typed, faiss.PCAMatrix) and metric == faiss.METRIC_INNER_PRODUCT:
        faiss.copy_array_to_vector(np.zeros(typed.d_out, np.float32), typed.b)


def _centres(lists: faiss.IndexIVF, x_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """k-means with FAISS's settings for this index (spherical for inner products)."""
    assigner = faiss.IndexFlat(lists.d, lists.metric_type)
    clustering = faiss.Clustering(lists.d, lists.nlist, lists.cp)
    clustering.train(x_ND, _on_gpus(assigner) or assigner)
    centres = faiss.vector_float_to_array(clustering.centroids)
    return np.ascontiguousarray(centres.reshape(lists.nlist, lists.d))


def _on_gpus(index: faiss.Index) -> faiss.Index | None:
    """A copy on all GPUs; None where there are none, or where they do not know the type."""
    if not hasattr(faiss, "index_cpu_to_all_gpus") or faiss.get_num_gpus() == 0:
        return None
    try:
        return faiss.index_cpu_to_all_gpus(index)
    except RuntimeError:  # a type without a GPU version
        return None
