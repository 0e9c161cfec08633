"""Batch norm over all ranks' clips, for pictures and for volumes, on any device.

Shapes: N clips of this rank, C channels, * space and time.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training.batch_norm import remember, replace_norms
from training.distributed import sum_over_ranks


class SpanningBatchNorm(_BatchNorm):
    """nn.BatchNorm2d or 3d with the mean and variance of all ranks' clips.

    Same result and gradients as one process with all clips, but for rounding. A rank may have no
    clips; all ranks must call it equally often. (nn.SyncBatchNorm runs on GPUs alone.)
    """

    def forward(self, x_NC: Tensor) -> Tensor:
        """(N, C, *) to the same."""
        if not self.training:
            normed: Tensor = super().forward(x_NC)
            return normed
        others = [axis for axis in range(x_NC.dim()) if axis != 1]
        own = x_NC.new_full((1,), x_NC.numel() / x_NC.shape[1])
        sums = sum_over_ranks(torch.cat([x_NC.sum(others), own]))
        count = sums[-1].detach()
        mean_C = sums[:-1] / count
        centred_NC = x_NC - _along(mean_C, x_NC)
        # around the mean: the mean of squares less the squared mean cancels
        var_C = sum_over_ranks((centred_NC**2).sum(others)) / count
        remember(self, mean_C.detach(), var_C.detach() * count / (count - 1))
        scale_C = self.weight * torch.rsqrt(var_C + self.eps)
        return centred_NC * _along(scale_C, x_NC) + _along(self.bias, x_NC)

    def _check_input_dim(self, x_NC: Tensor) -> None:
        """Any number of axes."""


def _along(values_C: Tensor, x_NC: Tensor) -> Tensor:
    return values_C.view(1, -1, *[1] * (x_NC.dim() - 2))


def span_ranks(model: nn.Module) -> None:
    """Replaces every batch norm of pictures and volumes by one of the same weights and buffers."""
    replace_norms(model, (nn.BatchNorm2d, nn.BatchNorm3d), SpanningBatchNorm)
