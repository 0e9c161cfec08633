"""The card of an index, `index_infos.json`: what it is, what made it, and what its files are.

Published after every file it names; its digests tie them together. Where autofaiss writes the
same fact, the key is autofaiss's ('nb vectors', 'vectors dimension', …), so that tools that read
its cards read ours.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from extractors.errors import AbortError, UsageError
from index.config import Metric
from index.factory import Candidate
from index.held_out import Latency
from pipeline import storage

FORMAT_VERSION = 3
CARD_NAME = "index_infos.json"
NO_MODEL = "(foreign vectors, imported without their model)"
"""`IndexCard.model` of an import."""

_AUTOFAISS_KEYS = {
    "factory": "index_key",
    "count": "nb vectors",
    "dimension": "vectors dimension",
    "size_bytes": "size in bytes",
    "search_ms": "avg_search_speed_ms",
    "p99_ms": "99p_search_speed_ms",
    "compression_ratio": "compression ratio",
    "reconstruction_error": "reconstruction error %",
}


@dataclass(frozen=True)
class Block:
    """Neighbouring ids of knn.index and ids.parquet: the clips of one feature shard."""

    shard: int
    first: int
    """Its first id."""
    count: int
    parquet_sha256: str
    """The embeddings they were made from."""
    masked: bool = False
    """Whether they were removed or replaced since."""


@dataclass(frozen=True)
class IndexCard:
    """What a published index is. In the file, `factory` is named 'index_key', and so on."""

    factory: str
    """FAISS index_factory string."""
    asked_factory: str
    """What the settings said: 'auto' or the string itself."""
    reason: str
    """Why this factory string, in one line."""
    candidates: tuple[Candidate, ...]
    """What 'auto' weighed, and what each would have cost by estimate."""
    metric: Metric
    """'cosine' and 'dot' search by inner product, 'l2' by squared distance."""
    normalisation: Literal["l2", "none"]
    """'l2': vectors and queries have length 1; 'none': they are as the model gave them."""
    dimension: int
    count: int
    """Vectors = rows of ids.parquet = clips that have one of the target modalities, and those
    that are masked."""
    masked: int
    """Vectors that are no longer found: their clips were removed or replaced."""
    blocks: tuple[Block, ...]
    """Whose vectors they are, in order of the ids."""
    target_modalities: tuple[str, ...]
    """Whose embeddings were summed into a vector."""
    size_bytes: int
    """Of knn.index."""
    memory_bytes: int
    """What a process that searches maps and holds: knn.index, the table of ids as it is in memory,
    and the mask."""
    compression_ratio: float
    """Bytes of the float32 vectors over bytes of knn.index."""
    search_parameters: dict[str, int]
    """nprobe, efSearch: tuned on held-out queries, set when the index is opened."""
    recall: dict[str, float]
    """'recall@1', 'recall@10', 'recall@100' against exact search, on held-out queries."""
    search_ms: float
    """Mean time of one search for the 10 nearest, one query at a time on one thread, in
    milliseconds."""
    p99_ms: float
    """Its 99th percentile."""
    single_ms: Latency
    """Its percentiles."""
    batch_ms: Latency
    """A query's part of a batch of 64, on all threads."""
    build_seconds: float
    """Training, adding, tuning, of the build and of what was appended since; without the
    embedding."""
    dataset: str
    """URL of the dataset, or of what was imported; an absolute path where it is local."""
    dataset_digest: str
    """sha256 over its shards' tar_sha256 in order."""
    model: str
    """URL of the run, likewise; NO_MODEL where the vectors were imported."""
    model_digest: str
    """Digest of the model that embedded the clips: a query must be embedded by the same."""
    videos: int
    clips: int
    """All clips, those without a target modality too."""
    embeddings: dict[str, int]
    """Clips that have an embedding, by modality."""
    index_sha256: str
    ids_sha256: str
    mask_sha256: str | None
    """Of mask.npy; None where nothing is masked."""
    code_version: str
    """Of this program."""
    faiss_version: str
    imported: str | None = None
    """The format that the vectors were imported from; None where a run of ours made them. Without
    their model the index is asked by vectors and by its own clips alone."""
    reconstruction_error: float | None = None
    """By how much the codes of stored vectors miss them, in percent of their length, as autofaiss
    counts it; None where the type of index cannot say."""


def card_url(index: str) -> str:
    """Where the card of an index lies."""
    return storage.join(index, CARD_NAME)


def write_card(index: str, card: IndexCard) -> None:
    """Publishes the card."""
    storage.publish_bytes(card_url(index), card_bytes(card))


def card_bytes(card: IndexCard) -> bytes:
    """The content of its file."""
    facts = dataclasses.asdict(card)
    fields = {_AUTOFAISS_KEYS.get(name, name): value for name, value in facts.items()}
    return storage.json_bytes({"format_version": FORMAT_VERSION} | fields)


def read_card(index: str) -> IndexCard:
    """Raises AbortError where there is no card, or one that this program did not write."""
    url = card_url(index)
    try:
        content = storage.read_json(url)
    except (FileNotFoundError, NotADirectoryError) as err:
        raise AbortError(
            f"{url}: not found: no finished index there; `pipeline run index` makes one"
        ) from err
    except ValueError as err:  # not JSON, or not UTF-8
        raise AbortError(f"{url}: not JSON: {err}") from err
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise AbortError(
            f"{url}: format version {version!r}, this program reads {FORMAT_VERSION}: "
            "build the index again with `pipeline run index`"
        )
    return _card(url, content)


def check_has_model(index: str, card: IndexCard) -> None:
    """Raises UsageError where texts and files cannot be embedded as the index's vectors were."""
    if card.imported is not None:
        raise UsageError(
            f"{index}: its vectors are foreign, imported ({card.imported}) without their model: "
            "ask by vectors or by its own clips (--clip), not by texts or files"
        )


def _card(url: str, content: dict[str, Any]) -> IndexCard:
    names = {key: name for name, key in _AUTOFAISS_KEYS.items()}
    fields = {names.get(key, key): value for key, value in content.items()}
    try:
        return TypeAdapter(IndexCard).validate_python(fields)
    except ValidationError as err:
        first = err.errors()[0]
        name = str(first["loc"][0])
        raise AbortError(
            f"{url}: {_AUTOFAISS_KEYS.get(name, name)!r}: {first['msg'].lower()}: "
            "damaged, or another program's index?"
        ) from err
