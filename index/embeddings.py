"""The one place where the index meets the model: clips and queries to embeddings.

N clips, D dimension, S text rows, E text columns.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from extractors.errors import UsageError
from extractors.text import TextRows
from index.config import IndexConfig
from index.cutting import index_clips
from index.embedding_shards import ClipRow, clip_table
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
    """A run's model, of the checkpoint that its settings name; UsageError where there is none."""
    loaded = load_run(run, device)
    return Embedder(run=loaded, device=device, digest=_model_digest(loaded))


def embed_shard(embedder: Embedder, dataset: str, number: int, *, config: IndexConfig) -> pa.Table:
    """Every clip of one feature shard, in its order, as a table of `clip_table`.

    Videos are cut as `index_clips` says. Raises UsageError where the model knows none of
    `config.targets`, and as `index_clips` does.
    """
    _check_targets(embedder, config.targets)
    model, train_config = embedder.run.model, embedder.run.config
    sampling = train_config.sampling
    tracks = {*sampling.visual_tracks, sampling.audio_track, "text"}
    tracks |= {config.shots_track} if config.clips == "shots" else set()
    samples = read_shard(dataset, number, tracks)
    # a tar says nothing of the machine it was made on: where a video lies is in the parquet
    uris = {row["key"]: row["uri"] for row in read_rows(dataset, number)}
    rows: list[ClipRow] = []
    parts = [embed_clips(model, [], train_config, embedder.device)]  # a shard may have no clips
    choose = partial(index_clips, config=config)
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


def queries_from_text_rows(embedder: Embedder, texts: TextRows) -> NDArray[np.float32]:
    """The embeddings (N, D) of N texts, those of equally many rows in one pass of the model.

    A text without rows (no word of it is known) has a row of NaN. Raises UsageError as
    `query_from_text_vectors` does.
    """
    counts_N = np.diff(texts.offsets)
    queries_ND = np.full((len(counts_N), embedder.run.config.model.embedding_dim), np.nan)
    for count in np.unique(counts_N[counts_N > 0]):
        numbers = np.flatnonzero(counts_N == count)
        text_NSE = np.stack([texts.rows[o : o + count] for o in texts.offsets[numbers]])
        embed_text(embedder.run.model, text_NSE[0])  # refuses what the model cannot take
        with torch.inference_mode():
            given_NSE = torch.from_numpy(text_NSE.astype(np.float32)).to(embedder.device)
            queries_ND[numbers] = embedder.run.model.embed_text(given_NSE).cpu().numpy()
    return queries_ND.astype(np.float32)


def query_from_sample(
    embedder: Embedder,
    sample: VideoSample,
    modalities: Sequence[str],
    window: float = 10.0,
    at: float | None = None,
) -> NDArray[np.float32]:
    """The embedding (D,) of a file: its clips' mean a modality, summed over `modalities`.

    The file is cut as `file_vectors` does. Raises UsageError where it has none of `modalities`.
    """
    vectors = file_vectors(embedder, sample, modalities, window, at)
    query_D: NDArray[np.float32] = np.sum(list(vectors.values()), axis=0, dtype=np.float32)
    return query_D


def file_vectors(
    embedder: Embedder,
    sample: VideoSample,
    modalities: Sequence[str],
    window: float = 10.0,
    at: float | None = None,
) -> dict[str, NDArray[np.float32]]:
    """The embeddings (D,) of a file by modality, of those of `modalities` that it has.

    Each is the mean over the file's segments, or windows where nobody speaks, so all of a long
    file counts; with `at` it is that of the one clip of `window` seconds around that second.
    Raises UsageError where it has none of them, and for a moment outside the file.
    """
    _check_targets(embedder, modalities)
    clips = video_clips(sample, window) if at is None else (_moment(sample, at, window),)
    run = embedder.run
    embedded = embed_sample(run.model, sample, clips, run.config, embedder.device)
    counts = {name: np.count_nonzero(embedded.present[name]) for name in modalities}
    found = {
        name: (embedded.vectors[name].sum(axis=0) / count).astype(np.float32)
        for name, count in counts.items()  # rows of absent ones are zero
        if count
    }
    if not found:
        raise UsageError(f"query {sample.key}: has no {' or '.join(modalities)} to search with")
    return found


def _moment(sample: VideoSample, at: float, window: float) -> Clip:
    if not 0 <= at < sample.duration:
        raise UsageError(
            f"query {sample.key}: lasts {sample.duration:.1f} s, at = {at:g} is not in"
        )
    return Clip(max(0.0, at - window / 2), min(sample.duration, at + window / 2))


def _row(sample: VideoSample, clip: Clip, uri: str) -> ClipRow:
    return ClipRow(
        key=sample.key,
        uri=uri,
        start=clip.start,
        end=clip.end,
        text=_words(sample, clip),
        label=sample.meta.get("label"),
        split=sample.meta.get("split"),
        language=_language(sample.meta),
    )


def _words(sample: VideoSample, clip: Clip) -> str | None:
    """What is said in a clip: the segments whose middle lies in it, as the model's text rows."""
    inside = [s for s in sample.segments if clip.start <= (s.start + s.end) / 2 < clip.end]
    ordered = sorted(inside, key=lambda segment: segment.start)
    return " ".join(segment.text for segment in ordered) or None


def _language(meta: Mapping[str, Any]) -> str | None:
    """Of a video's transcript: as its captions say, else as the recogniser heard most of it."""
    transcript = meta.get("transcript") or {}
    if transcript.get("language"):
        return str(transcript["language"])
    heard = [piece["language"] for piece in transcript.get("heard", ())]
    return str(max(heard, key=heard.count)) if heard else None


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
