"""2D convolutions in place of 3D ones, against the 3D ones."""

import pytest
import torch
from torch import nn

from extractors.flat_convolutions import FlatConvolution, flatten_convolutions

SPACE = {"kernel_size": (1, 3, 5), "padding": (0, 1, 2)}
TIME = {"kernel_size": (3, 1, 1), "padding": (1, 0, 0)}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    "given",
    [
        SPACE,
        SPACE | {"stride": (2, 2, 1)},
        SPACE | {"dilation": (1, 2, 1), "bias": False},
        SPACE | {"groups": 2},
        TIME,
        TIME | {"stride": (2, 1, 1)},
        TIME | {"dilation": (2, 1, 1), "bias": False},
        {"kernel_size": 1, "stride": (2, 2, 2)},
    ],
)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last_3d])
def test_a_layer_is_the_same_function(given, order):
    layer = nn.Conv3d(6, 4, **given)
    inputs = torch.randn(2, 6, 5, 9, 8).contiguous(memory_format=order)
    flat = flatten_convolutions(nn.Sequential(layer))
    assert isinstance(flat[0], FlatConvolution)
    with torch.inference_mode():
        expected = layer(inputs)
        # sums of at most 90 products in another order
        torch.testing.assert_close(flat(inputs), expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    "given",
    [
        {"kernel_size": 3},
        {"kernel_size": (3, 1, 1), "stride": 2},
        {"kernel_size": (1, 3, 3), "padding": 1},
        {"kernel_size": (1, 3, 3), "padding": "same"},
        {"kernel_size": (3, 1, 1), "padding": (1, 0, 0), "padding_mode": "replicate"},
    ],
)
def test_other_layers_are_left(given):
    layer = nn.Conv3d(6, 4, **given)
    assert flatten_convolutions(nn.Sequential(layer))[0] is layer
