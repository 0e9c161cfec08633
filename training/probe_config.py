"""Settings of `evaluate tracks` and `evaluate finetune`; light, since commands show defaults.

`paper` is XDC (Alwassel et al., NeurIPS 2020, arXiv 1911.12667), whose settings of the linear SVM
and of fine-tuning were not published: where a default is another's, the field says whose.
"""

from dataclasses import dataclass
from typing import Literal

Average = Literal["scores", "features"]
Trained = Literal["fc", "all"]


@dataclass(frozen=True)
class ProbeConfig:
    """How the labels of a track's rows are learned and a video is scored."""

    clips: int = 10
    """Rows of a video, uniformly spaced; all of one that has fewer, 0: all of every video (paper:
    10)."""
    average: Average = "scores"
    """scores: classifiers learn from single rows, and a video is the mean of its rows' scores
    (paper). features: a video is the mean of its rows, in training too."""
    c: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0)
    """Values of scikit-learn's C. Of several, the one that does best on held-out training videos;
    of equals the lowest (paper: unknown)."""
    folds: int = 3
    """Parts into which the training videos are cut to choose C."""
    labels: int | None = None
    """Learn from so many training videos only, equally many of each label; None: from all."""
    seed: int = 0
    """Of the parts and of `labels`."""


@dataclass(frozen=True)
class FinetuneConfig:
    """How an encoder and a new linear layer learn labels. Defaults are SeLaVi's (SGD, its rates,
    weight decay, epochs and steps, ten clips of a video an epoch); XDC's own were not published."""

    trained: Trained = "all"
    """all: every layer. fc: the new linear layer alone."""
    from_scratch: bool = False
    """Begin with a fresh encoder of the same form, to compare with."""
    epochs: int = 12
    """Passes over the clips."""
    clips_per_video: int = 10
    """Clips of a training video in an epoch, at random times."""
    batch_clips: int = 32
    """Clips of a step."""
    lr: float = 2.5e-4
    """Of the encoder."""
    head_lr: float = 2.5e-3
    """Of the linear layer."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 0.005
    """Of all weights."""
    warmup_epochs: int = 2
    """Epochs over which the rates rise linearly."""
    drop_epochs: tuple[int, ...] = (6, 10)
    """After these the rates are multiplied by `drop_factor`."""
    drop_factor: float = 0.05
    """See `drop_epochs`."""
    flip: bool = True
    """Mirror every second training clip."""
    test_clips: int = 10
    """Uniformly spaced clips of a test video, whose class probabilities are averaged (paper)."""
    labels: int | None = None
    """As `ProbeConfig.labels`."""
    seed: int = 0
    """Of the linear layer, the clips and `labels`."""
    loader_workers: int = 1
    """Processes that read clips."""
