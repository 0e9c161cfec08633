"""3D ResNeXt-101 (Hara, Kataoka and Satoh, 2018), the papers' 3D network: its trunk, 2048-d.

    conv1 7x7x7, 64, stride (1, 2, 2) ▸ 3x3x3 max pooling, stride 2 ▸ four stages of 3, 4, 23 and 3
    blocks of 128, 256, 512 and 1024 planes, halving time and space from the second stage on ▸ mean
    block: 1x1x1 ▸ 3x3x3 in 32 groups ▸ 1x1x1 to twice the planes, each with batch normalisation;
    shortcut B: a 1x1x1 convolution where the shape changes, else the input itself

Parameters carry the names of the published checkpoints: `resnext-101-kinetics.pth` of
kenshohara/3D-ResNets-PyTorch (a dict with `state_dict`, names behind `module.`), and the one of
antoine77340/video_feature_extractor that made HowTo100M's features (a bare state dict).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

CARDINALITY = 32
PLANES = (128, 256, 512, 1024)
BLOCKS = (3, 4, 23, 3)
EXPANSION = 2
DIM = EXPANSION * PLANES[-1]
SIZE = 112
MEAN = (110.6, 103.2, 96.3)  # of pixels in 0..255, subtracted; not divided by anything
CLASSIFIER = "fc."


class ResNeXt3d(nn.Module):
    """(B, 3, 16, 112, 112) pixels less their mean to (B, 2048); other sizes work too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        widths = [64, *(EXPANSION * planes for planes in PLANES)]
        self.layer1 = _stage(widths[0], PLANES[0], BLOCKS[0], stride=1)
        self.layer2 = _stage(widths[1], PLANES[1], BLOCKS[1], stride=2)
        self.layer3 = _stage(widths[2], PLANES[2], BLOCKS[2], stride=2)
        self.layer4 = _stage(widths[3], PLANES[3], BLOCKS[3], stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """The mean of the last feature map: of 1 x 4 x 4 places for 16 frames of 112 x 112."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = nn.functional.max_pool3d(x, 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean((2, 3, 4))


class Bottleneck(nn.Module):
    """One block of a stage."""

    def __init__(self, in_channels: int, planes: int, stride: int) -> None:
        super().__init__()
        channels = EXPANSION * planes
        self.conv1 = nn.Conv3d(in_channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(planes)
        self.conv2 = nn.Conv3d(
            planes, planes, 3, stride=stride, padding=1, groups=CARDINALITY, bias=False
        )
        self.bn2 = nn.BatchNorm3d(planes)
        self.conv3 = nn.Conv3d(planes, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv3d(in_channels, channels, 1, stride=stride, bias=False),
                nn.BatchNorm3d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, T, H, W) to (B, 2 * planes, T / stride, H / stride, W / stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + self.downsample(x))


def _stage(in_channels: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, planes, stride)
    rest = (Bottleneck(EXPANSION * planes, planes, stride=1) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


def trunk_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The trunk's tensors of a published checkpoint: bare or under `state_dict`, with `module.`
    before each name or without; the classifier is left out."""
    nested = checkpoint.get("state_dict")
    state = nested if isinstance(nested, Mapping) else checkpoint
    names = {name.removeprefix("module."): value for name, value in state.items()}
    return {name: value for name, value in names.items() if not name.startswith(CLASSIFIER)}
