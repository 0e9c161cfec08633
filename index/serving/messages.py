"""What goes in and out over HTTP; docstrings become the API's documentation."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from index.config import Modality
from index.serving.limits import HITS, NAME_CHARACTERS, TERMS, TEXT_CHARACTERS, VECTOR_NUMBERS


class Message(BaseModel):
    """The root of every message."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class TermIn(Message):
    """One part of a query."""

    kind: Literal["text", "clip", "upload", "vector"]
    """Words, a clip of the index, a file that was uploaded before, or a vector of its dimension."""
    value: (
        Annotated[str, Field(min_length=1, max_length=TEXT_CHARACTERS)]
        | Annotated[list[float], Field(min_length=1, max_length=VECTOR_NUMBERS)]
    )
    """The words, the clip's id `KEY@start-end`, the upload's id, or the vector's numbers."""
    weight: Literal[1, -1] = 1
    """1 to add, -1 to take away."""
    modality: Literal["video", "audio"] | None = None
    """Of an upload: ask by its picture or its sound alone; null for what it has."""


class WhereIn(Message):
    """Conditions that a clip must meet, all of them."""

    video: str | None = Field(None, max_length=TEXT_CHARACTERS)
    """Key of the video."""
    label: str | None = Field(None, max_length=TEXT_CHARACTERS)
    split: str | None = Field(None, max_length=TEXT_CHARACTERS)
    language: str | None = Field(None, max_length=NAME_CHARACTERS)
    """Of what is said, as captions or speech recognition name it."""
    time: str | None = Field(None, max_length=NAME_CHARACTERS)
    """START-END in seconds; either may be left out."""


class SearchIn(Message):
    """A query: a sum of texts, clips and uploaded files."""

    terms: list[TermIn] = Field(min_length=1, max_length=TERMS)
    k: int = Field(24, ge=1, le=HITS)
    """Number of results."""
    where: WhereIn = WhereIn()
    targets: list[Modality] | None = Field(None, min_length=1, max_length=3)
    """Compare with clips' video, audio or text alone; null for what was indexed."""
    merge: bool = False
    """Join overlapping results of one video."""


class ClipOut(Message):
    """A clip of the index."""

    id: str
    """`KEY@start-end`."""
    video: str
    start: float
    """Seconds."""
    end: float
    text: str | None
    """What is said in it."""
    thumbnail: str
    """Path of a JPEG."""
    media: str | None
    """Path of an mp4 that plays it; null where neither proxy nor source can be reached."""


class HitOut(ClipOut):
    """A clip that answers."""

    rank: int
    score: float
    """Higher is nearer."""


class SearchOut(Message):
    """Results, best first."""

    hits: list[HitOut]


class UploadOut(Message):
    """A file that can be asked by."""

    id: str
    """For terms of kind `upload`; kept until the server ends or a thousand newer ones came."""
    seconds: float
    modalities: list[Modality]
    """Which of picture and sound it has."""


class IndexOut(Message):
    """What is served."""

    clips: int
    videos: int
    dimension: int
    metric: str
    factory: str
    targets: list[str]
    """Modalities whose embeddings were summed into the indexed vectors."""
    modalities: list[str]
    """Modalities that clips have embeddings of."""
    labels: list[str]
    """At most 200 of them."""
    languages: list[str]
    asks: list[Literal["text", "file", "clip", "vector"]]
    """Kinds of query that this server can answer."""
    maps: list[str]
    """Methods of the 2-D map."""
    upload_bytes: int
    """Size of the largest file that is taken."""
    file_seconds: float
    """Length of the longest."""


class WordOut(Message):
    """A word that tells a cluster's transcripts from the others'."""

    word: str
    weight: float
    """Relative to the cluster's first word."""


class ShareOut(Message):
    """How much of a cluster has a label."""

    label: str
    share: float


class SampleOut(Message):
    """A clip of a contact sheet."""

    id: str
    thumbnail: str
    media: str | None


class ClusterOut(Message):
    """A cluster of the space, by k-means."""

    number: int
    size: int
    """Clips."""
    words: list[WordOut]
    labels: list[ShareOut]
    samples: list[SampleOut]
    """Clips nearest to its centre."""


class PointsOut(Message):
    """Clips on the map, a value each in four lists."""

    x: list[float]
    """-1 to 1."""
    y: list[float]
    cluster: list[int]
    id: list[str]


class MapOut(Message):
    """The space in two dimensions."""

    method: str
    clusters: list[ClusterOut]
    points: PointsOut


class ErrorOut(Message):
    """Why not, in a sentence."""

    error: str


class HealthOut(Message):
    """That the server answers, and for how many clips."""

    status: Literal["ok"] = "ok"
    clips: int


MapMethod = Annotated[Literal["pca", "umap"], "How the space is laid out in two dimensions."]
