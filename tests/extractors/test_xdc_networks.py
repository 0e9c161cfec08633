"""XDC's encoders against torchvision's, whose numbers they must give."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.video import resnet

from extractors.xdc_config import AudioEncoderConfig, VideoEncoderConfig
from extractors.xdc_networks import AudioEncoder, SpaceConvolution, TimeConvolution, VideoEncoder

SMALL = VideoEncoderConfig(widths=(4, 8, 6), blocks=(1, 2, 1))


class PublishedConvolution(resnet.Conv2Plus1D):
    """As in XDC's code: the channels between follow from its own widths."""

    def __init__(
        self, width_in: int, width: int, between: int, stride: int = 1, padding: int = 1
    ) -> None:
        between = (width_in * width * 27) // (width_in * 9 + 3 * width)
        super().__init__(width_in, width, between, stride, padding)


def published_network() -> nn.Module:
    """torchvision's, as XDC's hub file makes it, in double precision."""
    network = resnet.VideoResNet(
        resnet.BasicBlock, [PublishedConvolution] * 4, [2, 2, 2, 2], resnet.R2Plus1dStem
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    network.fc = nn.Identity()
    return network.double()


def test_at_the_papers_widths_it_is_the_published_network() -> None:
    """Forth and back, in double precision: only the order of sums differs."""
    torch.manual_seed(0)
    expected = published_network().train()
    found = VideoEncoder(VideoEncoderConfig()).double().train()
    assert found.dim == 512
    found.load_state_dict(expected.state_dict())
    frames = torch.randn(2, 3, 4, 32, 32, dtype=torch.float64)
    weights = torch.randn(2, 512, dtype=torch.float64)
    (expected(frames) * weights).sum().backward()
    (found(frames) * weights).sum().backward()
    gradients = {name: weight.grad for name, weight in expected.named_parameters()}
    for name, weight in found.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name], rtol=1e-6, atol=1e-7)
    state = expected.state_dict()
    for name, value in found.state_dict().items():  # batch norm has seen the same
        torch.testing.assert_close(value, state[name], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.eval()(frames), expected.eval()(frames))


@pytest.mark.parametrize("stride", [(1, 2, 2), (2, 2, 2), (1, 1, 1)])
def test_space_convolutions(stride: tuple[int, int, int]) -> None:
    layer = SpaceConvolution(3, 5, (1, 3, 3), stride, (0, 1, 1), bias=False)
    volume = torch.randn(2, 3, 5, 7, 6)
    expected = nn.functional.conv3d(volume, layer.weight, None, stride, (0, 1, 1))
    torch.testing.assert_close(layer(volume), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_time_convolutions(stride: int) -> None:
    layer = TimeConvolution(3, 5, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False)
    volume = torch.randn(2, 3, 5, 7, 6)
    expected = nn.functional.conv3d(volume, layer.weight, None, (stride, 1, 1), (1, 0, 0))
    torch.testing.assert_close(layer(volume), expected, rtol=1e-5, atol=1e-5)


def test_the_audio_encoder_is_resnet18_of_one_channel() -> None:
    encoder, expected = AudioEncoder(AudioEncoderConfig()), resnet18()
    expected.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    expected.fc = nn.Identity()
    stem = {"conv1.": "stem.0.", "bn1.": "stem.1."}
    state = {}
    for name, value in expected.state_dict().items():
        part = next((p for p in stem if name.startswith(p)), "")
        state[stem.get(part, "") + name.removeprefix(part)] = value
    encoder.load_state_dict(state)
    mel = torch.randn(2, 1, 40, 100)
    torch.testing.assert_close(
        encoder.eval()(mel), expected.eval()(mel), rtol=1e-4, atol=1e-5
    )  # channels last: sums in another order


def test_depth_and_width_are_settable_and_no_clip_is_a_clip_too() -> None:
    encoder = VideoEncoder(SMALL)
    assert encoder(torch.randn(2, 3, 3, 20, 16)).shape == (2, 6)
    assert encoder.eval()(torch.zeros(0, 3, 3, 20, 16)).shape == (0, 6)
    sound = AudioEncoder(AudioEncoderConfig(widths=(4, 8), blocks=(1, 1))).eval()
    assert sound(torch.zeros(0, 1, 40, 100)).shape == (0, 8)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="one a stage, as many as widths"):
        VideoEncoderConfig(widths=(4, 8), blocks=(1,))
    with pytest.raises(ValueError, match="at most short_side = 128"):
        VideoEncoderConfig(size=200)
