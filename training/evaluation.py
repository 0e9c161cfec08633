"""What a trained model can do on a dataset: retrieval between modalities, and clusters.

Items are clips: the segments of videos with speech, else windows (training.clips.video_clips).
Shapes: Q queries, N candidates, D embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from sklearn.cluster import KMeans

from extractors.errors import UsageError
from pipeline.dataset import read_dataset_config
from pipeline.query import embed_sentences
from pipeline.samples import read_dataset
from training.checkpoints import Run, load_run
from training.clips import MODALITIES, Clip, ClipInputs, Float32, read_tracks, video_clips
from training.cluster_metrics import ClusterAgreement, cluster_agreement
from training.config import TrainConfig
from training.embedding import (
    ClipEmbeddings,
    concatenate,
    cut_clips,
    embed_clips,
    embed_text,
    unit_rows,
)
from training.provenance import check_current, check_same_features
from training.retrieval import DEFAULT_PAIRS, RetrievalRow, check_any_row, retrieval_rows


@dataclass(frozen=True)
class EvaluationSet:
    """The clips of a split, embedded."""

    keys: tuple[str, ...]
    clips: tuple[Clip, ...]
    labels: tuple[str | None, ...]
    """Of each clip's video."""
    embeddings: ClipEmbeddings
    features: dict[str, Float32]
    """(N, F) a modality: the clips before the model, see `raw_features`."""

    def raw(self, modalities: Sequence[str] = MODALITIES) -> Float32:
        """(N, sum of F): the raw features of some modalities, side by side."""
        return np.concatenate([self.features[name] for name in modalities], axis=1)


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
    complete: bool = False,
    count_missing: bool = False,
) -> list[RetrievalRow]:
    """R@1/5/10 and MedR of each (query, target) pair over the clips of a split (None: of all).

    See `retrieval_rows` for who is a query and who a candidate; with `count_missing` clips that
    lack a modality are queries too, and misses. Raises UsageError for a split without clips, or
    without clips that have both modalities of any pair.
    """
    device = device or torch.device("cpu")
    items = load_evaluation_set(load_run(run, device), dataset, split, window, device)
    total = len(items.keys) if count_missing else None
    rows = retrieval_rows(items.embeddings, pairs, complete, total)
    check_any_row(rows, pairs)
    return rows


def named_split(split: str | None) -> str:
    """A split as messages call it; None is all videos."""
    return "any split" if split is None else f"split {split!r}"


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
    device = device or torch.device("cpu")
    items = load_evaluation_set(load_run(run, device), dataset, split, window, device)
    labelled = np.array([label is not None for label in items.labels])
    labels = np.array([label for label in items.labels if label is not None])
    if not len(labels):
        raise UsageError(f"{dataset}: no video of {named_split(split)} has a label to compare with")
    distinct = len(set(labels.tolist()))
    k = distinct if clusters is None else clusters
    if not 1 <= k <= len(labels):
        raise UsageError(
            f"clusters = {k}: {dataset} has {len(labels)} labelled clips in {named_split(split)}; "
            f"allowed is 1 to {len(labels)}"
        )
    rows = []
    for name, vectors in (("embedding", items.embeddings.joined()), ("raw", items.raw())):
        found = KMeans(k, n_init=10, random_state=seed).fit_predict(vectors[labelled])
        agreement = cluster_agreement(labels, found)
        rows.append(ClusterRow(name, len(labels), distinct, k, agreement))
    return rows


def load_evaluation_set(
    run: Run, dataset: str, split: str | None, window: float, device: torch.device
) -> EvaluationSet:
    """Embeds the clips of a split (None: of all) with a run's model, on its device.

    Clips that have no modality at all are left out. Raises UsageError where none is left.
    """
    model, config = run.model, run.config
    check_current(dataset)
    check_same_features(run.card, dataset, config.sampling)
    samples = (
        sample
        for sample in read_dataset(dataset, tracks_of(config))
        if split is None or sample.meta.get("split") == split
    )
    cut: list[tuple[str, Clip, str | None]] = []
    embedded: list[ClipEmbeddings] = []
    features: list[dict[str, Float32]] = []
    for part in cut_clips(samples, partial(video_clips, window=window), config, model.dims):
        cut += [(item.video.key, item.clip, item.video.meta.get("label")) for item in part]
        embedded.append(embed_clips(model, [item.inputs for item in part], config, device))
        features += [raw_features(item.inputs) for item in part]
    if not cut:
        raise UsageError(f"{dataset}: no clips in split {split!r}")
    keys, clips, labels = zip(*cut, strict=True)
    stacked = {name: np.stack([clip[name] for clip in features]) for name in MODALITIES}
    return EvaluationSet(keys, clips, labels, concatenate(embedded), stacked)


def raw_features(inputs: ClipInputs) -> dict[str, Float32]:
    """(F,) a modality: what the clip is before the model, the baseline of clusters and labels.

    The pooled picture, the mean spectrum and the mean text vector, each scaled to unit length so
    that none outweighs the others. A missing one is zero.
    """
    spectrum = inputs.spectrogram.mean(axis=1) if inputs.present["audio"] else None
    parts = {
        "video": inputs.visual,
        "audio": np.zeros(len(inputs.spectrogram)) if spectrum is None
        else spectrum - spectrum.mean(),
        "text": inputs.text.mean(axis=0) if len(inputs.text) else np.zeros(inputs.text.shape[1]),
    }  # fmt: skip
    return {name: unit_rows(part[None])[0] for name, part in parts.items()}


def caption_rows(
    run: Run, captions: Sequence[str], device: torch.device, dataset: str | None = None
) -> list[Float32]:
    """(R, E) of each caption through the text encoder of the dataset that the run was trained on:
    one row, or one a known word, perhaps none.

    `dataset` names another place of that dataset, where it has moved. Raises UsageError where the
    run has no text branch, there is no dataset, or its encoder gives another width than the
    run's.
    """
    if not run.model.dims.text:
        raise UsageError("this run was trained without text, so captions mean nothing to it")
    source = dataset or str(run.card["dataset"])
    rows = embed_sentences(captions, read_dataset_config(source), device)
    for caption_RE in rows[:1]:
        if caption_RE.shape[1] != run.model.dims.text:
            raise UsageError(
                f"{source}: its text encoder gives {caption_RE.shape[1]} columns, the run takes "
                f"{run.model.dims.text}; name the dataset it was trained on with --dataset"
            )
    return rows


def embed_captions(
    run: Run, captions: Sequence[str], device: torch.device, dataset: str | None = None
) -> Float32:
    """(N, D): captions in the joint space, each as the text of one clip, at most `max_text_rows`
    of its rows. Zero where a caption has no known word.

    Raises UsageError as `caption_rows` does.
    """
    most = run.config.sampling.max_text_rows
    embedded_ND = np.zeros((len(captions), run.config.model.embedding_dim), np.float32)
    for i, caption_RE in enumerate(caption_rows(run, captions, device, dataset)):
        if len(caption_RE):
            embedded_ND[i] = embed_text(run.model, caption_RE[:most])
    return embedded_ND


def tracks_of(config: TrainConfig) -> set[str]:
    """The members of a sample that a run reads."""
    return set(read_tracks(config.sampling))
