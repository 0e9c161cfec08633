"""Synthetic embeddings, and indexes built from them."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import faiss
import numpy as np
import pytest

from index.build import Execute, publish_index
from index.card import IndexCard
from index.config import IndexConfig
from index.embedding_jobs import (
    BuildProgress,
    EmbeddingJob,
    embedding_settings,
    update_embeddings,
)
from index.embedding_shards import (
    MODALITIES,
    ClipRow,
    EmbeddingRecord,
    clip_table,
    publish_embeddings,
)
from pipeline import storage
from pipeline.shards import FORMAT_VERSION, ShardRecord, shard_url

DIM = 16
CLIPS = 12
MODEL_DIGEST = "m" * 64


def shard_record(number: int, tar_sha256: str) -> ShardRecord:
    return ShardRecord(
        number=number,
        count=3,
        successes=3,
        reasons={},
        tar_sha256=tar_sha256,
        tar_bytes=0,
        parquet_sha256="",
        job="",
        stage_seconds={},
        video_seconds=0.0,
        started="",
        ended="",
    )


class Corpus:
    """A dataset of shard records only, and the embeddings that a model would make of it."""

    def __init__(self, folder: Path) -> None:
        self.dataset = str(folder / "dataset")
        self.output = str(folder / "index")
        self.embedded: list[int] = []
        """Shards that were embedded, in order."""
        self.progress: list[BuildProgress] = []

    def add_shard(self, number: int, tar_sha256: str = "t") -> None:
        record = dataclasses.asdict(shard_record(number, tar_sha256))
        url = shard_url(self.dataset, number, "_stats.json")
        storage.publish_json(url, {"format_version": FORMAT_VERSION} | record)

    def arrays(
        self, number: int
    ) -> tuple[list[ClipRow], dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Clips, embeddings and presence of a shard: clip 0 has nothing but text, the rest lack
        modalities at random."""
        rng = np.random.default_rng((7, number))
        clips = [
            ClipRow(
                key=f"v{number}_{i // 4}",
                uri=f"/videos/v{number}_{i // 4}.mp4",
                start=2.5 * (i % 4),
                end=2.5 * (i % 4) + 2.5,
                text=f"words {i}" if i % 2 else None,
                label="cooking",
                split="train",
            )
            for i in range(CLIPS)
        ]
        embeddings = {
            name: rng.standard_normal((CLIPS, DIM)).astype(np.float32) for name in MODALITIES
        }
        present = {name: rng.random(CLIPS) < 0.7 for name in MODALITIES}
        present["video"][0] = present["audio"][0] = False
        present["text"][0] = present["video"][1] = True
        return clips, embeddings, present

    def update(
        self, config: IndexConfig, model_digest: str = MODEL_DIGEST
    ) -> list[EmbeddingRecord]:
        settings = embedding_settings(config)

        def work(jobs: Sequence[EmbeddingJob]) -> Iterator[EmbeddingRecord]:
            for job in jobs:
                self.embedded.append(job.number)
                yield publish_embeddings(
                    self.output,
                    job.number,
                    clip_table(*self.arrays(job.number), targets=config.targets),
                    tar_sha256=job.tar_sha256,
                    model_digest=model_digest,
                    settings=settings,
                )

        return update_embeddings(
            self.dataset,
            self.output,
            work=work,
            model_digest=model_digest,
            settings=settings,
            on_progress=self.progress.append,
        )

    def build(
        self,
        config: IndexConfig,
        model_digest: str = MODEL_DIGEST,
        execute: Execute | None = None,
    ) -> IndexCard:
        records = self.update(config, model_digest)
        return publish_index(
            self.output, config, records, dataset=self.dataset, run="/run", execute=execute
        )


@pytest.fixture(autouse=True)
def _one_faiss_thread() -> Iterator[None]:
    """Neighbours on this machine must not make k-means slow."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    made = Corpus(tmp_path)
    for number in (0, 1, 2):
        made.add_shard(number, tar_sha256=f"tar{number}")
    return made


@pytest.fixture
def build_from(tmp_path: Path) -> Callable[..., str]:
    """Builds an index with the given settings and returns its URL."""

    def build(**settings: object) -> str:
        made = Corpus(tmp_path)
        for number in (0, 1):
            made.add_shard(number)
        made.build(IndexConfig.model_validate(settings))
        return made.output

    return build


def overlapping(corpus: Corpus) -> None:
    """Each clip of a corpus reaches into the next one of its video."""
    before = corpus.arrays

    def arrays(number: int):
        clips, embeddings, present = before(number)
        longer = [dataclasses.replace(clip, end=clip.end + 1) for clip in clips]
        return longer, embeddings, present

    corpus.arrays = arrays  # type: ignore[method-assign]


def clusters(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    """Unit vectors around 20 centres."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, dimension))
    x_ND = centres[rng.integers(20, size=count)] + 0.5 * rng.standard_normal((count, dimension))
    return (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32)


def in_process(setup: Callable, items: Sequence) -> Iterator:
    """An executor that gives its results in another order."""
    work = setup()
    for item in reversed(items):
        yield work(item)
