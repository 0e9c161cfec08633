"""Build an index: embed every clip of a dataset, index the vectors, publish.

N vectors, D dimension, Q queries.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import faiss
import numpy as np
import torch

from extractors.errors import AbortError, UsageError
from index.card import Block, IndexCard
from index.config import AUTO, IndexConfig
from index.construct import can_merge, fill_index, train_index, training_rows
from index.embedding_jobs import BuildProgress as BuildProgress
from index.embedding_jobs import (
    EmbeddingJob,
    EmbeddingSetup,
    OnProgress,
    Work,
    embedding_settings,
    update_embeddings,
)
from index.embedding_shards import EmbeddingRecord
from index.embeddings import Embedder, load_embedder
from index.factory import EXACT_BELOW, Choice, choose_factory, given_factory
from index.lists_on_disk import exceeds_memory
from index.partial import merge_parts
from index.pilot import ROWS as PILOT_ROWS
from index.pilot import code_recall, make_pilot
from index.publishing import BuiltIndex, Origin, publish_built
from index.run_local import Setup, run_local
from index.stored_vectors import make_blocks, numbered_vectors, sample_vectors
from index.vectors import last_line
from training.provenance import check_current, check_same_features

logger = logging.getLogger(__name__)

Executor = Literal["local", "ray"]
Execute = Callable[[Setup[Any, Any], Sequence[Any]], Iterator[Any]]
"""Runs a set-up's work on every item, in any order."""


def build_index(
    dataset: str,
    run: str,
    output: str,
    config: IndexConfig,
    device: torch.device,
    on_progress: OnProgress,
    *,
    executor: Executor = "local",
    num_workers: int = 1,
) -> IndexCard:
    """Embeds every clip of `dataset` with the model of `run` and publishes an index at `output`.

    Feature shards whose embeddings are current are kept (`BuildProgress.kept`). Every executor
    and number of workers gives the same bytes where FAISS has as many threads (OMP_NUM_THREADS):
    they decide the last bits of its k-means. The card is published last: an index without one,
    or one whose files are not the card's, is refused by `index.search.open_index`. Raises
    UsageError for a dataset without shards or a factory string that FAISS refuses, AbortError for
    an output that holds another dataset's embeddings.
    """
    embedder = checked_embedder(dataset, run, device)
    setup = EmbeddingSetup(dataset, run, output, config, device)
    records = update_embeddings(
        dataset,
        output,
        work=embedding_work(setup, embedder, executor, num_workers),
        model_digest=embedder.digest,
        settings=embedding_settings(config),
        on_progress=on_progress,
    )
    execute = ray_executor(config, device, num_workers) if executor == "ray" else None
    return publish_index(output, config, records, dataset=dataset, run=run, execute=execute)


def checked_embedder(dataset: str, run: str, device: torch.device) -> Embedder:
    """The model of `run`, which can embed `dataset` as it is now.

    Raises UsageError where a shard was made of other settings than the dataset states, or its
    features are not those that the run was trained on.
    """
    embedder = load_embedder(run, device)
    check_current(dataset)
    check_same_features(embedder.run.card, dataset, embedder.run.config.sampling)
    return embedder


def embedding_work(
    setup: EmbeddingSetup, embedder: Embedder, executor: Executor, num_workers: int
) -> Work:
    """How embedding jobs are worked on; one local worker uses the model that is loaded."""

    def work(jobs: Sequence[EmbeddingJob]) -> Iterator[EmbeddingRecord]:
        if executor == "ray":
            return ray_executor(setup.config, setup.device, num_workers)(setup, jobs)
        if num_workers == 1:
            return map(setup.with_embedder(embedder), jobs)
        return run_local(setup, jobs, num_workers)

    return work


def ray_executor(config: IndexConfig, device: torch.device, num_workers: int) -> Execute:
    """Workers on a Ray cluster, each with `config.threads` processors and, on CUDA, a GPU."""
    from index.run_ray import run_ray

    gpus = 1 if device.type == "cuda" else 0

    def execute(setup: Setup[Any, Any], items: Sequence[Any]) -> Iterator[Any]:
        return run_ray(setup, items, num_workers, cpus=config.threads, gpus=gpus)

    return execute


