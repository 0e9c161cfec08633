"""What an index takes on paper: operations, bytes of embeddings and of knn.index."""

from dataclasses import dataclass

from index.config import AUTO, IndexConfig, Metric
from index.factory import choose_factory, estimated_bytes, given_factory
from pipeline.estimate import Corpus
from training.config import TrainConfig
from training.estimate import Widths, forward_gflop

VECTORS_A_CLIP = 4
"""Of each clip's embeddings: video, audio, text, and their sum; float32."""


@dataclass(frozen=True)
class IndexCost:
    """What `run index` takes."""

    clips: int
    gflop: float
    """10^9 operations of embedding."""
    embedding_bytes: float
    """As float32, before compression, which saves little."""
    factory: str
    bytes: int | None
    """Of knn.index, on disk and in memory; None where they are not known for the type of index."""
    reason: str


def index_cost(config: IndexConfig, train: TrainConfig, widths: Widths, clips: int) -> IndexCost:
    """Of so many clips, with the model that `train` describes; the factory before any sample is
    measured, or the one that is set by hand."""
    dimension = train.model.embedding_dim
    choice = given_factory(config.factory)
    if config.factory == AUTO:
        choice = choose_factory(
            clips,
            dimension,
            config.metric,
            memory_budget=config.memory_budget,
            search_ms_budget=config.search_ms_budget,
        )
    return IndexCost(
        clips,
        clips * forward_gflop(train, widths, decoders=False),
        4.0 * VECTORS_A_CLIP * clips * dimension,
        choice.factory,
        _bytes(choice.factory, clips, dimension, config.metric),
        choice.reason,
    )


def _bytes(factory: str, clips: int, dimension: int, metric: Metric) -> int | None:
    try:
        return estimated_bytes(factory, clips, dimension, metric)
    except NotImplementedError:
        return None


def num_clips(corpus: Corpus, config: IndexConfig) -> int:
    """A segment is a clip; where nobody speaks, a window. Shots are counted as windows: how long
    they last is not known before they are found."""
    segments = corpus.all_segments if config.clips == "segments" else None
    return round(segments or 3600 * corpus.hours / (config.window - config.overlap))
