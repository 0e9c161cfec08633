"""Synthetic embeddings, and indexes built from them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from index.build import BuildProgress, embedding_settings, publish_index, update_embeddings
from index.card import IndexCard
from index.config import IndexConfig
from index.embedding_shards import MODALITIES, ClipRow, EmbeddingRecord, clip_table
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

    def build(self, config: IndexConfig, model_digest: str = MODEL_DIGEST) -> IndexCard:
        def embed(number: int) -> pa.Table:
            self.embedded.append(number)
            return clip_table(*self.arrays(number), targets=config.targets)

        records: list[EmbeddingRecord] = update_embeddings(
            self.dataset,
            self.output,
            embed=embed,
            model_digest=model_digest,
            settings=embedding_settings(config),
            on_progress=self.progress.append,
        )
        return publish_index(self.output, config, records, dataset=self.dataset, run="/run")


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
