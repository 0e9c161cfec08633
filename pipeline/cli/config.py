"""The whole configuration: each layer's own, under the name of its stage."""

from extractors.settings import Settings
from index.config import IndexConfig
from pipeline.config import ExtractConfig
from training.config import TrainConfig
from training.xdc.config import XdcConfig


class PipelineConfig(Settings):
    """What a preset, a `--config` file and `--set` fill."""

    extract: ExtractConfig = ExtractConfig()
    """`run extract`."""
    train: TrainConfig = TrainConfig()
    """`run train`."""
    xdc: XdcConfig = XdcConfig()
    """`run train --method xdc`, sdc, mdc and cdc."""
    index: IndexConfig = IndexConfig()
    """`run index`."""