def publish_index(
    output: str,
    config: IndexConfig,
    records: Sequence[EmbeddingRecord],
    *,
    dataset: str,
    run: str,
    execute: Execute | None = None,
    imported: str | None = None,
) -> IndexCard:
    """Indexes the sums of embeddings/ and publishes the index as `publish_built` does. FAISS id i
    is row i of ids.parquet.

    `imported` is the format of vectors that no model of ours made. Vectors are added a batch at a
    time. With `execute`, each block is added to a part of its own, as a task, and the parts are
    merged, where the type of index can be; so they are, one after the other, where the whole
    exceeds `config.build_memory`, and then on disk: the bytes are the same.
    """
    began = time.perf_counter()
    blocks = make_blocks(records)
    count, dimension = sum(block.count for block in blocks), records[0].dimension
    if count == 0:
        targets = ", ".join(config.targets)
        raise AbortError(f"{output}: no clip has any of the target modalities ({targets})")
    choice = _choice(output, config, blocks, dimension)
    logger.info("index.factory %s: %s", choice.factory, choice.reason)
    index = _trained(choice.factory, output, config, blocks, dimension)
    with adding_to(choice.factory):
        index = _filled(index, output, config, blocks, execute)
    built = BuiltIndex(index, choice, blocks, kept_ids=None, new_blocks=blocks, began=began)
    return publish_built(output, config, built, records, Origin(dataset, run, imported))


def _filled(
    trained: faiss.Index,
    output: str,
    config: IndexConfig,
    blocks: Sequence[Block],
    execute: Execute | None,
) -> faiss.Index:
    """The vectors of all blocks, added here or in parts that are merged."""
    count = sum(block.count for block in blocks)
    on_disk = exceeds_memory(trained, count, config.build_memory)
    if on_disk or (execute is not None and can_merge(trained)):
        work = execute or _in_turn
        return merge_parts(trained, output, blocks, config.metric, work, on_disk=on_disk)
    return fill_index(
        trained, lambda: (x_ND for _, x_ND in numbered_vectors(output, blocks, config.metric))
    )


def _in_turn(setup: Setup[Any, Any], items: Sequence[Any]) -> Iterator[Any]:
    """An `Execute` in this process."""
    return map(setup(), items)


@contextmanager
def adding_to(factory: str) -> Iterator[None]:
    """Raises UsageError where FAISS refuses to add vectors to a type of index, or to add more."""
    try:
        yield
    except RuntimeError as err:
        raise UsageError(
            f"index.factory = {factory!r}: FAISS cannot add vectors to it: {last_line(err)}; "
            "'auto' and 'Flat' always work"
        ) from err


def _choice(output: str, config: IndexConfig, blocks: Sequence[Block], dimension: int) -> Choice:
    if config.factory != AUTO:
        return given_factory(config.factory)
    count = sum(block.count for block in blocks)
    rows = PILOT_ROWS if count >= EXACT_BELOW else 1
    _, sample_ND = sample_vectors(output, blocks, config.metric, rows, (config.seed, 3))
    pilot = make_pilot(sample_ND, config.metric, config.seed)
    return choose_factory(
        count,
        dimension,
        config.metric,
        memory_budget=config.memory_budget,
        search_ms_budget=config.search_ms_budget,
        code_recall=partial(code_recall, pilot),
    )


def _trained(
    factory: str, output: str, config: IndexConfig, blocks: Sequence[Block], dimension: int
) -> faiss.Index:
    """An index without vectors; the sample that trained it is gone when the lists fill."""
    sample_ND = np.zeros((0, dimension), np.float32)
    count = sum(block.count for block in blocks)
    rows = training_rows(factory, count, dimension, config.metric)
    if rows:
        _, sample_ND = sample_vectors(output, blocks, config.metric, rows, (config.seed, 0))
    return train_index(factory, dimension, config.metric, sample_ND)
