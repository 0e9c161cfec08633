"""What a row costs, counted before anything is loaded: multiply-adds of one forward pass.

Networks run on torch's meta device under its own counter (convolutions, matrix products and
attention; not the elementwise rest, nor decoding). FLOP are two a multiply-add.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from math import log2, prod

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from extractors.config import (
    ActionModelConfig,
    ExtractorConfig,
    ImageModelConfig,
    LogMelConfig,
    MeanColourConfig,
    MotionModelConfig,
    ShotsConfig,
)

GIGA = 1e9


@dataclass(frozen=True)
class Cost:
    """Of one row."""

    gflop: float
    """10^9 floating-point operations."""
    parameters: int
    """Of the network, 0 without one."""


def cost_of(config: ExtractorConfig) -> Cost | None:
    """None for extractors whose network is a file of the user's, or code of another distribution.

    Raises UsageError as building the extractor does.
    """
    match config:
        case ImageModelConfig():
            return _image(config)
        case ActionModelConfig():
            return _action(config)
        case MotionModelConfig():
            return _motion(config)
        case ShotsConfig():
            return _shots(config)
        case LogMelConfig():
            return _log_mel(config)
        case MeanColourConfig():
            return Cost(3 * 32 * 32 / GIGA, 0)
    return None


@functools.cache
def _image(config: ImageModelConfig) -> Cost:
    """`fit: whole` is counted for a picture of 16:9."""
    from extractors.image_networks import empty_network

    width = config.size if config.fit == "crop" else 2 * round(config.size * 8 / 9)
    return _count(lambda: empty_network(config.model), (1, 3, config.size, width))


@functools.cache
def _action(config: ActionModelConfig) -> Cost:
    from extractors.action_model import empty_network

    shape = (1, 3, config.window, config.size, config.size)
    return _count(lambda: empty_network(config.model), shape)


@functools.cache
def _motion(config: MotionModelConfig) -> Cost:
    from extractors.transnet import HEIGHT, WIDTH, Trunk

    return _count(Trunk, (1, config.window, 3, HEIGHT, WIDTH))


@functools.cache
def _shots(config: ShotsConfig) -> Cost:
    from extractors.shots import OWN, Shots
    from extractors.transnet import HEIGHT, WIDTH, TransNet

    whole = _count(TransNet, (1, Shots.windowing.size, 3, HEIGHT, WIDTH))
    return Cost(whole.gflop / OWN, whole.parameters)


def _log_mel(config: LogMelConfig) -> Cost:
    """A real FFT (2.5 n log2 n), powers, and the filters as a dense matrix."""
    from extractors.log_mel import WINDOW, XDC_WINDOW

    window = XDC_WINDOW if config.front_end == "xdc" else WINDOW
    bins = window // 2 + 1
    return Cost((2.5 * window * log2(window) + 3 * bins + 2 * bins * config.bands) / GIGA, 0)


def _count(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> Cost:
    """Of a network for one window of this shape."""
    with torch.device("meta"):
        network = build().eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(shape, device="meta"))
    parameters = sum(prod(each.shape) for each in network.parameters())
    return Cost(counter.get_total_flops() / GIGA, parameters)
