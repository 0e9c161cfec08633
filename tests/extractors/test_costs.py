"""Counted costs against what can be worked out by hand, and against the loaded networks."""

import pytest
import torchvision

from extractors.config import (
    ActionModelConfig,
    AudioModelConfig,
    ImageModelConfig,
    LogMelConfig,
    MeanColourConfig,
    MotionModelConfig,
    OnnxAudioConfig,
    PluginConfig,
    ShotsConfig,
)
from extractors.costs import cost_of


def test_a_resnet_costs_what_its_layers_do():
    cost = cost_of(ImageModelConfig(model="resnet18"))
    assert cost.gflop == pytest.approx(3.627, abs=0.001)  # 1.814 G multiply-adds without the head
    whole = torchvision.models.resnet18()
    head = sum(parameter.numel() for parameter in whole.fc.parameters())
    assert cost.parameters == sum(each.numel() for each in whole.parameters()) - head
    larger = cost_of(ImageModelConfig(model="resnet18", size=448))
    assert larger.gflop == pytest.approx(4 * cost.gflop)
    wide = cost_of(ImageModelConfig(model="resnet18", size=224, fit="whole"))
    assert wide.gflop == pytest.approx(398 / 224 * cost.gflop, rel=0.02)


def test_windows_count():
    short, long = (cost_of(MotionModelConfig(window=window)).gflop for window in (8, 16))
    assert long == pytest.approx(2 * short)
    action = cost_of(ActionModelConfig(model="resnext101_3d"))
    assert action.parameters == 47_521_216
    assert 18 < action.gflop < 20
    # the first convolution of TransNet V2's trunk alone: 100 frames for 50 rows
    assert cost_of(ShotsConfig()).gflop > 2 * 2 * 27 * 48 * 9 * 3 * 128 / 1e9


def test_small_and_unknown_costs():
    assert cost_of(LogMelConfig()).gflop < 1e-4
    assert cost_of(LogMelConfig(front_end="xdc")).gflop < cost_of(LogMelConfig()).gflop
    assert cost_of(MeanColourConfig()).parameters == 0
    for config in (PluginConfig(name="x"), OnnxAudioConfig(weights="x"),
                   AudioModelConfig(weights="x")):  # fmt: skip
        assert cost_of(config) is None
