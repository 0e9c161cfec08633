"""How a run does on videos that it is not trained on, from epoch to epoch.

The videos are those of the split `validation` (`val`, `valid`); what is measured is retrieval
between the modalities of their clips, as `pipeline evaluate retrieval` does for a finished run.
"""

import statistics
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

from pipeline.samples import VideoSample, read_shard
from training.clips import ClipInputs, read_tracks, video_clips
from training.config import TrainConfig
from training.embedding import cut_clips, embed_clips
from training.model import Mcn
from training.retrieval import RetrievalRow, retrieval_rows
from training.sampling import TrainingSet

VALIDATION_RECALL = "validation_recall"


def load_validation_clips(training_set: TrainingSet, config: TrainConfig) -> list[ClipInputs]:
    """`validation_clips` clips of the validation videos, or all of them if fewer.

    Shard by shard, in an order drawn from the seed, so that few shards are read. Stays in memory:
    some 200 kB a clip of the paper's sizes.
    """
    window = partial(video_clips, window=config.sampling.min_time)
    samples = _validation_samples(training_set, config)
    clips: list[ClipInputs] = []
    for part in cut_clips(samples, window, config, training_set.dims):
        clips += [item.inputs for item in part]
        if len(clips) >= config.validation_clips:
            break
    return clips[: config.validation_clips]


def _validation_samples(training_set: TrainingSet, config: TrainConfig) -> Iterator[VideoSample]:
    keys = {video.key for video in training_set.validation}
    shards = sorted({video.shard for video in training_set.validation})
    np.random.default_rng(config.seed).shuffle(shards)
    for shard in shards:
        for sample in read_shard(training_set.dataset, shard, set(read_tracks(config.sampling))):
            if sample.key in keys:
                yield sample


def validate(
    model: Mcn, clips: Sequence[ClipInputs], config: TrainConfig, device: torch.device
) -> dict[str, float]:
    """Recall by pair of modalities, and `validation_recall`, the mean over the pairs.

    A pair's recall is the mean of R@1, R@5 and R@10, a fraction. Pairs of which no clip has both
    modalities are left out; without any pair nothing is returned. Leaves the model, its mode and
    all random generators as they were.
    """
    rows = retrieval_rows(embed_clips(model, clips, config, device))
    if not rows:
        return {}
    recalls = {f"{VALIDATION_RECALL}_{row.query}_to_{row.target}": _recall(row) for row in rows}
    return {VALIDATION_RECALL: statistics.fmean(recalls.values())} | recalls


def _recall(row: RetrievalRow) -> float:
    return statistics.fmean(row.metrics.recall.values())
