"""Batch norm as over the whole batch: its statistics span the ranks, and rest when asked.

Shapes: N rows of this rank, C channels, * any further axes (space, time); B clips, T time steps,
R ranks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
        if valid_BT is None:
            return norm_over_ranks(self, x_BCT.float()).to(x_BCT.dtype)
        x_BTC = x_BCT.transpose(1, 2)
        normed_NC = norm_over_ranks(self, x_BTC[valid_BT].float()).to(x_BCT.dtype)
        return torch.zeros_like(x_BTC).index_put((valid_BT,), normed_NC).transpose(1, 2)


def norm_over_ranks(norm: _BatchNorm, x_NC: Tensor) -> Tensor:
    """(N, C, *) to the same: what `norm` in training makes of all ranks' rows, for this rank's.

    Moves its running statistics, unless they rest; one value has no variance, and is given them.
    """
    count, mean_C, var_C = _moments(x_NC.detach())
    if count < 2:
        return nn.functional.batch_norm(
            x_NC, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )
    if norm.track_running_stats:
        _remember(norm, mean_C, var_C * count / (count - 1))
    normed_NC: Tensor = _Normalise.apply(
        x_NC, norm.weight, norm.bias, mean_C, torch.rsqrt(var_C + norm.eps), count
    )
    return normed_NC


class _Normalise(torch.autograd.Function):
    """weight (x - mean) inverse + bias, where mean and inverse deviation are those of all ranks' x.

    Written out, since each further pass over a sound network's activations costs as much as a
    tenth of its convolutions. With y = (x - mean) inverse, sums over all ranks' N rows:
    dx = weight inverse (dz - sum(dz) / N - y sum(dz y) / N) (Ioffe and Szegedy 2015, section 3).
    """

    @staticmethod
    def forward(
        ctx: Any, x_NC: Tensor, weight_C: Tensor, bias_C: Tensor, mean_C: Tensor,
        inverse_C: Tensor, count: Tensor,
    ) -> Tensor:  # fmt: skip
        centred_NC = x_NC - _along(mean_C, x_NC)
        ctx.save_for_backward(centred_NC, weight_C, inverse_C, count)
        scale_C = weight_C * inverse_C
        return torch.addcmul(_along(bias_C, x_NC), centred_NC, _along(scale_C, x_NC))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (d_NC,) = gradients
        centred_NC, weight_C, inverse_C, count = ctx.saved_tensors
        axes = _others(d_NC)
        own_sum_C, own_product_C = d_NC.sum(axes), (d_NC * centred_NC).sum(axes)
        sum_C, product_C = sum_over_ranks(torch.stack([own_sum_C, own_product_C])) / count
        slope_C = product_C * inverse_C**2
        dx_NC = torch.addcmul(_along(sum_C, d_NC), centred_NC, _along(slope_C, d_NC))
        dx_NC = torch.sub(d_NC, dx_NC, out=dx_NC).mul_(_along(weight_C * inverse_C, d_NC))
        return dx_NC, own_product_C * inverse_C, own_sum_C, None, None, None


def _moments(x_NC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number (a scalar), mean and biased variance (C,) of all ranks' rows, by one collective call.

    From each rank's own mean and squared deviations (Chan et al. 1979), since the mean of squares
    cancels. Every rank fills its row of a table of zeros, and the tables are added up.
    """
    axes, number = _others(x_NC), x_NC.numel() // x_NC.shape[1]
    mean_C = x_NC.sum(axes) / max(1, number)
    squares_C = (x_NC - _along(mean_C, x_NC)).square_().sum(axes)
    rank, world_size = world()
    channels = len(mean_C)
    table = x_NC.new_zeros(world_size, 2 * channels + 1)
    table[rank] = torch.cat([mean_C, squares_C, x_NC.new_full((1,), number)])
    table = sum_over_ranks(table)
    means_RC, squares_RC, count_R1 = torch.split(table, [channels, channels, 1], dim=1)
    count = count_R1.sum()
    mean_C = (count_R1 * means_RC).sum(0) / count.clamp(min=1)
    deviations_RC = squares_RC + count_R1 * (means_RC - mean_C) ** 2
    return count, mean_C, deviations_RC.sum(0) / count.clamp(min=1)


@torch.no_grad()
def _remember(norm: _BatchNorm, mean_C: Tensor, unbiased_var_C: Tensor) -> None:
    """Moves a norm's running statistics towards a batch's."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean_C, norm.momentum)
    norm.running_var.lerp_(unbiased_var_C, norm.momentum)


def _others(x_NC: Tensor) -> list[int]:
    """All axes but the channels'."""
    return [axis for axis in range(x_NC.dim()) if axis != 1]


def _along(values_C: Tensor, x_NC: Tensor) -> Tensor:
    """(C,) as a tensor that broadcasts over (N, C, *)."""
    return values_C.view(1, -1, *[1] * (x_NC.dim() - 2))


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
