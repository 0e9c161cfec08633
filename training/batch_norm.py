"""Batch norm as over the whole batch: its statistics span the ranks, and rest when asked.

Shapes: B clips, C channels, T time steps, N valid rows of this rank, R ranks.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training.davenet import MaskedBatchNorm
from training.distributed import sum_over_ranks, world


class RankedBatchNorm(MaskedBatchNorm):
    """MaskedBatchNorm with the mean and variance of all ranks' rows, on any device.

    Same result and gradients as one process with all rows, but for rounding. A rank may have no
    rows; all ranks must call it equally often. (nn.SyncBatchNorm runs on GPUs alone.)
    """

    def forward(self, x_BCT: Tensor, valid_BT: Tensor | None = None) -> Tensor:
        """(B, C, T) to (B, C, T). `valid_BT` None: every step is valid."""
        if not self.training:
            return super().forward(x_BCT, valid_BT)
        x_BTC = x_BCT.transpose(1, 2)
        if valid_BT is None:
            valid_BT = torch.ones(x_BTC.shape[:2], dtype=torch.bool, device=x_BCT.device)
        normed_NC = self._normalise(x_BTC[valid_BT].float()).to(x_BCT.dtype)
        return torch.zeros_like(x_BTC).index_put((valid_BT,), normed_NC).transpose(1, 2)

    def _normalise(self, rows_NC: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        count, mean_C, var_C = _moments(rows_NC)
        if count < 2:  # one value has no variance
            # + 0 * …: the backward pass must have as many sums on every rank
            mean_C, var_C = self.running_mean + 0 * mean_C, self.running_var + 0 * var_C
        elif self.track_running_stats:
            remember(self, mean_C.detach(), var_C.detach() * count / (count - 1))
        scale_C = self.weight * torch.rsqrt(var_C + self.eps)
        return (rows_NC - mean_C) * scale_C + self.bias


@torch.no_grad()
def remember(norm: _BatchNorm, mean_C: Tensor, unbiased_var_C: Tensor) -> None:
    """Moves a norm's running statistics towards a batch's."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean_C, norm.momentum)
    norm.running_var.lerp_(unbiased_var_C, norm.momentum)


def _moments(rows_NC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number (a scalar), mean and biased variance (C,) of all ranks' rows, by one collective call.

    From each rank's own mean and squared deviations (Chan et al. 1979), since the mean of squares
    cancels. Every rank fills its row of a table of zeros, and the tables are added up.
    """
    rank, world_size = world()
    mean_C = rows_NC.sum(0) / max(1, len(rows_NC))
    squares_C = ((rows_NC - mean_C) ** 2).sum(0)
    own = torch.cat([mean_C, squares_C, rows_NC.new_full((1,), len(rows_NC))])
    table = torch.stack([own if i == rank else torch.zeros_like(own) for i in range(world_size)])
    table = sum_over_ranks(table)
    means_RC, squares_RC, count_R1 = torch.split(table, [len(mean_C), len(mean_C), 1], dim=1)
    count_R1 = count_R1.detach()
    count = count_R1.sum()
    mean_C = (count_R1 * means_RC).sum(0) / count.clamp(min=1)
    deviations_RC = squares_RC + count_R1 * (means_RC - mean_C) ** 2
    return count, mean_C, deviations_RC.sum(0) / count.clamp(min=1)


def span_ranks(model: nn.Module) -> None:
    """Replaces every MaskedBatchNorm by a RankedBatchNorm of the same weights and buffers."""
    replace_norms(model, (MaskedBatchNorm,), RankedBatchNorm)


def replace_norms(
    model: nn.Module, kinds: tuple[type[_BatchNorm], ...], ranked: type[_BatchNorm]
) -> None:
    """Replaces every norm of just these kinds by a `ranked` one of the same weights and buffers."""
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, _BatchNorm) and type(norm) in kinds:
                made = ranked(norm.num_features, norm.eps, norm.momentum)
                made.weight, made.bias = norm.weight, norm.bias
                made.running_mean, made.running_var = norm.running_mean, norm.running_var
                made.num_batches_tracked = norm.num_batches_tracked
                setattr(parent, name, made.train(norm.training))


@contextmanager
def resting_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, batch norm uses the batch's statistics and leaves the running ones alone.

    For a pass over clips that come by a second time.
    """
    norms = [module for module in model.modules() if isinstance(module, MaskedBatchNorm)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
