"""Bring a published index up to date with its dataset, without building it anew."""

import logging
import time
from dataclasses import replace

import torch

from extractors.errors import AbortError, UsageError
from index.build import (
    Executor,
    adding_to,
    checked_embedder,
    embedding_work,
    publish_index,
    ray_executor,
)
from index.card import Block, IndexCard
from index.config import IndexConfig
from index.construct import add_vectors
from index.embedding_jobs import EmbeddingSetup, OnProgress, embedding_settings, update_embeddings
from index.embedding_shards import EmbeddingRecord
from index.factory import Choice
from index.publishing import CONFIG_NAME, BuiltIndex, Origin, publish_built
from index.search import INDEX_NAME, SearchIndex, open_index
from index.stored_vectors import block_vectors, make_blocks
from index.vectors import read_faiss
from pipeline import storage
from pipeline.settings import load_settings

logger = logging.getLogger(__name__)


def append_index(
    index: str,
    device: torch.device,
    on_progress: OnProgress,
    *,
    executor: Executor = "local",
    num_workers: int = 1,
    compact: bool = False,
) -> IndexCard:
    """Embeds the new and changed feature shards of the index's dataset with its model, adds their
    vectors and masks those that they replace; gives the new card.

    What was trained (lists, codebooks) stays, and so do all ids. With `compact` the index is
    built anew from embeddings/ instead: the bytes are those of `build_index`, nothing is masked,
    and 'auto' chooses again. An index whose dataset has not changed is left as it is. Raises
    AbortError where a file is not the card's, or the model is not the one that made the index;
    UsageError as `checked_embedder` does, before anything is changed.
    """
    opened = open_index(index)
    config, card = read_config(index), opened.card
    if card.imported is not None:
        raise UsageError(
            f"{index}: its vectors were imported from {card.dataset}: run `pipeline embeddings "
            f"import --format {card.imported}` again, which reads what has changed"
        )
    embedder = checked_embedder(card.dataset, card.model, device)
    if embedder.digest != card.model_digest:
        raise AbortError(
            f"{card.model}: its model is not the one that made {index} (trained on since?): "
            "build the index again with `pipeline run index`"
        )
    setup = EmbeddingSetup(card.dataset, card.model, index, config, device)
    records = update_embeddings(
        card.dataset,
        index,
        work=embedding_work(setup, embedder, executor, num_workers),
        model_digest=embedder.digest,
        settings=embedding_settings(config),
        on_progress=on_progress,
    )
    if compact:
        execute = ray_executor(config, device, num_workers) if executor == "ray" else None
        return publish_index(
            index, config, records, dataset=card.dataset, run=card.model, execute=execute
        )
    return append_records(opened, config, records)


def append_records(
    opened: SearchIndex, config: IndexConfig, records: list[EmbeddingRecord]
) -> IndexCard:
    """Adds the blocks of embeddings that the index does not hold and masks those they replace;
    `records` are of all feature shards."""
    began = time.perf_counter()
    card, url = opened.card, opened.url
    current = {record.number: record.parquet_sha256 for record in records}
    kept = tuple(_kept(block, current) for block in card.blocks)
    held = {block.shard for block in kept if not block.masked}
    new = make_blocks([r for r in records if r.number not in held], first=card.count)
    if not new and kept == card.blocks:
        return card
    index = read_faiss(storage.join(url, INDEX_NAME), mapped=False)
    with adding_to(card.factory):
        for block in new:
            index = add_vectors(index, block_vectors(url, block, config.metric))
    built = BuiltIndex(
        index=index,
        choice=Choice(card.factory, card.reason, card.candidates),
        blocks=(*kept, *new),
        kept_ids=opened.ids,
        new_blocks=new,
        began=began,
        seconds_before=card.build_seconds,
        search_parameters=card.search_parameters,
    )
    if not sum(block.count for block in built.blocks if not block.masked):
        raise AbortError(f"{url}: no clip of {card.dataset} has a target modality any longer")
    made = publish_built(url, config, built, records, Origin(card.dataset, card.model))
    if made.masked > made.count // 4:
        logger.info("%s: %d of %d masked: --compact frees them", url, made.masked, made.count)
    return made


def read_config(index: str) -> IndexConfig:
    """The settings that made an index. Raises AbortError where they are missing or foreign."""
    url = storage.join(index, CONFIG_NAME)
    try:
        return load_settings(IndexConfig, [(url, storage.read_bytes(url).decode())])
    except FileNotFoundError as err:
        raise AbortError(f"{url}: missing: build the index again") from err
    except (UsageError, UnicodeDecodeError) as err:
        raise AbortError(f"{url}: not the settings of an index: {err}") from err


def _kept(block: Block, current: dict[int, str]) -> Block:
    masked = block.masked or current.get(block.shard) != block.parquet_sha256
    return replace(block, masked=masked)
