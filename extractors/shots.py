"""Shots: TransNet V2 (Souček and Lokoč, 2020; weights MIT), a row a frame.

A row is the probability that its frame is the last one of a shot. As published, windows of 100
frames give the 50 in their middle; the first and the last frame of the video are repeated for the
context that it does not have. To the trunk of `extractors.motion_model` it adds how alike each
frame is to the 50 before and after it, by its features and by its colours.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from extractors.config import ShotsConfig
from extractors.errors import AbortError
from extractors.extractor import Resources, TrackSpec
from extractors.motion_model import Trunk, fuse_convolutions
from extractors.torch_model import forward, load_state_dict, load_weights
from extractors.tracks import Track
from extractors.views import FrameView
from extractors.weights import locate, weights_digest
from extractors.windows import Window, Windowing

CONTEXT = 25
OWN = 50
REACH = 50  # frames before and after, with which each is compared
HIDDEN = 128
BINS = 512  # colours: three bits each of red, green and blue


class Shots:
    """One row a frame: the probability of a cut right after it."""

    resources = Resources(gpus=0.25, memory_mb=900)
    windowing = Windowing(CONTEXT + OWN + CONTEXT, OWN, before=CONTEXT, head="edge", tail="edge")

    def __init__(self, config: ShotsConfig) -> None:
        self._config = config
        self._model: nn.Module | None = None
        hop = 1 / config.rate
        self.batch_size = config.batch_size
        self.spec = TrackSpec(1, "float32", start=hop / 2, hop=hop, version=1)
        self.view = FrameView(config.rate, height=27, width=48, fit="stretch")

    @property
    def weights_sha256(self) -> str:
        """Of the registry's file, or of the local one."""
        return weights_digest("transnetv2", self._config.weights)

    def setup(self, device: torch.device) -> None:
        """Loads the network. Raises AbortError where its weights are missing or do not fit."""
        path = locate("transnetv2", self._config.weights, "extractors.*.weights")
        model = TransNet()
        try:
            state = rename(load_state_dict(path))
        except KeyError as err:
            raise AbortError(f"{path}: not the weights of TransNet V2: no {err}") from err
        load_weights(model, state, path, "TransNet V2")
        self._device = device
        self._model = model.to(device).eval()

    def extract(self, windows: Sequence[Window]) -> list[NDArray[np.float32]]:
        """(num_own, 1) a window: probabilities."""
        assert self._model is not None, "extract before setup"
        frames = torch.from_numpy(np.stack([window.data for window in windows]))
        pixels_BTCHW = frames.to(self._device).permute(0, 1, 4, 2, 3).float()
        p_BT = torch.sigmoid(forward(self._model, pixels_BTCHW)).cpu().numpy()
        pairs = zip(p_BT, windows, strict=True)
        return [p_T[CONTEXT : CONTEXT + window.num_own, None] for p_T, window in pairs]

    def finish(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """The windows' contexts are all that a row needs."""
        return rows

    def close(self) -> None:
        """Frees the network."""
        self._model = None


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


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the published names to those of `TransNet`. Raises KeyError."""
    renamed = {f"trunk.{name}": value for name, value in fuse_convolutions(state).items()}
    layers = {"projection": "frame_sim_layer.projection", "by_features": "frame_sim_layer.fc",
              "by_colours": "color_hist_layer.fc", "hidden": "fc1",
              "classifier": "cls_layer1"}  # fmt: skip
    for new, old in layers.items():
        renamed |= {f"{new}.{part}": state[f"{old}.{part}"] for part in ("weight", "bias")}
    return renamed


def cut_shots(track: Track, threshold: float = 0.5) -> list[tuple[float, float]]:
    """The shots of a track of `Shots`: [start, end) in seconds, in order.

    As published: a shot ends with the first frame above the threshold, and the next one starts
    with the first frame that is not: the rest of a gradual transition belongs to neither. Where
    all frames are above, the whole is one shot; a track without rows has none.
    """
    cuts = np.asarray(track.rows[:, 0], np.float32) > threshold
    if not len(cuts):
        return []
    if cuts.all():
        spans = [(0, len(cuts))]
    else:
        before = np.concatenate([[True], cuts[:-1]])
        starts = np.flatnonzero(~cuts & before)
        ends = np.flatnonzero(cuts & ~before) + 1
        spans = list(zip(starts.tolist(), [*ends.tolist(), len(cuts)], strict=False))
    first = track.start - track.hop / 2
    return [(first + start * track.hop, first + end * track.hop) for start, end in spans]
