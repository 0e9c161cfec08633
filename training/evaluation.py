"""What a trained model can do on a dataset: retrieval between modalities, and clusters.

Items are clips: the segments of videos with speech, else windows (training.clips.video_clips).
Shapes: Q queries, N candidates, D embedding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from sklearn.cluster import KMeans

from extractors.errors import UsageError
from pipeline.samples import read_dataset
from training.checkpoints import load_run
from training.clips import Clip, ClipInputs, Float32, video_clips
from training.cluster_metrics import ClusterAgreement, cluster_agreement
from training.config import TrainConfig
from training.embedding import (
    ClipEmbeddings,
    concatenate,
    cut_clips,
    embed_clips,
    unit_rows,
)
from training.retrieval_metrics import Retrieval, retrieval_metrics, score_ranks

DEFAULT_PAIRS = (
    ("text", "video"),
    ("text", "audio"),
    ("text", "video+audio"),
    ("audio", "video"),
    ("video", "audio"),
    ("video", "text"),
    ("audio", "text"),
)
QUERY_BLOCK = 1024


@dataclass(frozen=True)
class EvaluationSet:
    """The clips of a split, embedded."""

    keys: tuple[str, ...]
    clips: tuple[Clip, ...]
    labels: tuple[str | None, ...]
    """Of each clip's video."""
    embeddings: ClipEmbeddings
    features: Float32
    """(N, F): the clips' features before the model, see `raw_features`."""


@dataclass(frozen=True)
class RetrievalRow:
    """One row of a retrieval table."""

    query: str
    target: str
    """A modality, or several joined by '+'."""
    metrics: Retrieval


@dataclass(frozen=True)
class ClusterRow:
    """One row of a table of clusters."""

    features: str
    """'embedding' (the fused vector) or 'raw' (the same clips before the model)."""
    items: int
    labels: int
    """Distinct labels."""
    clusters: int
    agreement: ClusterAgreement


def evaluate_retrieval(
    run: str,
    dataset: str,
    split: str | None = "test",
    pairs: Sequence[tuple[str, str]] = DEFAULT_PAIRS,
    window: float = 10.0,
    device: torch.device | None = None,
) -> list[RetrievalRow]:
    """R@1/5/10 and MedR of each (query, target) pair over the clips of a split (None: of all).

    See `retrieval_rows` for who is a query and who a candidate. Raises UsageError for a split
    without clips.
    """
    items = load_evaluation_set(run, dataset, split, window, device)
    return retrieval_rows(items.embeddings, pairs)


def evaluate_clusters(
    run: str,
    dataset: str,
    split: str | None = "test",
    clusters: int | None = None,
    window: float = 10.0,
    seed: int = 0,
    device: torch.device | None = None,
) -> list[ClusterRow]:
    """k-means on the fused embeddings, and on the raw features, against the videos' labels.

    Over the clips of labelled videos of a split (None: of all); k is the number of their labels
    unless given. Both are the best of ten runs of scikit-learn's k-means. Raises UsageError
    where no video has a label or there are fewer clips than clusters.
    """
    items = load_evaluation_set(run, dataset, split, window, device)
    labelled = np.array([label is not None for label in items.labels])
    labels = np.array([label for label in items.labels if label is not None])
    if not len(labels):
        raise UsageError(f"{dataset}: no video of split {split!r} has a label to compare with")
    distinct = len(set(labels.tolist()))
    k = distinct if clusters is None else clusters
    if not 1 <= k <= len(labels):
        raise UsageError(
            f"clusters = {k}: {dataset} has {len(labels)} labelled clips in split {split!r}; "
            f"allowed is 1 to {len(labels)}"
        )
    rows = []
    for name, vectors in (("embedding", items.embeddings.joined()), ("raw", items.features)):
        found = KMeans(k, n_init=10, random_state=seed).fit_predict(vectors[labelled])
        agreement = cluster_agreement(labels, found)
        rows.append(ClusterRow(name, len(labels), distinct, k, agreement))
    return rows


def retrieval_rows(
    embeddings: ClipEmbeddings, pairs: Sequence[tuple[str, str]] = DEFAULT_PAIRS
) -> list[RetrievalRow]:
    """Ranks, for each pair, the candidates of every query over the whole set at once.

    Candidates are the clips that have any modality of the target, queries those of them that have
    any of the query; the right candidate of a query is its own clip. Scores are dot products of
    `ClipEmbeddings.joined` vectors. Pairs without queries (a modality the set lacks) are left
    out.
    """
    rows = []
    for query, target in pairs:
        candidate = embeddings.having(target.split("+"))
        asked = candidate & embeddings.having(query.split("+"))
        if not asked.any():
            continue
        queries_QD = embeddings.joined(query.split("+"))[asked]
        candidates_ND = embeddings.joined(target.split("+"))[candidate]
        right_Q = (np.cumsum(candidate) - 1)[asked]
        blocks = [
            score_ranks(queries_QD[block] @ candidates_ND.T, right_Q[block])
            for block in _blocks(len(queries_QD), QUERY_BLOCK)
        ]
        above_Q, tied_Q = (np.concatenate(part) for part in zip(*blocks, strict=True))
        metrics = retrieval_metrics(above_Q, tied_Q, len(candidates_ND))
        rows.append(RetrievalRow(query, target, metrics))
    return rows


def load_evaluation_set(
    run: str, dataset: str, split: str | None, window: float, device: torch.device | None = None
) -> EvaluationSet:
    """Embeds the clips of a split with a run's model, on the CPU unless a device is given.

    Clips that have no modality at all are left out. Raises UsageError where none is left.
    """
    device = device or torch.device("cpu")
    loaded = load_run(run, device)
    model, config = loaded.model, loaded.config
    samples = (
        sample
        for sample in read_dataset(dataset, _tracks(config))
        if split is None or sample.meta.get("split") == split
    )
    cut: list[tuple[str, Clip, str | None]] = []
    embedded: list[ClipEmbeddings] = []
    features: list[Float32] = []
    for part in cut_clips(samples, partial(video_clips, window=window), config, model.dims):
        cut += [(item.video.key, item.clip, item.video.meta.get("label")) for item in part]
        embedded.append(embed_clips(model, [item.inputs for item in part], config, device))
        features += [raw_features(item.inputs) for item in part]
    if not cut:
        raise UsageError(f"{dataset}: no clips in split {split!r}")
    keys, clips, labels = zip(*cut, strict=True)
    return EvaluationSet(keys, clips, labels, concatenate(embedded), np.stack(features))


def raw_features(inputs: ClipInputs) -> Float32:
    """(F,): what the clip is before the model; the baseline of clustering.

    The pooled picture, the mean spectrum and the mean text vector, each scaled to unit length so
    that none outweighs the others, concatenated. A missing one is zero.
    """
    spectrum = inputs.spectrogram.mean(axis=1) if inputs.present["audio"] else None
    parts = [
        inputs.visual,
        np.zeros(len(inputs.spectrogram)) if spectrum is None else spectrum - spectrum.mean(),
        inputs.text.mean(axis=0) if len(inputs.text) else np.zeros(inputs.text.shape[1]),
    ]
    return np.concatenate([unit_rows(part[None])[0] for part in parts])


def _tracks(config: TrainConfig) -> set[str]:
    return {*config.sampling.visual_tracks, config.sampling.audio_track, "text"}


def _blocks(count: int, size: int) -> Iterator[slice]:
    """Slices that cover `count` rows: a score matrix is never held whole."""
    return (slice(first, first + size) for first in range(0, count, size))
