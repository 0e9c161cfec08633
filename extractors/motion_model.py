"""Motion: the convolution trunk of TransNet V2 (Souček and Lokoč, 2020; weights MIT).

It was trained to see shot boundaries in 48 x 27 pixels. Its stacked dilated 3D convolutions carry
motion (direction, zoom, cuts) but know no actions: a stand-in for an action network that can be
had without a model hub. Written anew from the published architecture: the 3x3 convolutions of the
four dilations share their input, so they run as one.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from extractors.config import MotionModelConfig
from extractors.errors import AbortError
from extractors.extractor import Resources, TrackSpec
from extractors.torch_model import forward, load_state_dict, load_weights
from extractors.views import FrameView
from extractors.weights import locate, weights_digest
from extractors.windows import Window, Windowing

DILATIONS = (1, 2, 4, 8)
STAGE_FILTERS = (16, 32, 64)
CHANNELS = 256
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
        self.view = FrameView(config.rate, height=27, width=48, fit="stretch")

    @property
    def weights_sha256(self) -> str:
        """Of the registry's file, or of the local one."""
        return weights_digest("transnetv2", self._config.weights)

    def setup(self, device: torch.device) -> None:
        """Loads the trunk. Raises AbortError where its weights are missing or do not fit."""
        path = locate("transnetv2", self._config.weights, "extractors.*.weights")
        trunk = Trunk()
        try:
            state = fuse_convolutions(load_state_dict(path))
        except KeyError as err:
            raise AbortError(f"{path}: not the weights of TransNet V2: no {err}") from err
        load_weights(trunk, state, path, "TransNet V2")
        self._device = device
        self._model = trunk.to(device).eval()

    def extract(self, windows: Sequence[Window]) -> list[NDArray[np.float32]]:
        """(1, 768) a window."""
        assert self._model is not None, "extract before setup"
        frames = torch.from_numpy(np.stack([window.data for window in windows]))
        pixels_BTCHW = frames.to(self._device).permute(0, 1, 4, 2, 3).float() / 255
        z_BTC = forward(self._model, pixels_BTCHW)
        half = z_BTC.shape[1] // 2
        change_BC = z_BTC[:, half:].mean(1) - z_BTC[:, :half].mean(1)
        rows = torch.cat([z_BTC.mean(1), z_BTC.std(1, correction=0), change_BC], dim=1)
        return [row[None] for row in nn.functional.normalize(rows, dim=1).cpu().numpy()]

    def finish(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """A window's row needs no other window."""
        return rows

    def close(self) -> None:
        """Frees the trunk."""
        self._model = None


class DilatedBlock(nn.Module):
    """3x3 in space, then 3 in time at four dilations, concatenated, normalised."""

    def __init__(self, in_channels: int, filters: int) -> None:
        super().__init__()
        self.space = nn.Conv2d(in_channels, 2 * filters * len(DILATIONS), 3, padding=1, bias=False)
        self.time = nn.ModuleList(
            nn.Conv2d(2 * filters, filters, (3, 1), padding=(d, 0), dilation=(d, 1), bias=False)
            for d in DILATIONS
        )
        self.bn = nn.BatchNorm2d(filters * len(DILATIONS), eps=1e-3)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, C, H, W) to (B, T, 4 * filters, H, W)."""
        B, T, _, H, W = x_BTCHW.shape
        y = self.space(x_BTCHW.flatten(0, 1))
        # time as the height of an image whose width is all pixels
        y = y.view(B, T, -1, H * W).transpose(1, 2)
        parts = y.chunk(len(DILATIONS), dim=1)
        y = torch.cat([conv(part) for conv, part in zip(self.time, parts, strict=True)], dim=1)
        z: Tensor = self.bn(y).transpose(1, 2)
        return z.reshape(B, T, -1, H, W)


class Trunk(nn.Module):
    """Three stages of two blocks with a shortcut, halving the picture after each."""

    def __init__(self) -> None:
        super().__init__()
        widths = [4 * filters for filters in STAGE_FILTERS]
        self.stages = nn.ModuleList(
            nn.ModuleList([DilatedBlock(in_channels, filters), DilatedBlock(width, filters)])
            for in_channels, width, filters in zip(
                [3, *widths[:-1]], widths, STAGE_FILTERS, strict=True
            )
        )

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 3, 27, 48) in 0..1 to (B, T, 256): the mean over the last 3 x 6 grid."""
        return self.stage_outputs(x_BTCHW)[-1].mean((3, 4))

    def stage_outputs(self, x_BTCHW: Tensor) -> list[Tensor]:
        """What each stage gives: (B, T, 64, 13, 24), (B, T, 128, 6, 12), (B, T, 256, 3, 6)."""
        outputs = []
        for stage in self.stages:
            first, second = stage.children()
            shortcut = torch.relu(first(x_BTCHW))
            x_BTCHW = torch.relu(second(shortcut)) + shortcut
            pooled = nn.functional.avg_pool2d(x_BTCHW.flatten(0, 1), 2)
            x_BTCHW = pooled.view(*x_BTCHW.shape[:2], *pooled.shape[1:])
            outputs.append(x_BTCHW)
        return outputs


def fuse_convolutions(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the published names and shapes to those of `Trunk`. Raises KeyError."""
    fused = {}
    for stage in range(len(STAGE_FILTERS)):
        for block in range(2):
            old, new = f"SDDCNN.{stage}.DDCNN.{block}.", f"stages.{stage}.{block}."
            layers = [f"{old}Conv3D_{dilation}.layers." for dilation in DILATIONS]
            space = torch.cat([state[f"{layer}0.weight"] for layer in layers])
            fused[f"{new}space.weight"] = space.squeeze(2)
            for number, layer in enumerate(layers):
                fused[f"{new}time.{number}.weight"] = state[f"{layer}1.weight"].squeeze(4)
            for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                fused[f"{new}bn.{name}"] = state[f"{old}bn.{name}"]
    return fused
