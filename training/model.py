"""MCN: one joint space for picture, sound and text (Chen et al., ICCV 2021, arXiv 2104.12671).

Shapes: B clips, D embedding, V visual columns, P visual tracks, M mel bins, T frames, S text
rows, E text columns, C audio channels, F columns of a reconstruction target, H head, K prototypes.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from training.batches import ClipBatch
from training.clips import TrackDims
from training.cluster_head import ClusterHeads
from training.config import ModelConfig, SinkhornConfig, TrainConfig
from training.davenet import Davenet

MAX_SCALE = 100.0


@dataclass(frozen=True)
class Reconstruction:
    """What a decoder made and what it should be."""

    prediction_BF: Tensor
    target_BF: Tensor
    weight_BF: Tensor
    """1 where the target is known, 0 where the clip lacks that modality or visual track."""


@dataclass(frozen=True)
class McnOutput:
    """Of one batch; only modalities that the model has appear."""

    embeddings: dict[str, Tensor]
    """(B, D); unit length where similarity is normalised. Zero rows where absent."""
    present: dict[str, Tensor]
    """(B,) bool."""
    scale: Tensor
    """Scalar, 1 / temperature; 1 where similarity is raw."""
    reconstructions: dict[str, Reconstruction]
    """Empty where the model has no decoders."""
    projections: dict[str, Tensor] = field(default_factory=dict)
    """(B, H), unit length: what is compared with the prototypes. Empty without cluster heads."""
    prototypes: dict[str, Tensor] = field(default_factory=dict)
    """(K, H) by modality; the same tensor for all where the head is shared."""
    unit_length: bool = False
    """Whether similarity is normalised."""


class GatedUnit(nn.Module):
    """y * sigmoid(W2 y + b2) with y = W1 x + b1; no norm (MCN released code)."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, width)
        self.gate = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width_in) to (..., width)."""
        y: Tensor = self.linear(x)
        return y * torch.sigmoid(self.gate(y))


class Mcn(nn.Module):
    """Three branches into one space, and a decoder back from each.

    video: v = GU(x_v); audio: u = Davenet(spectrogram), a = Linear(GU(u));
    text: q = max over rows of ReLU(Linear(e)), t = GU(q).
    Decoders: Linear, ReLU, Linear, ReLU to x_v, u and q, from the embeddings before any
    normalisation. A modality whose dims are 0 has no branch. With `prototypes` there are also
    cluster heads over the embeddings, for the Sinkhorn variants.
    """

    def __init__(
        self,
        config: ModelConfig,
        dims: TrackDims,
        decoders: bool = True,
        prototypes: int = 0,
        sinkhorn: SinkhornConfig | None = None,
    ) -> None:
        super().__init__()
        self.config, self.dims = config, dims
        D = config.embedding_dim
        targets: dict[str, int] = {}
        if sum(dims.visual):
            self.video = GatedUnit(sum(dims.visual), D)
            targets["video"] = sum(dims.visual)
        if dims.audio:
            C = config.audio_widths[-1]
            self.davenet = Davenet(
                dims.audio, config.audio_widths, config.audio_blocks, config.mask_padding
            )
            # the gate works in C, not D: steadier in mixed precision (released code)
            self.audio = nn.Sequential(GatedUnit(C, C), nn.Linear(C, D))
            targets["audio"] = C
        if dims.text:
            self.text_rows = nn.Linear(dims.text, D)
            self.text = GatedUnit(D, D)
            targets["text"] = D
        self.modalities = tuple(targets)
        self.decoders = nn.ModuleDict()
        if decoders:
            hidden = config.decoder_dim
            for name, width in targets.items():
                self.decoders[name] = nn.Sequential(
                    nn.Linear(D, hidden), nn.ReLU(), nn.Linear(hidden, width), nn.ReLU()
                )
        self.heads: ClusterHeads | None = None
        if prototypes:
            self.heads = ClusterHeads(self.modalities, D, prototypes, sinkhorn or SinkhornConfig())
        if config.learn_temperature:
            self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    def forward(self, batch: ClipBatch) -> McnOutput:
        """Embeds a batch. Rows of absent modalities are zero and say so in `present`."""
        present = {name: batch.present[name] for name in self.modalities}
        targets = {name: self._pooled(name, batch) for name in self.modalities}
        raw = {name: self._project(name, targets[name]) for name in self.modalities}
        embeddings = {
            name: self._finish(z_BD) * present[name][:, None] for name, z_BD in raw.items()
        }
        projections: dict[str, Tensor] = {}
        prototypes: dict[str, Tensor] = {}
        if self.heads is not None:
            projections = self.heads(embeddings, present)
            prototypes = self.heads.prototypes(self.modalities)
        return McnOutput(
            embeddings=embeddings,
            present=present,
            scale=self.scale(),
            reconstructions={
                name: Reconstruction(decoder(raw[name]), targets[name], self._known(name, batch))
                for name, decoder in self.decoders.items()
            },
            projections=projections,
            prototypes=prototypes,
            unit_length=self.config.similarity == "normalised",
        )

    def scale(self) -> Tensor:
        """1 / temperature, a scalar tensor on the model's device."""
        if self.config.similarity == "raw":
            return torch.ones((), device=self._device())
        if self.config.learn_temperature:
            return self.log_scale.exp().clamp(max=MAX_SCALE)
        return torch.tensor(1 / self.config.temperature, device=self._device())

    def embed_text(self, text_BSE: Tensor) -> Tensor:
        """t (B, D) of texts that have the same number of rows, as `forward` gives it."""
        rows_B = torch.full((len(text_BSE),), text_BSE.shape[1], device=text_BSE.device)
        return self._finish(self.text(self.pool_text(text_BSE, rows_B)))

    def pool_text(self, text_BSE: Tensor, rows_B: Tensor) -> Tensor:
        """q (B, D): max over the first `rows_B` rows; 0 where there are none."""
        rows_BSD = torch.relu(self.text_rows(text_BSE))
        if self.config.mask_padding:  # after ReLU nothing is below 0: zero is as good as absent
            valid_BS = torch.arange(rows_BSD.shape[1], device=rows_B.device) < rows_B[:, None]
            rows_BSD = rows_BSD * valid_BS[:, :, None]
        return rows_BSD.amax(dim=1)

    def _pooled(self, name: str, batch: ClipBatch) -> Tensor:
        """The vector that a branch projects and its decoder rebuilds: x_v, u or q."""
        if name == "video":
            return batch.visual_BV
        if name == "audio":
            u_BC: Tensor = self.davenet(batch.spectrogram_BMT, batch.frames_B)
            return u_BC
        return self.pool_text(batch.text_BSE, batch.rows_B)

    def _project(self, name: str, x: Tensor) -> Tensor:
        z_BD: Tensor = self.get_submodule(name)(x)
        return z_BD

    def _finish(self, z_BD: Tensor) -> Tensor:
        """What leaves the model: float32 or better, unit length where similarity is normalised."""
        z_BD = at_least_float32(z_BD)
        return nn.functional.normalize(z_BD) if self.config.similarity == "normalised" else z_BD

    def _known(self, name: str, batch: ClipBatch) -> Tensor:
        """(B, F) for the picture, where tracks may be absent alone, else (B, 1)."""
        if name != "video":
            return batch.present[name][:, None].float()
        widths = torch.tensor(self.dims.visual, device=batch.parts_BP.device)
        return batch.parts_BP.float().repeat_interleave(widths, dim=1)

    def _device(self) -> torch.device:
        return next(self.parameters()).device


def build_model(config: TrainConfig, dims: TrackDims) -> Mcn:
    """The network of a run, with fresh weights: decoders and cluster heads if its losses need
    them."""
    sinkhorn = config.clustering.method == "sinkhorn" and config.loss.clustering_weight > 0
    return Mcn(
        config.model,
        dims,
        decoders=config.loss.reconstruction_weight > 0,
        prototypes=config.clustering.clusters if sinkhorn else 0,
        sinkhorn=config.clustering.sinkhorn,
    )


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision made float32; float64 stays."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def join(embeddings: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
    """The fused vector m (B, D): mean over the modalities a clip has; zero where it has none.

    With all three this is (v + a + t) / 3, as in the paper.
    """
    total_BD = torch.stack([z * present[name][:, None] for name, z in embeddings.items()]).sum(0)
    count_B = torch.stack([present[name] for name in embeddings]).sum(0)
    return total_BD / count_B.clamp(min=1)[:, None]
