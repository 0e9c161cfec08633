"""Embeddings of clips and of queries, for evaluation and for the index.

Shapes: N clips, D embedding, S text rows, E text columns, B clips of one batch.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.errors import UsageError
from pipeline.samples import VideoSample
from training.batches import collate
from training.clips import MODALITIES, Clip, ClipInputs, Float32, TrackDims, clip_inputs
from training.config import TrainConfig
from training.model import Mcn

EMBED_CLIPS = 64


@dataclass(frozen=True)
class ClipEmbeddings:
    """Where N clips lie in the joint space, by modality ('video', 'audio', 'text')."""

    vectors: dict[str, Float32]
    """(N, D) each, as the model gives them; zero rows where the clip lacks the modality."""
    present: dict[str, NDArray[np.bool_]]
    """(N,) each."""
    unit_length: bool
    """Whether the model compares by cosine."""

    def __len__(self) -> int:
        return len(self.present["video"])

    def having(self, modalities: Sequence[str]) -> NDArray[np.bool_]:
        """(N,): the clips that have at least one of these modalities."""
        _check_modalities(modalities)
        there_N: NDArray[np.bool_] = np.any([self.present[name] for name in modalities], axis=0)
        return there_N

    def joined(self, modalities: Sequence[str] = MODALITIES) -> Float32:
        """(N, D): the mean of a clip's embeddings in those of `modalities` it has.

        Scaled to unit length again where the model compares by cosine, so that a clip is not
        ranked by how well its modalities agree. A dot product with it ranks clips that have all
        of them as the paper's sum does (MCN, retrieval by T (V + A)^T); the mean keeps clips
        that lack one comparable. Zero rows where a clip has none.
        """
        _check_modalities(modalities)
        total_ND = np.sum([self.vectors[name] for name in modalities], axis=0)
        count_N1 = np.sum([self.present[name] for name in modalities], axis=0)[:, None]
        mean_ND = (total_ND / np.maximum(count_N1, 1)).astype(np.float32)
        return unit_rows(mean_ND) if self.unit_length else mean_ND


def embed_clips(
    model: Mcn, inputs: Sequence[ClipInputs], config: TrainConfig, device: torch.device
) -> ClipEmbeddings:
    """Embeds clips of any videos, in batches of 64, in evaluation mode (the mode is restored).

    float32 on the CPU. Without `mask_padding` sound beyond `audio_frames` does not count; with
    it the result of a clip does not depend on the others but for rounding.
    """
    size = config.model.embedding_dim
    vectors: dict[str, Float32] = {
        name: np.zeros((len(inputs), size), np.float32) for name in MODALITIES
    }
    present = {name: np.zeros(len(inputs), dtype=bool) for name in MODALITIES}
    was_training = model.training
    model.eval()
    try:
        for first in range(0, len(inputs), EMBED_CLIPS):
            rows = slice(first, first + EMBED_CLIPS)
            with torch.inference_mode():
                output = model(collate(inputs[rows], model.dims, config).to(device))
            for name, z_BD in output.embeddings.items():
                vectors[name][rows] = z_BD.cpu().numpy()
                present[name][rows] = output.present[name].cpu().numpy()
    finally:
        model.train(was_training)
    return ClipEmbeddings(vectors, present, config.model.similarity == "normalised")


def embed_sample(
    model: Mcn,
    sample: VideoSample,
    clips: Sequence[Clip],
    config: TrainConfig,
    device: torch.device,
) -> ClipEmbeddings:
    """Embeds clips of one video."""
    inputs = [clip_inputs(sample, clip, config.sampling, model.dims) for clip in clips]
    return embed_clips(model, inputs, config, device)


@dataclass(frozen=True)
class CutClip:
    """A clip with its inputs and its video."""

    video: VideoSample
    """Without its arrays: key, meta and segments."""
    clip: Clip
    inputs: ClipInputs


def cut_clips(
    samples: Iterable[VideoSample],
    choose: Callable[[VideoSample], Sequence[Clip]],
    config: TrainConfig,
    dims: TrackDims,
) -> Iterator[list[CutClip]]:
    """Cuts the chosen clips of many videos, in order, in lists of 64 or a few more.

    For `embed_clips`, which batches best over many videos. Clips without any modality are left
    out. Holds the arrays of one video at a time.
    """
    cut: list[CutClip] = []
    for sample in samples:
        video = replace(sample, tracks={}, text=None)
        for clip in choose(sample):
            inputs = clip_inputs(sample, clip, config.sampling, dims)
            if any(inputs.present.values()):
                cut.append(CutClip(video, clip, inputs))
        if len(cut) >= EMBED_CLIPS:
            yield cut
            cut = []
    if cut:
        yield cut


def concatenate(parts: Sequence[ClipEmbeddings]) -> ClipEmbeddings:
    """Embeddings of one model, one after the other. At least one part."""
    return ClipEmbeddings(
        {name: np.concatenate([part.vectors[name] for part in parts]) for name in MODALITIES},
        {name: np.concatenate([part.present[name] for part in parts]) for name in MODALITIES},
        parts[0].unit_length,
    )


def embed_text(model: Mcn, vectors_SE: NDArray[np.generic]) -> Float32:
    """(D,) float32 of one query: the vectors of its sentences or words, max-pooled as a clip's.

    Raises UsageError where the model has no text branch or the width is not its own.
    """
    if "text" not in model.modalities:
        raise UsageError("this model was trained without text, so it cannot be searched by text")
    if vectors_SE.ndim != 2 or vectors_SE.shape[1] != model.dims.text or not len(vectors_SE):
        raise UsageError(
            f"a text query is (rows, {model.dims.text}) vectors of the encoder that made the "
            f"dataset's text, got {vectors_SE.shape}"
        )
    device = next(model.parameters()).device
    with torch.inference_mode():
        text_SE = torch.from_numpy(vectors_SE.astype(np.float32)).to(device)
        embedding_1D = model.embed_text(text_SE[None])
    query_D: Float32 = embedding_1D[0].cpu().numpy()
    return query_D


def unit_rows(rows_ND: NDArray[np.floating]) -> Float32:
    """Rows scaled to unit length; zero rows stay zero."""
    norm_N1 = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    unit_ND: Float32 = (rows_ND / np.maximum(norm_N1, 1e-12)).astype(np.float32)
    return unit_ND


def _check_modalities(modalities: Sequence[str]) -> None:
    unknown = sorted(set(modalities) - set(MODALITIES))
    if unknown or not modalities:
        raise UsageError(
            f"modalities {'+'.join(modalities)!r}: allowed are {', '.join(MODALITIES)}, "
            "several joined by '+'"
        )
