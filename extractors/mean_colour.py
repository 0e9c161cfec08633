"""The smallest real extractor, to copy: the mean colour of each frame."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.config import MeanColourConfig
from extractors.extractor import Blocks, Resources, TrackSpec
from extractors.views import FrameView
from extractors.windows import Window, Windowing


class MeanColour:
    """One row a frame: mean red, green and blue in 0..1."""

    batch_size = 64
    resources = Resources(memory_mb=50)
    weights_sha256 = None
    windowing = Windowing(size=1, step=1)

    def __init__(self, config: MeanColourConfig) -> None:
        hop = 1 / config.rate
        self.spec = TrackSpec(dim=3, dtype="float32", start=hop / 2, hop=hop, version=1)
        self.view = FrameView(config.rate, height=32, width=32, fit="stretch")

    def setup(self, device: torch.device) -> None:
        """Nothing to load."""

    def extract(self, windows: Sequence[Window]) -> list[NDArray[np.float32]]:
        """(1, 3) a frame."""
        return [window.data.mean(axis=(1, 2), dtype=np.float32) / 255 for window in windows]

    def finish(self, blocks: Blocks) -> Blocks:
        """A frame's colour needs no other frame."""
        return blocks

    def close(self) -> None:
        """Nothing to free."""
