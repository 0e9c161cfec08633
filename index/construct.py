"""Building a FAISS index in pieces: train on a sample, add a batch at a time, merge parts.

The same sample and the same vectors in the same order give the same bytes, whatever the pieces
(but for graphs, which are therefore built in one piece).
GPUs are used where this build of FAISS sees any (`faiss.get_num_gpus() > 0`): for k-means and
for adding. That path is written device-agnostic and has not been run on a GPU; bytes made there
may differ from a CPU's.

N vectors, D dimension, L lists.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import faiss
import numpy as np
from numpy.typing import NDArray

from extractors.errors import UsageError
from index.config import Metric
from index.vectors import empty_index, last_line

POINTS_A_LIST = 64
"""Training vectors a list: between FAISS's least (39) and most (256)."""
LEAST_TRAINING = 65_536
"""FAISS trains a product quantizer or OPQ on no more (256 centroids x 256)."""


def training_rows(factory: str, count: int, dimension: int, metric: Metric) -> int:
    """How many vectors a factory string is trained on; 0 where it needs no training."""
    index = empty_index(factory, dimension, metric)
    if index.is_trained:
        return 0
    lists = faiss.try_extract_index_ivf(index)
    return min(count, max(LEAST_TRAINING, POINTS_A_LIST * (lists.nlist if lists else 0)))


def train_index(
    factory: str, dimension: int, metric: Metric, sample_ND: NDArray[np.float32]
) -> faiss.Index:
    """An index without vectors, trained on a sample. Raises UsageError where FAISS refuses."""
    index = empty_index(factory, dimension, metric)
    if index.is_trained:
        return index
    try:
        _train_coarse(index, sample_ND)
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
    with _threads(1 if graph else None):
        for batch_ND in batches:
            if len(batch_ND):
                (accelerated or index).add(batch_ND)
    return index if accelerated is None else faiss.index_gpu_to_cpu(accelerated)


def can_merge(index: faiss.Index) -> bool:
    """Whether parts with the same training can be joined: all types but graphs and refined ones."""
    typed = faiss.downcast_index(index)
    if isinstance(typed, faiss.IndexPreTransform):
        return can_merge(typed.index)
    return isinstance(typed, faiss.IndexIVF | faiss.IndexFlatCodes) and not has_graph(index)


def merge_part(index: faiss.Index, part: faiss.Index) -> None:
    """Appends a part's vectors, their ids shifted by `index.ntotal`; leaves the part empty.

    Joined in memory: an index fits its memory budget, and stays the one file that a card names
    (faiss.contrib.ondisk would leave a second file, known by its absolute path).
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


def _train_coarse(index: faiss.Index, sample_ND: NDArray[np.float32]) -> None:
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
            x_ND = transform.apply(x_ND)
        typed = faiss.downcast_index(typed.index)
    if isinstance(typed, faiss.IndexIVF):
        centres_LD = _centres(typed, x_ND)
        with _threads(1):
            typed.quantizer.train(centres_LD)
            typed.quantizer.add(centres_LD)


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


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """FAISS's threads within the block; None leaves them."""
    before = faiss.omp_get_max_threads()
    if count is not None:
        faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
