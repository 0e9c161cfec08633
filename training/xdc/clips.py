"""Which clips are read: at random times for training, uniformly spaced ones for features.

A clip is planned whole in the driving process, so that neither the number of reading processes nor
a resumed run changes it. Shapes: N videos, C clips.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.xdc.config import XdcConfig
from training.xdc.video_set import Flags, Numbers


class ClipRef(NamedTuple):
    """One clip of one video. Shares are of what is free: 0 is the first place, 1 the last."""

    video: int
    """Its number in the VideoSet."""
    time: float = 0.5
    """Where the clip begins, as a share of the times at which it can."""
    top: float = 0.5
    """The upper edge of the square."""
    left: float = 0.5
    """Its left edge."""
    flip: bool = False
    """Mirrored."""


def uniform_clips(video: int, count: int) -> list[ClipRef]:
    """`count` clips spread evenly over a video: the middle square, not mirrored.

    One is in the middle of the video; of several, each is in the middle of its share.
    """
    return [ClipRef(video, (i + 0.5) / count) for i in range(count)]


def draw_clips(
    usable_N: Flags,
    label_sets: Mapping[str, Numbers],
    count: int,
    config: XdcConfig,
    rng: np.random.Generator,
) -> list[ClipRef]:
    """An epoch's `count` clips of the usable videos, in a random order, each at a random time.

    `label_sets` are the clusters (N,), -1 for none, that `sampling.over: clusters` draws from.
    """
    if config.sampling.over == "natural":
        video_C = _each_equally(np.flatnonzero(usable_N), count, rng)
    else:
        sets = [np.where(usable_N, labels_N, -1) for labels_N in label_sets.values()]
        video_C = _clusters_equally(sets, count, rng)
    shares = rng.random((count, 4))
    return [
        ClipRef(video, time, top, left, bool(config.sampling.flip and mirror < 0.5))
        for video, (time, top, left, mirror) in zip(video_C.tolist(), shares.tolist(), strict=True)
    ]


def _each_equally(videos: Numbers, count: int, rng: np.random.Generator) -> Numbers:
    """Rounds through all videos, each in an order of its own, cut to `count`."""
    rounds = -(-count // len(videos))
    return np.concatenate([rng.permutation(videos) for _ in range(rounds)])[:count]


def _clusters_equally(sets: Sequence[Numbers], count: int, rng: np.random.Generator) -> Numbers:
    """Clip c is of label set c modulo their number: a cluster at random, a video of it at random;
    then shuffled."""
    drawn: NDArray[np.int64] = np.empty(count, np.int64)
    for turn, labels_N in enumerate(sets):
        order_N = np.argsort(labels_N, kind="stable")
        ordered = labels_N[order_N]
        clusters = np.unique(ordered[ordered >= 0])
        chosen = rng.choice(clusters, size=len(drawn[turn :: len(sets)]))
        first = np.searchsorted(ordered, chosen, "left")
        last = np.searchsorted(ordered, chosen, "right")
        drawn[turn :: len(sets)] = order_N[rng.integers(first, last)]
    return rng.permutation(drawn)


def clip_start(share: float, duration: float, seconds: float) -> float:
    """When a clip begins: it lies within its video where that is long enough."""
    return share * max(0.0, duration - seconds)


def sound_start(picture: float, picture_seconds: float, duration: float, seconds: float) -> float:
    """When a clip's sound begins: its middle is the picture's, moved where the video ends first."""
    wanted = picture + picture_seconds / 2 - seconds / 2
    return min(max(0.0, wanted), max(0.0, duration - seconds))
