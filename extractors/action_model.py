"""Actions: torchvision's video networks, one row a window of frames.

The papers' 3D features: windows of 16 frames at 24 frames/s, 112 x 112, not overlapping, the last
one padded with zeros; rows L2-normalised (antoine77340/video_feature_extractor).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from extractors.config import ActionModelConfig
from extractors.extractor import Resources, TrackSpec
from extractors.torch_model import forward, load_state_dict, load_weights, model_dtype
from extractors.views import FrameView
from extractors.weights import locate, weights_digest
from extractors.windows import Window, Windowing

MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)  # torchvision's, Kinetics
DIM = 512


class ActionModel:
    """torchvision's video ResNets: r3d_18, mc3_18, r2plus1d_18."""

    resources = Resources(gpus=0.25, memory_mb=1000)

    def __init__(self, config: ActionModelConfig) -> None:
        self._config = config
        self._model: nn.Module | None = None
        hop = config.window / config.rate
        self.batch_size = config.batch_size
        self.windowing = Windowing(size=config.window, step=config.window, tail="zero")
        self.spec = TrackSpec(DIM, "float16", start=hop / 2, hop=hop, version=1)
        self.view = FrameView(config.rate, config.size, config.size, fit="crop")

    @property
    def weights_sha256(self) -> str:
        """Of the registry's file, or of the local one."""
        return weights_digest(self._config.model, self._config.weights)

    def setup(self, device: torch.device) -> None:
        """Loads the network. Raises AbortError where its weights are missing or do not fit."""
        import torchvision

        path = locate(self._config.model, self._config.weights, "extractors.*.weights")
        model = torchvision.models.get_model(self._config.model)
        load_weights(model, load_state_dict(path), path, self._config.model)
        model.fc = nn.Identity()
        self._device = device
        self._mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1, 1)
        self._std = torch.tensor(STD, device=device).view(1, 3, 1, 1, 1)
        self._model = model.to(device, model_dtype(self._config.precision)).eval()

    def extract(self, windows: Sequence[Window]) -> list[NDArray[np.float32]]:
        """(1, 512) a window."""
        assert self._model is not None, "extract before setup"
        frames = torch.from_numpy(np.stack([window.data for window in windows]))
        pixels = frames.to(self._device).permute(0, 4, 1, 2, 3).float() / 255
        rows = forward(self._model, (pixels - self._mean) / self._std)
        return [row[None] for row in nn.functional.normalize(rows, dim=1).cpu().numpy()]

    def finish(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """A window's row needs no other window."""
        return rows

    def close(self) -> None:
        """Frees the network."""
        self._model = None
