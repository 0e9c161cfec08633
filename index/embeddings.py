"""The one place where the index meets the model: clips and queries to embeddings.

N clips, D dimension, S text rows, E text columns.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from extractors.errors import UsageError
from index.config import IndexConfig
from index.embedding_shards import ClipRow, clip_table, sum_of_present
from pipeline.samples import VideoSample, read_shard
from pipeline.shards import read_rows
from training.checkpoints import Run, load_run
from training.clips import Clip, video_clips
from training.embedding import concatenate, cut_clips, embed_clips, embed_sample, embed_text


@dataclass(frozen=True)
class Embedder:
    """A trained model, ready to embed clips and queries."""

    run: Run = field(repr=False)
    device: torch.device
    digest: str
    """Digest of the weights and of the settings that shape their inputs: two embedders with the
    same one give the same embeddings."""


def load_embedder(run: str, device: torch.device) -> Embedder:
    """The model of a run's last checkpoint. Raises UsageError where there is none."""
    loaded = load_run(run, device)
    return Embedder(run=loaded, device=device, digest=_model_digest(loaded))


def embed_shard(embedder: Embedder, dataset: str, number: int, *, config: IndexConfig) -> pa.Table:
    """Every clip of one feature shard, in its order, as a table of `clip_table`.

    A video with speech gives a clip a segment, one without gives windows of `config.window`.
    Raises UsageError where the model knows none of `config.targets`.
    """
    _check_targets(embedder, config.targets)
    model, train_config = embedder.run.model, embedder.run.config
    sampling = train_config.sampling
    samples = read_shard(dataset, number, {*sampling.visual_tracks, sampling.audio_track, "text"})
    # a tar says nothing of the machine it was made on: where a video lies is in the parquet
    uris = {row["key"]: row["uri"] for row in read_rows(dataset, number)}
    rows: list[ClipRow] = []
    parts = [embed_clips(model, [], train_config, embedder.device)]  # a shard may have no clips
    choose = partial(video_clips, window=config.window)
    for cut in cut_clips(samples, choose, train_config, model.dims):
        rows += [_row(one.video, one.clip, uris[one.video.key]) for one in cut]
        inputs = [one.inputs for one in cut]
        parts.append(embed_clips(model, inputs, train_config, embedder.device))
    embedded = concatenate(parts)
    return clip_table(rows, embedded.vectors, embedded.present, config.targets)


def query_from_text_vectors(
    embedder: Embedder, vectors_SE: NDArray[np.floating]
) -> NDArray[np.float32]:
    """The embedding (D,) of a text from its sentences' vectors, max-pooled as a clip's are.

    Raises UsageError for vectors of another width than the model's, or none.
    """
    return embed_text(embedder.run.model, vectors_SE)


def query_from_sample(
    embedder: Embedder, sample: VideoSample, modalities: Sequence[str], window: float = 10.0
) -> NDArray[np.float32]:
    """The embedding (D,) of a file: its clips' mean a modality, summed over `modalities`.

    The file is cut into clips as a dataset's videos are, so all of a long file counts. Raises
    UsageError where it has none of `modalities`.
    """
    _check_targets(embedder, modalities)
    run, clips = embedder.run, video_clips(sample, window)
    embedded = embed_sample(run.model, sample, clips, run.config, embedder.device)
    has = {name: np.array([embedded.present[name].any()]) for name in modalities}
    mean_1D = {
        name: embedded.vectors[name].sum(axis=0, keepdims=True)  # absent rows are zero
        / max(1, np.count_nonzero(embedded.present[name]))
        for name in modalities
    }
    sum_1D, any_1 = sum_of_present(mean_1D, has, modalities)
    if not any_1[0]:
        raise UsageError(f"query {sample.key}: has no {' or '.join(modalities)} to search with")
    query_D: NDArray[np.float32] = sum_1D[0]
    return query_D


def _row(sample: VideoSample, clip: Clip, uri: str) -> ClipRow:
    return ClipRow(
        key=sample.key,
        uri=uri,
        start=clip.start,
        end=clip.end,
        text=_words(sample, clip),
        label=sample.meta.get("label"),
        split=sample.meta.get("split"),
    )


def _words(sample: VideoSample, clip: Clip) -> str | None:
    """What is said in a clip: the segments whose middle lies in it, as the model's text rows."""
    inside = [s for s in sample.segments if clip.start <= (s.start + s.end) / 2 < clip.end]
    ordered = sorted(inside, key=lambda segment: segment.start)
    return " ".join(segment.text for segment in ordered) or None


def _check_targets(embedder: Embedder, targets: Iterable[str]) -> None:
    known = embedder.run.model.modalities
    if not set(targets) & set(known):
        raise UsageError(
            f"targets = {', '.join(targets)}: the model knows {', '.join(known)} only: "
            "choose one of them"
        )


def _model_digest(run: Run) -> str:
    """sha256 over the weights, by name, and the settings that shape inputs and network."""
    settings = run.config.model_dump(mode="json")
    facts = {name: settings[name] for name in ("sampling", "model")}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(run.model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
