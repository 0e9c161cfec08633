"""The audio network: ResDAVEnet over log-mel spectrograms, blind to padding.

Shapes: B clips, M mel bins, T time steps, C channels, K taps of a kernel. Between its layers a
(B, C, T) tensor lies in memory as (B, T, C): what convolution and batch norm are fastest on.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

KERNEL = 9
WIDE = 1024
"""Channels from which on a CPU multiplies one large matrix faster than it convolves."""


class TimeConvolution(nn.Conv1d):
    """A `Conv1d` without bias, on tensors that lie as (B, T, C): the same numbers but for rounding.

    Forward and backward on one thread of a CPU: 1.2 times as fast as `Conv1d`, as an image of
    height 1, and 1.3 times for wide kernels, as a matrix product with every step's K neighbours.
    """

    def forward(self, x_BCT: Tensor) -> Tensor:
        """(B, C, T) to (B, C', T / stride, rounded up)."""
        assert isinstance(self.padding, tuple)
        (taps,), (stride,), (padding,) = self.kernel_size, self.stride, self.padding
        if taps > 1 and self.in_channels >= WIDE and x_BCT.device.type == "cpu":
            padded_BTC = nn.functional.pad(x_BCT.transpose(1, 2), (0, 0, padding, padding))
            windows_BTCK = padded_BTC.unfold(1, taps, stride)
            y_BTC = windows_BTCK.flatten(2) @ self.weight.flatten(1).t()
            return y_BTC.transpose(1, 2)
        image_BC1T = x_BCT.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        y_BC1T = nn.functional.conv2d(
            image_BC1T, self.weight.unsqueeze(2), None, (1, stride), (0, padding)
        )
        return y_BC1T.squeeze(2)


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch norm over the valid time steps alone; the others come out as zero.

    With fewer than two valid steps in a training batch the running statistics are used, since
    one value has no variance.
    """

    def forward(self, x_BCT: Tensor, valid_BT: Tensor | None = None) -> Tensor:
        """(B, C, T) to (B, C, T), or (B, C) to (B, C). `valid_BT` None: every step is valid."""
        if x_BCT.ndim == 2:
            return super().forward(x_BCT)
        x_BTC = x_BCT.transpose(1, 2)
        if valid_BT is None:
            return super().forward(x_BTC.flatten(0, 1)).view_as(x_BTC).transpose(1, 2)
        rows_NC = x_BTC[valid_BT]
        if self.training and len(rows_NC) < 2:
            normed_NC = nn.functional.batch_norm(
                rows_NC, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        else:
            normed_NC = super().forward(rows_NC)
        out_BTC = torch.zeros_like(x_BTC, dtype=normed_NC.dtype)
        out_BTC[valid_BT] = normed_NC
        return out_BTC.transpose(1, 2)


class ResidualBlock(nn.Module):
    """conv(9) BN ReLU conv(9) BN, plus the input (1x1 conv and BN where it is strided), ReLU."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        padding = KERNEL // 2
        self.conv1 = TimeConvolution(width_in, width, KERNEL, stride, padding, bias=False)
        self.norm1 = MaskedBatchNorm(width)
        self.conv2 = TimeConvolution(width, width, KERNEL, 1, padding, bias=False)
        self.norm2 = MaskedBatchNorm(width)
        self.shortcut: TimeConvolution | None = None
        if stride > 1 or width_in != width:
            self.shortcut = TimeConvolution(width_in, width, 1, stride, bias=False)
            self.shortcut_norm = MaskedBatchNorm(width)

    def forward(self, x_BCT: Tensor, valid_BT: Tensor | None) -> Tensor:
        """`valid_BT` is that of the output, whose time is divided by the stride."""
        y_BCT = torch.relu(self.norm1(self.conv1(x_BCT), valid_BT))
        y_BCT = self.norm2(self.conv2(y_BCT), valid_BT)
        if self.shortcut is not None:
            x_BCT = self.shortcut_norm(self.shortcut(x_BCT), valid_BT)
        return torch.relu(x_BCT + y_BCT)


class Davenet(nn.Module):
    """Spectrogram to one vector (MCN: audio branch; Hsu et al. 2019, ResDAVEnet).

    A convolution collapses frequency, then each residual stage halves the time, rounding up:
    1000 frames become 63 steps after four stages. The output is the mean over time, u >= 0.

    With `mask_padding` padded steps are zero before every convolution, as beyond the border, and
    are left out of batch norm and mean: a clip's vector does not depend on how far it is padded.
    Without it, as in the official code, training averages over all steps and evaluation over the
    first max(1, frames // reduction) ones.
    """

    def __init__(self, mels: int, widths: Sequence[int], blocks: int, mask_padding: bool) -> None:
        super().__init__()
        self.mask_padding = mask_padding
        self.reduction: int = 2 ** len(widths)
        self.width: int = widths[-1]
        # the official (mels, 1) kernel over a (1, mels, T) image
        self.collapse = TimeConvolution(mels, widths[0], 1, bias=False)
        self.norm = MaskedBatchNorm(widths[0])
        self.stages = nn.ModuleList(
            nn.ModuleList(
                ResidualBlock(before if i == 0 else width, width, 2 if i == 0 else 1)
                for i in range(blocks)
            )
            for before, width in zip([widths[0], *widths[:-1]], widths, strict=True)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv1d):  # He et al. 2015, fan-out: N(0, sqrt(2 / (k C)))
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, spectrogram_BMT: Tensor, frames_B: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T / reduction) before pooling, and how many of its steps are valid, (B,)."""
        steps_B = frames_B
        x_BCT = self.collapse(spectrogram_BMT)
        x_BCT = torch.relu(self.norm(x_BCT, self._valid(steps_B, x_BCT.shape[2])))
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            steps_B = (steps_B + 1) // 2
            valid_BT = self._valid(steps_B, (x_BCT.shape[2] + 1) // 2)
            for block in stage:
                x_BCT = block(x_BCT, valid_BT)
        return x_BCT, steps_B

    def forward(self, spectrogram_BMT: Tensor, frames_B: Tensor) -> Tensor:
        """u (B, C) from decibels (B, M, T) of which the first `frames_B` frames are sound.

        A clip of no frames gives zeros under `mask_padding`.
        """
        x_BCT, steps_B = self.features(spectrogram_BMT, frames_B)
        if not self.mask_padding:
            if self.training:
                return x_BCT.mean(dim=2)
            steps_B = (frames_B // self.reduction).clamp(min=1)
        weight_BT = _first(steps_B, x_BCT.shape[2]).to(x_BCT.dtype)
        sum_BC = (x_BCT * weight_BT[:, None]).sum(dim=2)
        return sum_BC / weight_BT.sum(dim=1, keepdim=True).clamp(min=1)

    def _valid(self, steps_B: Tensor, length: int) -> Tensor | None:
        return _first(steps_B, length) if self.mask_padding else None


def _first(steps_B: Tensor, length: int) -> Tensor:
    """(B, length) mask of the first `steps_B` steps."""
    return torch.arange(length, device=steps_B.device) < steps_B[:, None]
