"""Shots: TransNet V2 (Souček and Lokoč, 2020; weights MIT), a row a frame.

A row is the probability that its frame is the last one of a shot. As published, windows of 100
frames give the 50 in their middle; the first and the last frame of the video are repeated for the
context that it does not have. To the trunk it adds how alike each frame is to the 50 before and
after it, by its features and by its colours.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from extractors.config import ShotsConfig
from extractors.extractor import Blocks, Resources, TrackSpec
from extractors.torch_model import forward
from extractors.tracks import Track
from extractors.transnet import (
    TransNet,
    load_transnet,
    rename_whole,
    transnet_digest,
    transnet_view,
)
from extractors.windows import Window, Windowing

CONTEXT = 25
OWN = 50


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
        self.view = transnet_view(config.rate)

    @property
    def weights_sha256(self) -> str:
        """Of the registry's file, or of the local one."""
        return transnet_digest(self._config.weights)

    def setup(self, device: torch.device) -> None:
        """Loads the network. Raises AbortError where its weights are missing or do not fit."""
        self._device = device
        self._model = load_transnet(TransNet(), rename_whole, self._config.weights, device)

    def extract(self, windows: Sequence[Window]) -> list[NDArray[np.float32]]:
        """(num_own, 1) a window: probabilities."""
        assert self._model is not None, "extract before setup"
        frames = torch.from_numpy(np.stack([window.data for window in windows]))
        pixels_BTCHW = frames.to(self._device).permute(0, 1, 4, 2, 3).float()
        p_BT = torch.sigmoid(forward(self._model, pixels_BTCHW)).cpu().numpy()
        pairs = zip(p_BT, windows, strict=True)
        return [p_T[CONTEXT : CONTEXT + window.num_own, None] for p_T, window in pairs]

    def finish(self, blocks: Blocks) -> Blocks:
        """The windows' contexts are all that a row needs."""
        return blocks

    def close(self) -> None:
        """Frees the network."""
        self._model = None


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
