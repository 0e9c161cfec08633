"""Batch norm over all ranks' clips, for pictures and for volumes, on any device.

Shapes: N clips of this rank, C channels, * space and time.
"""

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training.batch_norm import norm_over_ranks, replace_norms


class SpanningBatchNorm(_BatchNorm):
    """nn.BatchNorm2d or 3d with the mean and variance of all ranks' clips.

    Same result and gradients as one process with all clips, but for rounding. A rank may have no
    clips; all ranks must call it equally often. (nn.SyncBatchNorm runs on GPUs alone.)
    """

    def forward(self, x_NC: Tensor) -> Tensor:
        """(N, C, *) to the same."""
        if self.training:
            return norm_over_ranks(self, x_NC)
        normed: Tensor = super().forward(x_NC)
        return normed

    def _check_input_dim(self, x_NC: Tensor) -> None:
        """Any number of axes."""


def span_ranks(model: nn.Module) -> None:
    """Replaces every batch norm of pictures and volumes by one of the same weights and buffers."""
    replace_norms(model, (nn.BatchNorm2d, nn.BatchNorm3d), SpanningBatchNorm)
