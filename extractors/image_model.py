"""2D networks: one row a frame, the global average of the last feature map.

MCN's features: ResNet-152 at 1 frame/s, short side 224, whole frame, L2-normalised rows
(antoine77340/video_feature_extractor).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from extractors.config import ImageModelConfig, ImageNetwork
from extractors.extractor import Resources, TrackSpec
from extractors.torch_model import forward, load_state_dict, load_weights, model_dtype
from extractors.views import FrameView
from extractors.weights import locate, weights_digest
from extractors.windows import Window, Windowing

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE = (127 / 255,) * 3, (128 / 255,) * 3  # EfficientNet-lite: (pixel - 127) / 128

DIMS: dict[ImageNetwork, int] = {
    "efficientnet_lite0": 1280,
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    "resnet152": 2048,
}


class ImageModel:
    """EfficientNet-lite0 (timm) or a torchvision ResNet; rows are L2-normalised."""

    resources = Resources(gpus=0.25, memory_mb=600)
    windowing = Windowing(size=1, step=1)

    def __init__(self, config: ImageModelConfig) -> None:
        self._config = config
        self._model: nn.Module | None = None
        hop = 1 / config.rate
        self.batch_size = config.batch_size
        self.spec = TrackSpec(DIMS[config.model], "float16", start=hop / 2, hop=hop, version=1)
        self.view = FrameView(config.rate, config.size, config.size, config.fit)

    @property
    def weights_sha256(self) -> str:
        """Of the registry's file, or of the local one."""
        return weights_digest(self._config.model, self._config.weights)

    def setup(self, device: torch.device) -> None:
        """Loads the network. Raises AbortError where its weights are missing or do not fit."""
        path = locate(self._config.model, self._config.weights, "extractors.*.weights")
        model = build_network(self._config.model, load_state_dict(path), path)
        mean, std = LITE if self._config.model == "efficientnet_lite0" else IMAGENET
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1)
        self._device = device
        self._model = model.to(device, model_dtype(self._config.precision)).eval()
        self._model = self._model.to(memory_format=torch.channels_last)

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
        return nn.functional.normalize(rows, dim=1).cpu().numpy()

    def finish(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """A frame's row needs no other frame."""
        return rows

    def close(self) -> None:
        """Frees the network."""
        self._model = None


def build_network(name: str, state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """A network that gives the pooled features. Raises AbortError where the weights do not fit."""
    if name == "efficientnet_lite0":
        import timm

        model: nn.Module = timm.create_model("tf_efficientnet_lite0")
        state = rename_lite(state, list(model.state_dict()))
        last = "classifier"
    else:
        import torchvision

        model = torchvision.models.get_model(name)
        last = "fc"
    load_weights(model, state, path, name)
    setattr(model, last, nn.Identity())
    return model


def rename_lite(state: Mapping[str, Tensor], names: Sequence[str]) -> Mapping[str, Tensor]:
    """From the names of lukemelas' EfficientNet to timm's: both list the same layers in order."""
    if "_conv_stem.weight" not in state or len(state) != len(names):
        return state
    return dict(zip(names, state.values(), strict=True))
