"""Making the embeddings of a dataset current: one job a feature shard that needs it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from extractors.errors import AbortError, UsageError
from index.config import IndexConfig
from index.embedding_shards import (
    EmbeddingRecord,
    embedding_numbers,
    is_whole,
    publish_embeddings,
    read_record,
)
from index.embeddings import Embedder, embed_shard, load_embedder
from pipeline.shards import read_record as read_shard_record
from pipeline.shards import shard_numbers


@dataclass(frozen=True)
class EmbeddingJob:
    """A feature shard whose embeddings are missing, old or damaged."""

    number: int
    tar_sha256: str


@dataclass(frozen=True)
class BuildProgress:
    """How far the embedding of a dataset is, in feature shards."""

    done: int
    """Kept and embedded anew."""
    total: int
    kept: int
    """Already embedded by this model with these settings, and whole."""


OnProgress = Callable[[BuildProgress], None]
Work = Callable[[Sequence[EmbeddingJob]], Iterator[EmbeddingRecord]]
"""Publishes the embeddings of each job and gives their records, in any order."""


def embedding_settings(config: IndexConfig) -> dict[str, Any]:
    """The settings that decide the numbers in embeddings/, and so whether they are current."""
    deciding = {"targets", "clips", "window", "overlap"}
    deciding |= {"shots_track"} if config.clips == "shots" else set()
    return config.model_dump(mode="json", include=deciding)


def update_embeddings(
    dataset: str,
    output: str,
    *,
    work: Work,
    model_digest: str,
    settings: Mapping[str, Any],
    on_progress: OnProgress,
) -> list[EmbeddingRecord]:
    """Makes embeddings/ current and returns the records of all feature shards, in order.

    Raises UsageError for a dataset without shards, AbortError for an output that holds the
    embeddings of another one's.
    """
    numbers = shard_numbers(dataset)
    _check_numbers(dataset, output, numbers)
    records: dict[int, EmbeddingRecord] = {}
    jobs = []
    for number in numbers:
        tar_sha256 = read_shard_record(dataset, number).tar_sha256
        record = read_record(output, number)
        current = record is not None and record.is_of(tar_sha256, model_digest, settings)
        if record is not None and current and is_whole(output, record):
            records[number] = record
        else:
            jobs.append(EmbeddingJob(number, tar_sha256))
    kept = len(records)
    on_progress(BuildProgress(done=kept, total=len(numbers), kept=kept))
    for record in work(jobs):
        records[record.number] = record
        on_progress(BuildProgress(done=len(records), total=len(numbers), kept=kept))
    return [records[number] for number in numbers]


@dataclass(frozen=True)
class EmbeddingSetup:
    """Loads the model in a worker; calling it gives the work on one job."""

    dataset: str
    run: str
    output: str
    config: IndexConfig
    device: torch.device

    def __call__(self) -> Callable[[EmbeddingJob], EmbeddingRecord]:
        """Loads the model."""
        return self.with_embedder(load_embedder(self.run, self.device))

    def with_embedder(self, embedder: Embedder) -> Callable[[EmbeddingJob], EmbeddingRecord]:
        """The work, with a model that is loaded already."""

        def work(job: EmbeddingJob) -> EmbeddingRecord:
            with _torch_threads(self.config.threads):
                table = embed_shard(embedder, self.dataset, job.number, config=self.config)
            return publish_embeddings(
                self.output,
                job.number,
                table,
                tar_sha256=job.tar_sha256,
                model_digest=embedder.digest,
                settings=embedding_settings(self.config),
            )

        return work


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """A matrix product's last bits depend on its threads: the same number in every executor."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_numbers(dataset: str, output: str, numbers: list[int]) -> None:
    if not numbers:
        raise UsageError(f"{dataset}: no finished shards there: `pipeline run extract` makes them")
    extra = sorted(set(embedding_numbers(output)) - set(numbers))
    if extra:
        raise AbortError(
            f"{output}: holds embeddings of shard {extra[0]}, which {dataset} does not have: "
            "another dataset's index? choose another --output or remove it"
        )
