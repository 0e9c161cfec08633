"""Settings of `pipeline run index`."""

import math
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.settings import Settings

Modality = Literal["video", "audio", "text"]
Metric = Literal["cosine", "dot", "l2"]
ClipKind = Literal["segments", "windows", "shots"]

AUTO = "auto"


class IndexConfig(Settings):
    """What is embedded, what is indexed, and how."""

    targets: tuple[Modality, ...] = ("video", "audio")
    """The modalities whose embeddings are summed into the indexed vector. MCN's retrieval
    protocol scores T·(V+A), so 'video' and 'audio'; 'text' adds what is said in the clip."""
    factory: str = Field(AUTO, min_length=1)
    """'auto', or a FAISS index_factory string. 'Flat' is exact: every vector is compared. 'auto'
    takes the one that finds most among those that fit the two budgets, measured on a sample, and
    of those that find as much the smallest; the card says why."""
    metric: Metric = "cosine"
    """'cosine' scales vectors and queries to unit length before the inner product; 'dot' takes
    them as the model gives them (MCN's released evaluation sums unnormalised embeddings); 'l2'
    is the squared Euclidean distance, likewise of vectors as the model gives them."""
    memory_budget: int = Field(default=4 * 2**30, gt=0)
    """Bytes that knn.index may have, for factory 'auto'."""
    build_memory: int | None = Field(default=None, gt=0)
    """Bytes of vectors that a build may hold in memory: the lists of a larger index are joined on
    disk, to the same bytes. By default half of what the machine has free."""
    search_ms_budget: float = Field(default=10.0, gt=0)
    """Milliseconds that one query may take on one thread, for factory 'auto' and for the tuning
    of nprobe and efSearch."""
    recall_target: float = Field(default=0.95, gt=0, le=1)
    """Share of the 10 nearest that approximate search shall find: nprobe and efSearch are the
    least that reach it on held-out queries. An exact index has 1."""
    held_out_queries: int = Field(default=256, ge=1)
    """Number of held-out queries that tune the search and measure recall and latency."""
    clips: ClipKind = "segments"
    """What a video is cut into. 'segments' of speech, and windows where nobody speaks; 'windows'
    in all videos; 'shots', as an extractor of kind `shots` found them, and windows where there is
    no picture."""
    window: float = Field(default=10.0, gt=0)
    """Length, in seconds, of a window (MCN's clips last 10 or more)."""
    overlap: float = Field(default=0.0, ge=0)
    """Seconds that a window shares with the next one; less than `window`."""
    shots_track: str = "shots"
    """The name under which the dataset has its shots, for clips 'shots'."""
    threads: int = Field(default=1, ge=1)
    """Threads with which one worker embeds on a CPU: their number decides the last bits."""
    seed: int = Field(default=0, ge=0)
    """Of the sample that trains quantizers and of the held-out queries."""

    @field_validator("targets")
    @classmethod
    def _some_and_unique(cls, targets: tuple[Modality, ...]) -> tuple[Modality, ...]:
        if not targets or len(set(targets)) < len(targets):
            raise ValueError("name one or more of video, audio and text, each once")
        return targets

    @field_validator("overlap")
    @classmethod
    def _less_than_a_window(cls, overlap: float, info: ValidationInfo) -> float:
        window = info.data.get("window", math.inf)
        if overlap >= window:
            raise ValueError(f"must be less than window = {window:g}")
        return overlap
