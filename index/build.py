"""Build an index: embed every clip of a dataset, index the vectors, publish, the card last."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from extractors.errors import AbortError, UsageError
from index.card import IndexCard, write_card
from index.config import IndexConfig
from index.embedding_shards import (
    CLIP_SCHEMA,
    MODALITIES,
    SUM,
    EmbeddingRecord,
    embedding_numbers,
    is_whole,
    publish_embeddings,
    read_embeddings,
    read_record,
    vector_name,
    vectors_of,
)
from index.embeddings import embed_shard, load_embedder
from index.search import IDS_NAME, INDEX_NAME
from index.vectors import build_faiss, mean_search_ms, unit_rows, write_faiss
from pipeline import storage
from pipeline.settings import dump_settings
from pipeline.shards import read_record as read_shard_record
from pipeline.shards import sha256_of, shard_numbers
from training.checkpoints import code_version

NUM_TIMED_QUERIES = 64


@dataclass(frozen=True)
class BuildProgress:
    """How far the embedding of a dataset is, in feature shards."""

    done: int
    """Kept and embedded anew."""
    total: int
    kept: int
    """Already embedded by this model with these settings, and whole."""


OnProgress = Callable[[BuildProgress], None]


def build_index(
    dataset: str,
    run: str,
    output: str,
    config: IndexConfig,
    device: torch.device,
    on_progress: OnProgress,
) -> IndexCard:
    """Embeds every clip of `dataset` with the model of `run` and publishes an index at `output`.

    Feature shards whose embeddings are current are kept (`BuildProgress.kept`). The card is
    published last: an index without one, or one whose files are not the card's, is refused by
    `index.search.open_index`. Raises UsageError for a dataset without shards or a factory string
    that FAISS refuses, AbortError for an output that holds another dataset's embeddings.
    """
    embedder = load_embedder(run, device)
    records = update_embeddings(
        dataset,
        output,
        embed=partial(embed_shard, embedder, dataset, config=config),
        model_digest=embedder.digest,
        settings=embedding_settings(config),
        on_progress=on_progress,
    )
    return publish_index(output, config, records, dataset=dataset, run=run)


def embedding_settings(config: IndexConfig) -> dict[str, Any]:
    """The settings that decide the numbers in embeddings/, and so whether they are current."""
    return {"targets": list(config.targets), "window": config.window}


def update_embeddings(
    dataset: str,
    output: str,
    *,
    embed: Callable[[int], pa.Table],
    model_digest: str,
    settings: Mapping[str, Any],
    on_progress: OnProgress,
) -> list[EmbeddingRecord]:
    """Makes embeddings/ current: calls `embed` for each feature shard that needs it, in order.

    Returns the records of all feature shards.
    """
    numbers = shard_numbers(dataset)
    _check_numbers(dataset, output, numbers)
    records: list[EmbeddingRecord] = []
    kept = 0
    for number in numbers:
        tar_sha256 = read_shard_record(dataset, number).tar_sha256
        record = read_record(output, number)
        current = record is not None and record.is_of(tar_sha256, model_digest, settings)
        if record is None or not current or not is_whole(output, record):
            record = publish_embeddings(
                output,
                number,
                embed(number),
                tar_sha256=tar_sha256,
                model_digest=model_digest,
                settings=settings,
            )
        else:
            kept += 1
        records.append(record)
        on_progress(BuildProgress(done=len(records), total=len(numbers), kept=kept))
    return records


def publish_index(
    output: str,
    config: IndexConfig,
    records: list[EmbeddingRecord],
    *,
    dataset: str,
    run: str,
) -> IndexCard:
    """Indexes the sums of embeddings/ and publishes knn.index, ids.parquet, config.yaml
    and the card, in this order. FAISS id i is row i of ids.parquet.
    """
    ids, vectors_ND = indexed_clips(output, records, config)
    index = build_faiss(vectors_ND, config.factory)
    with storage.publishing(storage.join(output, INDEX_NAME)) as temporary:
        write_faiss(index, temporary)
        index_sha256, size_bytes = sha256_of(temporary), temporary.stat().st_size
    with storage.publishing(storage.join(output, IDS_NAME)) as temporary:
        pq.write_table(ids, temporary, compression="zstd")
        ids_sha256 = sha256_of(temporary)
    storage.publish_bytes(storage.join(output, "config.yaml"), dump_settings(config).encode())
    card = IndexCard(
        factory=config.factory,
        metric=config.metric,
        normalisation="l2" if config.metric == "cosine" else "none",
        dimension=vectors_ND.shape[1],
        count=len(vectors_ND),
        target_modalities=config.targets,
        size_bytes=size_bytes,
        search_ms=round(mean_search_ms(index, vectors_ND[:NUM_TIMED_QUERIES]), 4),
        dataset=_absolute(dataset),
        dataset_digest=dataset_digest([record.tar_sha256 for record in records]),
        model=_absolute(run),
        model_digest=records[0].model_digest,
        videos=sum(record.videos for record in records),
        clips=sum(record.clips for record in records),
        embeddings={name: sum(r.present[name] for r in records) for name in MODALITIES},
        index_sha256=index_sha256,
        ids_sha256=ids_sha256,
        code_version=code_version(),
        faiss_version=faiss.__version__,
    )
    write_card(output, card)
    return card


def indexed_clips(
    output: str, records: list[EmbeddingRecord], config: IndexConfig
) -> tuple[pa.Table, NDArray[np.float32]]:
    """The clips that have a target modality, in the order of the shards, and their vectors
    (N, D), of unit length where the metric is cosine. All are held in memory.
    """
    column = vector_name(SUM)
    tables = []
    for record in records:
        table = read_embeddings(output, record.number, [*CLIP_SCHEMA.names, column])
        tables.append(table.filter(table.column(column).is_valid()))
    table = pa.concat_tables(tables)
    if table.num_rows == 0:
        targets = ", ".join(config.targets)
        raise AbortError(f"{output}: no clip has any of the target modalities ({targets})")
    vectors_ND = vectors_of(table, SUM)
    if config.metric == "cosine":
        vectors_ND = unit_rows(vectors_ND)
    return table.drop_columns([column]), vectors_ND


def dataset_digest(tar_sha256s: list[str]) -> str:
    """sha256 over the hex sha256 of a dataset's tars in order: changes when any of them does."""
    return hashlib.sha256("".join(tar_sha256s).encode()).hexdigest()


def _absolute(url: str) -> str:
    """A local path that means the same from any folder: searching opens what the card names."""
    path = storage.local_path(url)
    return url if path is None else str(path.absolute())


def _check_numbers(dataset: str, output: str, numbers: list[int]) -> None:
    if not numbers:
        raise UsageError(f"{dataset}: no finished shards there: `pipeline run extract` makes them")
    extra = sorted(set(embedding_numbers(output)) - set(numbers))
    if extra:
        raise AbortError(
            f"{output}: holds embeddings of shard {extra[0]}, which {dataset} does not have: "
            "another dataset's index? choose another --output or remove it"
        )
