"""Which pseudo-labels train which encoder: all that SDC, MDC, CDC and XDC differ in.

Labels `video` and `audio` are the clusters of one modality, `joint` those of the concatenation
(arXiv 1911.12667, section 3; methods: two heads an encoder in MDC, one otherwise); `plan` are the
plan's own labels, which no clustering makes.
"""

from typing import Literal, NamedTuple

from training.xdc.config import XdcMethod

Modality = Literal["video", "audio"]
MODALITIES: tuple[Modality, ...] = ("video", "audio")


class Head(NamedTuple):
    """A linear classifier."""

    encoder: Modality
    """On whose vectors it stands."""
    labels: Literal["video", "audio", "joint", "plan"]
    """The label set that it learns to predict."""

    @property
    def name(self) -> str:
        """In metrics and checkpoints: `video_from_audio`."""
        return f"{self.encoder}_from_{self.labels}"


HEADS: dict[XdcMethod, tuple[Head, ...]] = {
    "sdc": (Head("video", "video"), Head("audio", "audio")),
    "mdc": (
        Head("video", "video"),
        Head("video", "audio"),
        Head("audio", "audio"),
        Head("audio", "video"),
    ),
    "cdc": (Head("video", "joint"), Head("audio", "joint")),
    "xdc": (Head("video", "audio"), Head("audio", "video")),
    "supervised": (Head("video", "plan"), Head("audio", "plan")),
}


def label_sets(method: XdcMethod) -> tuple[str, ...]:
    """The label sets that a method needs, each once."""
    return tuple(dict.fromkeys(head.labels for head in HEADS[method]))
