"""The sizes of MCN's released run, and a dataset of random features in its layout, for timing."""

from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from measuring import Cost, Ratio

from extractors.tracks import Segment, Track
from pipeline import storage
from pipeline.samples import VideoSample, encode_sample, write_tar
from pipeline.shards import FORMAT_VERSION, ShardRecord, sha256_of, shard_url, write_rows

CPU = torch.device("cpu")
D, VIDEOS, CLIPS_PER_VIDEO, CLUSTERS, QUEUE = 1024, 2, 32, 256, 40_960
CLIPS = VIDEOS * CLIPS_PER_VIDEO
Measured = tuple[dict[str, list[Cost]], list[Ratio]]
"""What a part of the benchmark finds."""

WORDS = [f"word{number}" for number in range(500)]
VIDEOS_PER_SHARD = 8
SEGMENT_SECONDS = 4.0


class WordVectors:
    """What the released loader asks of gensim's word vectors."""

    def __init__(self, dim: int) -> None:
        rng = np.random.default_rng(0)
        self.vocab = {word: number for number, word in enumerate(WORDS)}
        self._rows = rng.normal(size=(len(WORDS), dim)).astype(np.float32)

    def __getitem__(self, words: list[str]) -> np.ndarray:
        return self._rows[[self.vocab[word] for word in words]]


def make_dataset(folder: Path, videos: int, seconds: float, vectors: WordVectors) -> str:
    """Publishes shards of so many videos of so many seconds; gives the dataset."""
    dataset = str(folder)
    (folder / "shards").mkdir(parents=True)
    samples = [_video(number, seconds, vectors) for number in range(videos)]
    for number, first in enumerate(range(0, videos, VIDEOS_PER_SHARD)):
        _publish(dataset, number, samples[first : first + VIDEOS_PER_SHARD])
    tracks = {
        "visual_2d": {"dim": 2048, "dtype": "float16", "start": 0.5, "hop": 1.0},
        "visual_3d": {"dim": 2048, "dtype": "float16", "start": 1 / 3, "hop": 2 / 3},
        "audio": {"dim": 40, "dtype": "float16", "start": 0.0, "hop": 0.01},
    }
    card = {"format_version": FORMAT_VERSION, "fingerprint": "", "tracks": tracks}
    card |= {"fingerprints": {}, "config": {}}
    storage.publish_json(storage.join(dataset, "dataset.json"), card)
    return dataset


def _video(number: int, seconds: float, vectors: WordVectors) -> VideoSample:
    rng = np.random.default_rng((1, number))

    def rows(count: float, width: int) -> np.ndarray:
        return np.abs(rng.normal(size=(int(count), width))).astype(np.float16)

    segments = tuple(_segments(seconds, rng))
    spoken = [segment.text.split() for segment in segments]
    tracks = {
        "visual_2d": Track(rows(seconds, 2048), start=0.5, hop=1.0),
        "visual_3d": Track(rows(seconds * 1.5, 2048), start=1 / 3, hop=2 / 3),
        "audio": Track(-10 * rows(seconds * 100, 40), start=0.0, hop=0.01),
    }
    facts = {n: {"start": t.start, "hop": t.hop, "rows": len(t.rows)} for n, t in tracks.items()}
    meta = {"path": f"v{number:04d}.mp4", "duration": seconds, "split": "train", "tracks": facts}
    return VideoSample(
        key=f"v{number:04d}",
        meta=meta,
        tracks=tracks,
        segments=segments,
        text=np.concatenate([vectors[words] for words in spoken]).astype(np.float16),
        text_offsets=np.cumsum([0, *map(len, spoken)]),
    )


def _segments(seconds: float, rng: np.random.Generator) -> Iterator[Segment]:
    for start, end in pairwise(np.arange(0, seconds, SEGMENT_SECONDS)):
        words = rng.choice(WORDS, size=int(rng.integers(6, 14)))
        yield Segment(float(start), float(end), " ".join(words), "captions")


def _publish(dataset: str, number: int, samples: list[VideoSample]) -> None:
    """Tar, parquet and record of one shard."""
    tar = Path(shard_url(dataset, number, ".tar"))
    parquet = Path(shard_url(dataset, number, ".parquet"))
    write_tar(tar, [(sample.key, encode_sample(sample)) for sample in samples])
    facts = {"status": "success", "split": "train", "rows": {}}
    write_rows(parquet, [{"key": sample.key} | facts for sample in samples])
    record = ShardRecord(
        number=number,
        count=len(samples),
        successes=len(samples),
        reasons={},
        tar_sha256=sha256_of(tar),
        tar_bytes=tar.stat().st_size,
        parquet_sha256=sha256_of(parquet),
        job="",
        stage_seconds={},
        video_seconds=sum(sample.duration for sample in samples),
        started="",
        ended="",
    )
    url = shard_url(dataset, number, "_stats.json")
    storage.publish_json(url, {"format_version": FORMAT_VERSION} | asdict(record))
