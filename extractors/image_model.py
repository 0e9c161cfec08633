"""2D networks: one row a frame, the global average of the last feature map.

MCN's features: ResNet-152 at 1 frame/s, short side 224, whole frame, L2-normalised rows
(antoine77340/video_feature_extractor).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.fx.experimental.optimization import fuse

from extractors.config import ImageModelConfig
from extractors.extractor import Blocks, Resources, TrackSpec
from extractors.image_networks import HF, check_size, image_facts, load_network
from extractors.torch_model import as_rows, forward, to_precision
from extractors.views import FrameView
from extractors.weights import check_source, locate, weights_digest
from extractors.windows import Window, Windowing


class ImageModel:
    """Any network of extractors.image_networks; rows of length 1, unless `normalise` is off."""

    resources = Resources(gpus=0.25, memory_mb=600)
    windowing = Windowing(size=1, step=1)

    def __init__(self, config: ImageModelConfig) -> None:
        self._config = config
        self._model: nn.Module | None = None
        self._is_resnet = config.model.startswith("resnet")
        hop = 1 / config.rate
        self.batch_size = config.batch_size
        self._facts = image_facts(config.model)
        version = 2 if self._is_resnet else 1  # whose batch norms are folded
        self.spec = TrackSpec(self._facts.dim, config.dtype, hop / 2, hop, version)
        self.view = FrameView(config.rate, config.size, config.size, config.fit)
        long_side = config.size if config.fit == "crop" else 2 * config.size
        check_size(config.model, config.size, long_side)

    @property
    def weights_sha256(self) -> str:
        """Of the registry's file, or of the local one."""
        return weights_digest(*self._source())

    def _source(self) -> tuple[str, str | None]:
        """The registry's name and the local file that takes its place."""
        model, weights = self._config.model, self._config.weights
        if model.startswith(HF):
            return model, model.removeprefix(HF)
        check_source(model, weights, "extractors.*.weights")
        return model, weights

    def setup(self, device: torch.device) -> None:
        """Loads the network. Raises AbortError where its weights are missing or do not fit."""
        path: Path = locate(*self._source(), "extractors.*.weights")
        model = load_network(self._config.model, path)
        self._mean = torch.tensor(self._facts.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(self._facts.std, device=device).view(1, 3, 1, 1)
        self._device = device
        if self._is_resnet and device.type == "cpu":  # a pass over memory less a norm: an eighth
            model = fuse(model.eval())
        model = to_precision(model, device, self._config.precision)
        self._model = model.to(memory_format=torch.channels_last)

    def extract(self, windows: Sequence[Window]) -> list[NDArray[np.float32]]:
        """(1, dim) a frame. Frames of different sizes (`fit: whole`) go one size at a time."""
        rows: dict[int, NDArray[np.float32]] = {}
        for shape in dict.fromkeys(window.data.shape for window in windows):
            numbers = [i for i, window in enumerate(windows) if window.data.shape == shape]
            frames = np.concatenate([windows[i].data for i in numbers])
            rows |= zip(numbers, self._embed(frames), strict=True)
        return [rows[i][None] for i in range(len(windows))]

    def _embed(self, frames: NDArray[np.generic]) -> NDArray[np.float32]:
        assert self._model is not None, "extract before setup"
        pixels = torch.from_numpy(frames).to(self._device).permute(0, 3, 1, 2)
        normalised = (pixels.float() / 255 - self._mean) / self._std
        rows = forward(self._model, normalised.contiguous(memory_format=torch.channels_last))
        return as_rows(rows, normalise=self._config.normalise)

    def finish(self, blocks: Blocks) -> Blocks:
        """A frame's row needs no other frame."""
        return blocks

    def close(self) -> None:
        """Frees the network."""
        self._model = None
