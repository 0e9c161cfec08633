"""3D convolutions over space alone, or over time alone, run as 2D ones in channels-last order.

The (2+1)D networks are made of them. On a CPU this halves a forward pass of R(2+1)D-18 (float32,
one thread): for one window torch takes an unblocked `Conv3d` there. Rows differ by rounding, 1e-6
of the largest value at most.

    space  (N, C, T, H, W) ▸ (N T, C, H, W) ▸ kernel (kH, kW)
    time   (N, C, T, H, W) ▸ (N, C, T, H W) ▸ kernel (kT, 1)
"""

import torch
from torch import Tensor, nn


def flatten_convolutions(network: nn.Module) -> nn.Module:
    """The same network, changed in place: convolutions that 2D ones can stand for are those."""
    for name, layer in list(network.named_modules()):
        if name and isinstance(layer, nn.Conv3d) and (is_spatial(layer) or is_temporal(layer)):
            network.set_submodule(name, FlatConvolution(layer))
    return network


def is_spatial(layer: nn.Conv3d) -> bool:
    """Whether no output sees more than one moment."""
    return layer.kernel_size[0] == 1 and _is_plain(layer) and layer.padding[0] == 0


def is_temporal(layer: nn.Conv3d) -> bool:
    """Whether no output sees more than one place."""
    alone = layer.kernel_size[1:] == (1, 1) and layer.stride[1:] == (1, 1)
    return alone and _is_plain(layer) and tuple(layer.padding[1:]) == (0, 0)


def _is_plain(layer: nn.Conv3d) -> bool:
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


class FlatConvolution(nn.Module):
    """(N, C, T, H, W) in and out, as the `Conv3d` that it is made of."""

    def __init__(self, layer: nn.Conv3d) -> None:
        super().__init__()
        self._over_space = is_spatial(layer)
        stride, padding, dilation = layer.stride, layer.padding, layer.dilation
        assert not isinstance(padding, str)
        kept = slice(1, None) if self._over_space else slice(0, 1)
        rest = () if self._over_space else (1,)
        self._stride, self._dilation = (*stride[kept], *rest), (*dilation[kept], *rest)
        self._padding = tuple(padding[1:]) if self._over_space else (padding[0], 0)
        self._step = stride[0]
        self._groups = layer.groups
        weight = layer.weight.detach()
        weight = weight[:, :, 0] if self._over_space else weight[..., 0]
        last = torch.channels_last
        self.weight = nn.Parameter(weight.contiguous(memory_format=last), requires_grad=False)
        self.bias = layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """The same numbers but for rounding."""
        number, channels, _, height, width = inputs.shape
        if not self._over_space:
            rows = self._convolve(inputs.reshape(number, channels, -1, height * width))
            return rows.view(number, rows.shape[1], -1, height, width)
        frames = inputs[:, :, :: self._step].transpose(1, 2)
        maps = self._convolve(frames.reshape(-1, channels, height, width))
        return maps.view(number, -1, *maps.shape[1:]).transpose(1, 2)

    def _convolve(self, planes: Tensor) -> Tensor:
        planes = planes.contiguous(memory_format=torch.channels_last)
        return nn.functional.conv2d(
            planes, self.weight, self.bias, self._stride, self._padding, self._dilation,
            self._groups,
        )  # fmt: skip
