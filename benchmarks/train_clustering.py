"""k-means on the released run's queue against FAISS and fast_pytorch_kmeans; the queue's memory."""

from functools import partial

import faiss
import numpy as np
import psutil
import torch
from figures import say
from measuring import alternate, ratio, timed
from torch import Tensor
from torch.nn.functional import normalize
from train_data import CLIPS, CLUSTERS, QUEUE, D, Measured

from training.clustering import kmeans, nearest
from training.online_clustering import FeatureQueue

ITERATIONS = 20


def measure_kmeans(repeats: int) -> Measured:
    """The same number of iterations from the same start; objectives must agree within 0.1 %."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLUSTERS, D))
    rows = centres[rng.integers(CLUSTERS, size=QUEUE + CLIPS)] + 2 * rng.normal(
        size=(QUEUE + CLIPS, D)
    )
    rows_ND = normalize(torch.from_numpy(rows.astype(np.float32)))
    start_KD = rows_ND[:CLUSTERS]
    made: dict[str, Tensor] = {}

    def ours() -> None:
        made["ours"] = kmeans(rows_ND, start_KD, "spherical", "keep", ITERATIONS, -1.0).centroids_KD

    def by_faiss() -> None:
        index = faiss.Kmeans(
            D, CLUSTERS, niter=ITERATIONS, spherical=True, max_points_per_centroid=QUEUE
        )
        index.train(rows_ND.numpy(), init_centroids=start_KD.numpy())
        made["FAISS"] = torch.from_numpy(index.centroids)

    def by_torch() -> None:
        from fast_pytorch_kmeans import KMeans

        theirs = KMeans(CLUSTERS, max_iter=ITERATIONS, tol=-1.0, mode="cosine")
        theirs.fit_predict(rows_ND, start_KD.clone())
        made["fast_pytorch_kmeans"] = theirs.centroids

    runs = {"ours": ours, "FAISS": by_faiss}
    if importable("fast_pytorch_kmeans"):
        runs["fast_pytorch_kmeans"] = by_torch
    costs = alternate({name: partial(timed, run) for name, run in runs.items()}, repeats, say)
    objective = {
        name: float(nearest(rows_ND, found, "spherical")[0].double().mean())
        for name, found in made.items()
    }
    ratios = [
        ratio(
            f"k-means: {name} / ours (mean cosine {objective[name]:.5f}, "
            f"ours {objective['ours']:.5f})",
            [cost.cpu for cost in costs[name]],
            [cost.cpu for cost in costs["ours"]],
            at_least=2.0,
        )
        for name in runs
        if name != "ours"
    ]
    if max(objective.values()) / min(objective.values()) > 1.001:
        raise SystemExit(f"k-means: objectives differ: {objective}")
    return {f"k-means: {name}": found for name, found in costs.items()}, ratios


def importable(name: str) -> bool:
    """Whether a package is installed."""
    import importlib.util

    return importlib.util.find_spec(name) is not None


def measure_queue() -> Measured:
    """Resident memory that a full queue and 100 pushes add."""
    process, batch = psutil.Process(), torch.randn(4096, D)
    before = process.memory_info().rss
    queue = FeatureQueue(QUEUE, D)
    peak = before
    for _ in range(100):
        queue.push(batch)
        peak = max(peak, process.memory_info().rss)
    own = queue.rows_QD.nbytes + batch.nbytes
    return {}, [
        ratio("memory of the queue / its size + a batch", [peak - before], [own], at_most=1.0)
    ]
