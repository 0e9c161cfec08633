"""The whole configuration: each layer's own, under the name of its stage."""

from extractors.settings import Settings
from index.config import IndexConfig
from pipeline.config import ExtractConfig
from training.config import TrainConfig


class PipelineConfig(Settings):
    """What a preset, a `--config` file and `--set` fill."""

    extract: ExtractConfig = ExtractConfig()
    """`run extract`."""
    train: TrainConfig = TrainConfig()
    """`run train`."""
    index: IndexConfig = IndexConfig()
    """`run index`."""
