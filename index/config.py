"""Settings of `pipeline run index`."""

from typing import Literal

from pydantic import Field, field_validator

from pipeline.settings import Settings

Modality = Literal["video", "audio", "text"]


class IndexConfig(Settings):
    """What is embedded, what is indexed, and how."""

    targets: tuple[Modality, ...] = ("video", "audio")
    """The modalities whose embeddings are summed into the indexed vector. MCN's retrieval
    protocol scores T·(V+A), so 'video' and 'audio'; 'text' adds what is said in the clip."""
    factory: str = Field("Flat", min_length=1)
    """FAISS index_factory string. 'Flat' is exact: every vector is compared."""
    metric: Literal["cosine", "dot"] = "cosine"
    """'cosine' scales vectors and queries to unit length before the inner product; 'dot' takes
    them as the model gives them (MCN's released evaluation sums unnormalised embeddings)."""
    window: float = Field(default=10.0, gt=0)
    """Length, in seconds, of the clips of a video without speech (MCN's clips last 10 or more)."""

    @field_validator("targets")
    @classmethod
    def _some_and_unique(cls, targets: tuple[Modality, ...]) -> tuple[Modality, ...]:
        if not targets or len(set(targets)) < len(targets):
            raise ValueError("name one or more of video, audio and text, each once")
        return targets
