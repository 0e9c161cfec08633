"""Views: what an extractor asks the decoder for. Times are seconds, sizes are pixels."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FrameView:
    """RGB frames at a constant rate; frame i is the one shown at (i + 0.5) / rate."""

    rate: float
    """Frames per second."""
    height: int
    width: int
    fit: Literal["crop", "stretch", "whole"]
    """crop: cover (height, width), cut the centre. stretch: ignore the aspect. whole: the
    short side becomes `min(height, width)`, the long side follows the video (made even)."""
    chroma: Literal["full", "half"] = "full"
    """half: colour at half of the frame's resolution, as a proxy of that size keeps it (4:2:0)."""

    def frame_size(self, source_height: int, source_width: int) -> tuple[int, int]:
        """(height, width) of the frames of a video of this displayed size."""
        if self.fit != "whole":
            return self.height, self.width
        short = min(self.height, self.width)
        scale = short / min(source_height, source_width)
        long_side = max(2, 2 * round(max(source_height, source_width) * scale / 2))
        return (short, long_side) if source_height <= source_width else (long_side, short)


@dataclass(frozen=True)
class SoundView:
    """Mono samples at a constant rate, int16; sample i lies at i / rate."""

    rate: int
    """Samples per second."""


View = FrameView | SoundView
