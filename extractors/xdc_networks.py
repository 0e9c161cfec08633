"""XDC's encoders: R(2+1)D over frames and a ResNet over log-mel, each one vector a clip.

The video encoder is made of torchvision's blocks and names its weights as they do; as in XDC's code
the channels between a convolution over space and the one over time follow from that pair's own
widths (torchvision's Kinetics networks differ there). At the paper's widths it holds the published
weights (HumamAlwassel/XDC, model/r2plus1d_18.py). Trained from scratch, so no stem was changed.

Convolutions over space or time alone run as 2D ones on channels-last memory, forth and back, on any
device: a clip's frames lie one after the other there, so neither needs a copy.
Volumes are (clips, channels, frames, height, width), planes (…, channels, height, width).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock as SoundBlock
from torchvision.models.video.resnet import BasicBlock as ClipBlock

from extractors.xdc_config import AudioEncoderConfig, VideoEncoderConfig

NORM_EPS = 1e-3
"""Of the video encoder's batch norm (XDC's code)."""
STEM_SHARE = 45 / 64
"""Channels between the stem's two convolutions, of those that come out (torchvision)."""


class VideoEncoder(nn.Module):
    """(N, 3, T, H, W) normalised frames to (N, widths[-1]): the mean over time and space."""

    def __init__(self, config: VideoEncoderConfig) -> None:
        super().__init__()
        first = config.widths[0]
        between = max(1, round(first * STEM_SHARE))
        self.stem = nn.Sequential(
            _over_space(3, between, kernel=7, stride=2),
            nn.BatchNorm3d(between),
            nn.ReLU(inplace=True),
            _over_time(between, first, stride=1),
            nn.BatchNorm3d(first),
            nn.ReLU(inplace=True),
        )
        self.stages = _name_stages(self, _clip_stages(config.widths, config.blocks))
        self.dim = config.widths[-1]
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eps, module.momentum = NORM_EPS, config.norm_momentum
        _start(self)

    def forward(self, frames: Tensor) -> Tensor:
        """N may be 0."""
        volume = self.stem(frames.contiguous(memory_format=torch.channels_last_3d))
        for name in self.stages:
            volume = self.get_submodule(name)(volume)
        rows: Tensor = volume.mean(dim=(2, 3, 4))
        return rows


class AudioEncoder(nn.Module):
    """(N, 1, bands, rows) normalised log-mel to (N, widths[-1]): ResNet's stem, stages, mean."""

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        first = config.widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(1, first, kernel_size=7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.stages = _name_stages(self, _sound_stages(config.widths, config.blocks))
        self.dim = config.widths[-1]
        _start(self)

    def forward(self, mel: Tensor) -> Tensor:
        """N may be 0."""
        maps = self.stem(mel.contiguous(memory_format=torch.channels_last))
        for name in self.stages:
            maps = self.get_submodule(name)(maps)
        rows: Tensor = maps.mean(dim=(2, 3))
        return rows


class SpaceConvolution(nn.Conv3d):
    """A convolution of kernel (1, k, k); a stride over time leaves frames out."""

    def forward(self, volume: Tensor) -> Tensor:
        """In and out in channels-last memory."""
        volume = volume[:, :, :: self.stride[0]]
        number, channels, frames, height, width = volume.shape
        planes = volume.transpose(1, 2).reshape(number * frames, channels, height, width)
        found = _on_planes(planes, self.weight[:, :, 0], self.stride[1:], _sides(self)[1:])
        return found.view(number, frames, *found.shape[1:]).transpose(1, 2)


class TimeConvolution(nn.Conv3d):
    """A convolution of kernel (k, 1, 1)."""

    def forward(self, volume: Tensor) -> Tensor:
        """In and out in channels-last memory."""
        number, channels, frames, height, width = volume.shape
        planes = volume.reshape(number, channels, frames, height * width)
        stride, padding = (self.stride[0], 1), (_sides(self)[0], 0)
        found = _on_planes(planes, self.weight[..., 0], stride, padding)
        return found.view(*found.shape[:3], height, width)


def _on_planes(
    planes: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]
) -> Tensor:
    last = torch.channels_last
    planes, weight = planes.contiguous(memory_format=last), weight.contiguous(memory_format=last)
    return nn.functional.conv2d(planes, weight, None, stride, padding)


def _sides(layer: nn.Conv3d) -> tuple[int, ...]:
    """Its padding, which is never given as a word here."""
    assert not isinstance(layer.padding, str)
    return layer.padding


def _over_space(width_in: int, width: int, kernel: int, stride: int) -> nn.Conv3d:
    return SpaceConvolution(
        width_in, width, (1, kernel, kernel), (1, stride, stride),
        (0, kernel // 2, kernel // 2), bias=False,
    )  # fmt: skip


def _over_time(width_in: int, width: int, stride: int) -> nn.Conv3d:
    return TimeConvolution(width_in, width, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False)


def _conv2plus1d(width_in: int, width: int, _between: int, stride: int = 1) -> nn.Sequential:
    """As many weights as a 3 x 3 x 3 convolution between these widths has (R(2+1)D's formula)."""
    between = (width_in * width * 27) // (width_in * 9 + width * 3)
    return nn.Sequential(
        _over_space(width_in, between, kernel=3, stride=stride),
        nn.BatchNorm3d(between),
        nn.ReLU(inplace=True),
        _over_time(between, width, stride=stride),
    )


def _clip_stages(widths: Sequence[int], blocks: Sequence[int]) -> list[nn.Module]:
    stages, before = list[nn.Module](), widths[0]
    for number, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        stride, layers = (1 if number == 0 else 2), list[nn.Module]()
        for _ in range(count):
            shortcut = None
            if stride != 1 or before != width:
                shortcut = nn.Sequential(
                    SpaceConvolution(before, width, 1, (stride, stride, stride), bias=False),
                    nn.BatchNorm3d(width),
                )
            layers.append(ClipBlock(before, width, _conv2plus1d, stride, shortcut))
            stride, before = 1, width
        stages.append(nn.Sequential(*layers))
    return stages


def _sound_stages(widths: Sequence[int], blocks: Sequence[int]) -> list[nn.Module]:
    stages, before = list[nn.Module](), widths[0]
    for number, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        stride, layers = (1 if number == 0 else 2), list[nn.Module]()
        for _ in range(count):
            shortcut = None
            if stride != 1 or before != width:
                shortcut = nn.Sequential(
                    nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
                )
            layers.append(SoundBlock(before, width, stride, shortcut))
            stride, before = 1, width
        stages.append(nn.Sequential(*layers))
    return stages


def _name_stages(network: nn.Module, stages: Sequence[nn.Module]) -> tuple[str, ...]:
    """Adds them as layer1, layer2 …: torchvision's names."""
    names = tuple(f"layer{number}" for number in range(1, len(stages) + 1))
    for name, stage in zip(names, stages, strict=True):
        network.add_module(name, stage)
    return names


def _start(network: nn.Module) -> None:
    """Weights to train from, as torchvision's: He et al. 2015, fan-out; batch norm is as made."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
