"""The fused trunk against TransNet V2's published one: plain 3D convolutions, the same weights."""

import pytest
import torch
from torch import nn

from extractors.torch_model import load_state_dict
from extractors.transnet import Trunk, rename_trunk
from extractors.weights import locate


class Separable(nn.Module):
    """Conv3DConfigurable: 1 x 3 x 3 in space, then 3 x 1 x 1 in time, no activation between."""

    def __init__(self, channels, filters, dilation):
        super().__init__()
        self.layers = nn.ModuleList([
            nn.Conv3d(channels, 2 * filters, (1, 3, 3), padding=(0, 1, 1), bias=False),
            nn.Conv3d(2 * filters, filters, (3, 1, 1), padding=(dilation, 0, 0),
                      dilation=(dilation, 1, 1), bias=False),
        ])  # fmt: skip

    def forward(self, x):
        return self.layers[1](self.layers[0](x))


class Block(nn.Module):
    """DilatedDCNNV2: four dilations side by side, batch normalisation, relu if asked."""

    def __init__(self, channels, filters, activation):
        super().__init__()
        self.activation = activation
        for dilation in (1, 2, 4, 8):
            setattr(self, f"Conv3D_{dilation}", Separable(channels, filters, dilation))
        self.bn = nn.BatchNorm3d(4 * filters, eps=1e-3)

    def forward(self, x):
        x = self.bn(torch.cat([getattr(self, f"Conv3D_{d}")(x) for d in (1, 2, 4, 8)], dim=1))
        return torch.relu(x) if self.activation else x


class Stage(nn.Module):
    """StackedDDCNNV2: relu after the second block, the first block's output added, pooled."""

    def __init__(self, channels, filters):
        super().__init__()
        self.DDCNN = nn.ModuleList(
            [Block(channels, filters, True), Block(4 * filters, filters, False)]
        )

    def forward(self, x):
        shortcut = self.DDCNN[0](x)
        x = torch.relu(self.DDCNN[1](shortcut)) + shortcut
        return nn.functional.avg_pool3d(x, (1, 2, 2))


class Published(nn.Module):
    """The part of TransNet V2 before its dense layers."""

    def __init__(self):
        super().__init__()
        self.SDDCNN = nn.ModuleList([Stage(3, 16), Stage(64, 32), Stage(128, 64)])

    def forward(self, x_BCTHW):
        for stage in self.SDDCNN:
            x_BCTHW = stage(x_BCTHW)
        return x_BCTHW.mean((3, 4)).transpose(1, 2)


@pytest.fixture(scope="module")
def state():
    return load_state_dict(locate("transnetv2", None, "-"))


def test_the_trunk_is_the_published_one(state):
    published = Published().eval()
    wanted = {name: value for name, value in state.items() if name in published.state_dict()}
    published.load_state_dict(wanted)
    trunk = Trunk().eval()
    trunk.load_state_dict(rename_trunk(state))
    x = torch.rand(2, 16, 27, 48, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = published(x.permute(0, 4, 1, 2, 3))
        found = trunk(x.permute(0, 1, 4, 2, 3))
    assert found.shape == (2, 16, 256)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
