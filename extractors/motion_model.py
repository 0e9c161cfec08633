"""Motion: TransNet V2's convolution trunk over windows of frames.

Its stacked dilated 3D convolutions carry motion (direction, zoom, cuts) but know no actions: a
stand-in for an action network that can be had without a model hub.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from extractors.config import MotionModelConfig
from extractors.extractor import Blocks, Resources, TrackSpec
from extractors.torch_model import as_rows, forward
from extractors.transnet import (
    CHANNELS,
    Trunk,
    load_transnet,
    rename_trunk,
    transnet_digest,
    transnet_view,
)
from extractors.windows import Window, Windowing

DIM = 3 * CHANNELS


class MotionModel:
    """One row a window: mean and deviation over time, second half minus first half."""

    resources = Resources(gpus=0.25, memory_mb=600)

    def __init__(self, config: MotionModelConfig) -> None:
        self._config = config
        self._model: nn.Module | None = None
        hop = config.window / config.rate
        self.batch_size = config.batch_size
        self.windowing = Windowing(size=config.window, step=config.window, tail="edge")
        self.spec = TrackSpec(DIM, "float16", start=hop / 2, hop=hop, version=1)
        self.view = transnet_view(config.rate)

    @property
    def weights_sha256(self) -> str:
        """Of the registry's file, or of the local one."""
        return transnet_digest(self._config.weights)

    def setup(self, device: torch.device) -> None:
        """Loads the trunk. Raises AbortError where its weights are missing or do not fit."""
        self._device = device
        self._model = load_transnet(Trunk(), rename_trunk, self._config.weights, device)

    def extract(self, windows: Sequence[Window]) -> list[NDArray[np.float32]]:
        """(1, 768) a window."""
        assert self._model is not None, "extract before setup"
        frames = torch.from_numpy(np.stack([window.data for window in windows]))
        pixels_BTCHW = frames.to(self._device).permute(0, 1, 4, 2, 3).float() / 255
        z_BTC = forward(self._model, pixels_BTCHW)
        half = z_BTC.shape[1] // 2
        change_BC = z_BTC[:, half:].mean(1) - z_BTC[:, :half].mean(1)
        rows = torch.cat([z_BTC.mean(1), z_BTC.std(1, correction=0), change_BC], dim=1)
        return [row[None] for row in as_rows(rows, normalise=True)]

    def finish(self, blocks: Blocks) -> Blocks:
        """A window's row needs no other window."""
        return blocks

    def close(self) -> None:
        """Frees the trunk."""
        self._model = None
