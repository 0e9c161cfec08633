"""Making the embeddings of a dataset current: one job a feature shard that needs it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from extractors.errors import AbortError, UsageError
from index.card import read_card
from index.config import IndexConfig
from index.embedding_shards import (
    EmbeddingRecord,
    embedding_numbers,
    embedding_url,
    is_whole,
    publish_embeddings,
    read_record,
)
from index.embeddings import Embedder, embed_shard, load_embedder
from pipeline import storage
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
    """Makes embeddings/ current and returns the records of all feature shards, in order; those of
    shards that are gone are removed.

    Raises UsageError for a dataset without shards, AbortError for an output that holds the
    embeddings of another one's.
    """
    tars = {n: read_shard_record(dataset, n).tar_sha256 for n in shard_numbers(dataset)}
    _check_ours(dataset, output, tars)
    records: dict[int, EmbeddingRecord] = {}
    jobs = []
    for number, tar_sha256 in tars.items():
        record = read_record(output, number)
        current = record is not None and record.is_of(tar_sha256, model_digest, settings)
        if record is not None and current and is_whole(output, record):
            records[number] = record
        else:
            jobs.append(EmbeddingJob(number, tar_sha256))
    kept = len(records)
    on_progress(BuildProgress(done=kept, total=len(tars), kept=kept))
    for record in work(jobs):
        records[record.number] = record
        on_progress(BuildProgress(done=len(records), total=len(tars), kept=kept))
    _remove_others(output, tars)
    return [records[number] for number in tars]


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


def _check_ours(dataset: str, output: str, tars: Mapping[int, str]) -> None:
    """Refuses an output whose card names another dataset, or that has none and holds shards which
    this one has not, unless some embeddings are of this one's shards: it may have moved."""
    if not tars:
        raise UsageError(f"{dataset}: no finished shards there: `pipeline run extract` makes them")
    there, named = embedding_numbers(output), _dataset_of_card(output)
    ours = named == storage.absolute(dataset) or any(map(partial(_is_of, output, tars), there))
    if ours or not there:
        return
    if named is not None or set(there) - set(tars):
        raise AbortError(
            f"{output}: holds the embeddings of {named or 'another dataset'}, not of {dataset}: "
            "choose another --output or remove it"
        )


def _dataset_of_card(output: str) -> str | None:
    """None where there is no card that this program reads."""
    try:
        return read_card(output).dataset
    except AbortError:
        return None


def _is_of(output: str, tars: Mapping[int, str], number: int) -> bool:
    record = read_record(output, number)
    return record is not None and record.tar_sha256 == tars.get(number)


def _remove_others(output: str, tars: Mapping[int, str]) -> None:
    """Embeddings of shards that the dataset no longer has; the record first."""
    for number in sorted(set(embedding_numbers(output)) - set(tars)):
        for suffix in ("_stats.json", ".parquet"):
            storage.remove(embedding_url(output, number, suffix))
