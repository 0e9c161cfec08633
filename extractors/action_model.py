"""Actions: torchvision's video networks and the papers' ResNeXt, one row a window of frames.

The papers' 3D features: windows of 16 frames at 24 frames/s, 112 x 112, not overlapping, the last
one padded with zeros; rows L2-normalised (antoine77340/video_feature_extractor). What a network
expects (size, mean, deviation) is torchvision's own metadata of its weights (`resnext101_3d`:
extractors.resnext_3d); its row is what enters the classifier.
"""

import difflib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.fx.experimental.optimization import fuse

from extractors.config import ActionModelConfig
from extractors.errors import UsageError
from extractors.extractor import Blocks, Resources, TrackSpec
from extractors.flat_convolutions import flatten_convolutions
from extractors.resnext_3d import DIM, SIZE, ResNeXt3d, trunk_state
from extractors.resnext_3d import MEAN as RESNEXT_MEAN
from extractors.torch_model import (
    as_rows,
    forward,
    load_state_dict,
    load_weights,
    one_line,
    to_precision,
)
from extractors.views import FrameView
from extractors.weights import check_source, locate, weights_digest
from extractors.windows import Window, Windowing

# known without loading anything: the video ResNets (dim, side of the crop)
RESNETS = {"r3d_18": (512, 112), "mc3_18": (512, 112), "r2plus1d_18": (512, 112)}
MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)  # theirs, Kinetics
S3D_DIM = 1024
RESNEXT = "resnext101_3d"


@dataclass(frozen=True)
class ActionFacts:
    """What a network gives and what it expects."""

    dim: int
    size: int
    """Pixels of the centre crop's side."""
    mean: tuple[float, float, float]
    """Of pixels in 0..1, subtracted."""
    std: tuple[float, float, float]
    """Divided by."""


class ActionModel:
    """Any network of `action_facts`; rows of length 1, unless `normalise` is off."""

    resources = Resources(gpus=0.25, memory_mb=1000)

    def __init__(self, config: ActionModelConfig) -> None:
        self._config = config
        self._model: nn.Module | None = None
        hop = config.window / config.rate
        self._facts = action_facts(config.model)
        check_window(config.model, config.window, config.size)
        self.batch_size = config.batch_size
        self.windowing = Windowing(size=config.window, step=config.window, tail="zero")
        self.spec = TrackSpec(self._facts.dim, config.dtype, start=hop / 2, hop=hop, version=2)
        self.view = FrameView(config.rate, config.size, config.size, fit="crop")

    @property
    def weights_sha256(self) -> str:
        """Of the registry's file, or of the local one. Raises AbortError where there is none."""
        model, weights = self._config.model, self._config.weights
        check_source(model, weights, "extractors.*.weights")
        return weights_digest(model, weights)

    def setup(self, device: torch.device) -> None:
        """Loads the network. Raises AbortError where its weights are missing or do not fit."""
        name = self._config.model
        path = locate(name, self._config.weights, "extractors.*.weights")
        model = _build(name)
        state = load_state_dict(path)
        load_weights(model, trunk_state(state) if name == RESNEXT else state, path, name)
        if device.type == "cpu":
            if name in RESNETS:  # there a batch norm is a pass over memory of its own: a sixth
                model = fuse(model.eval())
            model = flatten_convolutions(model)
        self._device = device
        self._mean = torch.tensor(self._facts.mean, device=device).view(1, 3, 1, 1, 1)
        self._std = torch.tensor(self._facts.std, device=device).view(1, 3, 1, 1, 1)
        self._model = to_precision(headless(model), device, self._config.precision)

    def extract(self, windows: Sequence[Window]) -> list[NDArray[np.float32]]:
        """(1, dim) a window."""
        assert self._model is not None, "extract before setup"
        frames = torch.from_numpy(np.stack([window.data for window in windows]))
        pixels = frames.to(self._device).permute(0, 4, 1, 2, 3).float() / 255
        rows = forward(self._model, (pixels - self._mean) / self._std)
        return [row[None] for row in as_rows(rows, normalise=self._config.normalise)]

    def finish(self, blocks: Blocks) -> Blocks:
        """A window's row needs no other window."""
        return blocks

    def close(self) -> None:
        """Frees the network."""
        self._model = None


@functools.cache
def action_facts(name: str) -> ActionFacts:
    """Read without weights. Raises UsageError for a name that torchvision does not know."""
    if name in RESNETS:
        return ActionFacts(*RESNETS[name], MEAN, STD)
    if name == RESNEXT:
        red, green, blue = (value / 255 for value in RESNEXT_MEAN)
        return ActionFacts(DIM, SIZE, (red, green, blue), (1 / 255, 1 / 255, 1 / 255))
    network = empty_network(name)
    import torchvision

    preset: Any = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    dim = linear[-1].in_features if linear else S3D_DIM
    return ActionFacts(dim, preset.crop_size[0], tuple(preset.mean), tuple(preset.std))


def check_window(name: str, window: int, size: int) -> None:
    """Raises UsageError where the network cannot take windows of this shape."""
    if name in RESNETS or name == RESNEXT:
        return  # convolutions and a mean: any shape
    try:
        with torch.inference_mode():
            empty_network(name)(torch.zeros(1, 3, window, size, size, device="meta"))
    except (RuntimeError, ValueError) as err:
        raise UsageError(
            f"extractors.*.window, size: {name} cannot take {window} frames of {size}x{size} "
            f"({one_line(err)[:80]}); use window=16 and size={action_facts(name).size}"
        ) from err


def headless(network: nn.Module) -> nn.Module:
    """The same network without its classifier."""
    linear = [key for key, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    if linear:
        network.set_submodule(linear[-1], nn.Identity())
    elif hasattr(network, "classifier"):  # S3D's is a convolution, before the mean over time
        network.classifier = nn.Identity()
    return network


@functools.cache
def empty_network(name: str) -> nn.Module:
    """The whole network on the meta device: shapes without numbers."""
    with torch.device("meta"):
        return _build(name).eval()


def _build(name: str) -> nn.Module:
    """With random weights. Raises UsageError for an unknown name."""
    if name == RESNEXT:
        return ResNeXt3d()
    import torchvision

    known = [*torchvision.models.list_models(module=torchvision.models.video), RESNEXT]
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0)) or "none"
        raise UsageError(f"action model {name!r}: not known; near it: {near}")
    model: nn.Module = torchvision.models.get_model(name)
    return model
