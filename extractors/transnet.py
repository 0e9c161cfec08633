"""TransNet V2 (Souček and Lokoč, 2020; weights MIT): the network of `motion_model` and of `shots`.

It was trained to see shot boundaries in 48 x 27 pixels. Written anew from the published
architecture: the 3x3 convolutions of the four dilations share their input, so they run as one.

B windows, T frames, C channels, H x W pixels, F numbers of a frame, K colours, P pixels.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from extractors.errors import AbortError
from extractors.torch_model import load_state_dict, load_weights
from extractors.views import FrameView
from extractors.weights import locate, weights_digest

DILATIONS = (1, 2, 4, 8)
STAGE_FILTERS = (16, 32, 64)
CHANNELS = 256
HEIGHT, WIDTH = 27, 48
REACH = 50  # frames before and after, with which each is compared
HIDDEN = 128
BINS = 512  # colours: three bits each of red, green and blue
NAME = "transnetv2"  # in the registry


def transnet_view(rate: float) -> FrameView:
    """The frames that it takes: the aspect is ignored, as published."""
    return FrameView(rate, HEIGHT, WIDTH, fit="stretch")


def transnet_digest(weights: str | None) -> str:
    """Of the registry's file, or of the local one."""
    return weights_digest(NAME, weights)


def load_transnet(
    network: nn.Module,
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
    weights: str | None,
    device: torch.device,
) -> nn.Module:
    """Fills `Trunk` (with `rename_trunk`) or `TransNet` (with `rename_whole`), ready to run.

    Raises AbortError where the weights are missing or another network's.
    """
    path = locate(NAME, weights, "extractors.*.weights")
    try:
        state = rename(load_state_dict(path))
    except KeyError as err:
        raise AbortError(f"{path}: not the weights of TransNet V2: no {err}") from err
    load_weights(network, state, path, "TransNet V2")
    return network.to(device).eval()


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


def rename_trunk(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the published names and shapes to those of `Trunk`, fused. Raises KeyError."""
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


class TransNet(nn.Module):
    """TransNet V2 without its second classifier (all frames of a transition), a training aid."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.projection = nn.Linear(64 + 128 + 256, HIDDEN)
        self.by_features = nn.Linear(2 * REACH + 1, HIDDEN)
        self.by_colours = nn.Linear(2 * REACH + 1, HIDDEN)
        self.hidden = nn.Linear(2 * HIDDEN + 256 * 3 * 6, 1024)
        self.classifier = nn.Linear(1024, 1)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 3, 27, 48) whole numbers in 0..255 to logits (B, T)."""
        stages = self.trunk.stage_outputs(x_BTCHW / 255)
        means_BTC = torch.cat([stage.mean((3, 4)) for stage in stages], dim=2)
        features_BTC = nn.functional.normalize(self.projection(means_BTC), dim=2)
        # the published order of a frame's numbers: rows, columns, channels
        pixels_BTF = stages[-1].permute(0, 1, 3, 4, 2).flatten(2)
        z_BTF = torch.cat([
            torch.relu(self.by_colours(neighbours(colours(x_BTCHW)))),
            torch.relu(self.by_features(neighbours(features_BTC))),
            pixels_BTF,
        ], dim=2)  # fmt: skip
        logits: Tensor = self.classifier(torch.relu(self.hidden(z_BTF)))
        return logits[..., 0]


def colours(x_BTCHW: Tensor) -> Tensor:
    """(B, T, 512): the histogram of each frame's colours, of length 1."""
    red, green, blue = (x_BTCHW.long() >> 5).unbind(2)
    bins_BTP = ((red << 6) + (green << 3) + blue).flatten(2)
    counts_BTK = torch.zeros(*bins_BTP.shape[:2], BINS, device=x_BTCHW.device)
    counts_BTK.scatter_add_(2, bins_BTP, torch.ones_like(bins_BTP, dtype=torch.float32))
    return nn.functional.normalize(counts_BTK, dim=2)


def neighbours(z_BTC: Tensor) -> Tensor:
    """(B, T, 101): each row's dot products with the 50 rows before it, itself, the 50 after it;
    0 for those that are not there."""
    alike_BTT = torch.bmm(z_BTC, z_BTC.transpose(1, 2))
    padded = nn.functional.pad(alike_BTT, (REACH, REACH))
    own = torch.arange(z_BTC.shape[1], device=z_BTC.device)
    columns = own[:, None] + torch.arange(2 * REACH + 1, device=z_BTC.device)
    return padded.gather(2, columns.expand(len(z_BTC), -1, -1))


def rename_whole(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the published names to those of `TransNet`. Raises KeyError."""
    renamed = {f"trunk.{name}": value for name, value in rename_trunk(state).items()}
    layers = {"projection": "frame_sim_layer.projection", "by_features": "frame_sim_layer.fc",
              "by_colours": "color_hist_layer.fc", "hidden": "fc1",
              "classifier": "cls_layer1"}  # fmt: skip
    for new, old in layers.items():
        renamed |= {f"{new}.{part}": state[f"{old}.{part}"] for part in ("weight", "bias")}
    return renamed
