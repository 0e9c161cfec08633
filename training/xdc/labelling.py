"""The start of an iteration: every video embedded, clustered, labelled; the same on all ranks."""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from extractors.errors import AbortError
from pipeline import storage
from training import distributed
from training.xdc.embedding import embed_set
from training.xdc.model import XdcModel
from training.xdc.pseudo_labels import SETS, PseudoLabels, cluster_set, plan_labels
from training.xdc.reading import ClipLoader
from training.xdc.supervision import label_sets
from training.xdc.video_set import VideoSet

logger = logging.getLogger(__name__)


@contextmanager
def scratch_folder(output: str) -> Iterator[Path]:
    """A folder for features on this machine's disk: the run's own where it is local, so that the
    run that follows a killed one removes what that has left."""
    local = storage.local_path(output)
    if local is None or distributed.world()[0] > 0:
        with tempfile.TemporaryDirectory(prefix="xdc-") as name:
            yield Path(name)
        return
    folder = local / ".features"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_labels(
    model: XdcModel,
    iteration: int,
    videos: VideoSet,
    loader: ClipLoader,
    device: torch.device,
    folder: Path,
) -> dict[str, PseudoLabels]:
    """The pseudo-labels of an iteration by name of the label set. Features lie in `folder`
    meanwhile. All ranks embed; rank r clusters the label sets r, r + world size, …, in its own
    folder; all get all labels, which do not depend on the number of ranks.

    Raises AbortError where no video's picture can be read.
    """
    config = model.config
    rank, world_size = distributed.world()
    names = label_sets(config.method)
    own = range(rank, len(names), world_size)
    needed = {modality for number in own for modality in SETS.get(names[number], ())}
    features = embed_set(model, videos, loader, config.clustering.clips, device, folder, needed)
    if not features.seen_N.any():
        raise AbortError(f"{videos.dataset}: no video's picture can be read; see the warnings")
    videos = replace(videos, seen_N=features.seen_N)
    made = {}
    for number in own:
        seed = (config.seed, iteration, number, 3)
        made[names[number]] = (
            plan_labels(videos)
            if names[number] == "plan"
            else cluster_set(names[number], features.files, videos, config.clustering, seed, folder)
        )
    found = {name: _shared(made.get(name), len(videos), device) for name in names}
    wanted = config.clustering.clusters
    fewest = min((made.clusters for name, made in found.items() if name != "plan"), default=wanted)
    if fewest < wanted and iteration == 0 and rank == 0:
        said = "%d videos: k-means with %d clusters (configured: %d)"
        logger.warning(said, len(videos), fewest, wanted)
    return found


def _shared(made: PseudoLabels | None, count: int, device: torch.device) -> PseudoLabels:
    """Those of the one rank that has made them."""
    numbers = torch.zeros(count + 1, dtype=torch.int64)
    if made is not None:
        numbers = torch.from_numpy(np.append(made.labels_N, made.clusters))
    told = distributed.sum_over_ranks(numbers.to(device)).cpu()
    return PseudoLabels(told[:-1].numpy(), int(told[-1]))
