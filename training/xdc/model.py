"""Two encoders and the linear heads of an iteration, and the losses of the heads.

Shapes: B clips of this rank, D columns of an encoder, K clusters.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from extractors.xdc_model import normalise_frames, normalise_mel
from extractors.xdc_networks import AudioEncoder, VideoEncoder
from training.xdc.config import XdcConfig
from training.xdc.reading import ClipBatch
from training.xdc.supervision import HEADS, MODALITIES, Head, Modality

HEAD_STD = 0.01
"""Of a new head's weights; its bias is 0 (DeepCluster, main.py)."""


class XdcModel(nn.Module):
    """The encoders live as long as the run; the heads are renewed with the pseudo-labels."""

    def __init__(self, config: XdcConfig) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleDict(
            {"video": VideoEncoder(config.video), "audio": AudioEncoder(config.audio)}
        )
        self.heads = nn.ModuleDict()

    def dim(self, modality: Modality) -> int:
        """Columns of an encoder's vectors."""
        encoder: Any = self.encoders[modality]
        return int(encoder.dim)

    def renew_heads(self, clusters: Mapping[str, int], iteration: int) -> None:
        """Fresh heads for `clusters` of each label set: cluster numbers mean nothing from one
        k-means to the next. The same on all ranks, from the seed and the iteration."""
        device = next(self.encoders.parameters()).device
        heads = {}
        for number, head in enumerate(HEADS[self.config.method]):
            rng = np.random.default_rng((self.config.seed, iteration, number, 2))
            linear = nn.Linear(self.dim(head.encoder), clusters[head.labels])
            weights = HEAD_STD * rng.standard_normal(linear.weight.shape, dtype=np.float32)
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(weights))
                linear.bias.zero_()
            heads[head.name] = linear
        self.heads = nn.ModuleDict(heads).to(device)

    def encode(self, modality: Modality, batch: ClipBatch) -> Tensor:
        """(B, D) from clips as they are read, on their device."""
        if modality == "video":
            vectors: Tensor = self.encoders["video"](normalise_frames(batch.frames_BTHWC))
            return vectors
        mel = normalise_mel(batch.mel_BMR, self.config.audio)
        heard: Tensor = self.encoders["audio"](mel)
        return heard


def head_sums(
    model: XdcModel,
    batch: ClipBatch,
    has: Mapping[Modality, Tensor],
    labels: Mapping[str, Tensor],
    resting: frozenset[Modality] = frozenset(),
) -> dict[str, tuple[Tensor, Tensor]]:
    """For each head: the sum of its cross-entropies over this rank's clips, and how many it has
    right. Clips without the encoder's modality or without the label take no part.

    `has` are (B,) flags, `labels` (B,) clusters of each label set, -1 without one. Encoders that
    are `resting` are not run.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for modality in MODALITIES:
        heads = [head for head in HEADS[model.config.method] if head.encoder == modality]
        if modality in resting:
            continue
        rows_B = torch.nonzero(has[modality])[:, 0]
        vectors_BD = model.encode(modality, taken(batch, rows_B))
        for head in heads:
            found[head.name] = _sums(model, head, vectors_BD, labels[head.labels][rows_B])
    return found


def taken(batch: ClipBatch, rows_B: Tensor) -> ClipBatch:
    """Some clips of a batch; all of them without a copy."""
    if len(rows_B) == len(batch.frames_BTHWC):
        return batch
    return ClipBatch(batch.frames_BTHWC[rows_B], batch.mel_BMR[rows_B])


def _sums(
    model: XdcModel, head: Head, vectors_BD: Tensor, labels_B: Tensor
) -> tuple[Tensor, Tensor]:
    logits_BK = model.heads[head.name](vectors_BD).float()
    loss = nn.functional.cross_entropy(logits_BK, labels_B, ignore_index=-1, reduction="sum")
    right = (logits_BK.argmax(dim=1) == labels_B).sum()
    return loss, right
