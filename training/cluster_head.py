"""Heads and prototypes of the Sinkhorn variants (MCN's ablation, methods as released).

Shapes: B clips, D embedding, H head, K prototypes.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from training.config import SinkhornConfig
from training.davenet import MaskedBatchNorm

SHARED = "shared"


class ClusterHead(nn.Module):
    """Linear(D to D), batch norm, ReLU, Linear(D to H), unit length; and K prototypes beside it."""

    def __init__(self, dim: int, prototypes: int, head_dim: int) -> None:
        super().__init__()
        # batch norm takes a bias out again: it would have no gradient but rounding, which Adam
        # scales to full steps
        self.hidden = nn.Linear(dim, dim, bias=False)
        self.norm = MaskedBatchNorm(dim)
        self.out = nn.Linear(dim, head_dim)
        self.prototypes = nn.Linear(head_dim, prototypes, bias=False)
        self.normalise_prototypes()

    def forward(self, z_BD: Tensor, present_B: Tensor) -> Tensor:
        """(B, H). Batch norm looks at the rows that are present alone."""
        hidden_BD1 = self.hidden(z_BD)[:, :, None]
        hidden_BD = torch.relu(self.norm(hidden_BD1, present_B[:, None])[:, :, 0])
        out_BH: Tensor = self.out(hidden_BD)
        return normalize(out_BH.to(torch.promote_types(out_BH.dtype, torch.float32)))

    @torch.no_grad()
    def normalise_prototypes(self) -> None:
        """Scales each prototype to unit length, in place."""
        self.prototypes.weight.copy_(normalize(self.prototypes.weight))


class ClusterHeads(nn.Module):
    """A head a modality, or one for all."""

    def __init__(
        self,
        modalities: Iterable[str],
        dim: int,
        prototypes: int,
        config: SinkhornConfig,
    ) -> None:
        super().__init__()
        names = (SHARED,) if config.shared_head else tuple(modalities)
        self.heads = nn.ModuleDict(
            {name: ClusterHead(dim, prototypes, config.head_dim) for name in names}
        )

    def forward(
        self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """(B, H) of unit length a modality; rows of absent modalities mean nothing."""
        return {name: self._head(name)(z_BD, present[name]) for name, z_BD in embeddings.items()}

    def prototypes(self, modalities: Iterable[str]) -> dict[str, Tensor]:
        """(K, H) a modality."""
        return {name: self._head(name).prototypes.weight for name in modalities}

    def normalise_prototypes(self) -> None:
        """All prototypes to unit length, as before every step (as released)."""
        for name in self.heads:
            self._head(name).normalise_prototypes()

    def freeze_prototypes(self) -> None:
        """Drops the gradients of this step, so that no optimiser moves the prototypes."""
        for name in self.heads:
            self._head(name).prototypes.weight.grad = None

    def _head(self, name: str) -> ClusterHead:
        head = self.heads[name if name in self.heads else SHARED]
        assert isinstance(head, ClusterHead)
        return head
