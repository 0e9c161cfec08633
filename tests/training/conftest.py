"""Synthetic shard datasets: six topics, each with its own picture, sound and words."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.tracks import Segment, Track
from pipeline import shards, storage
from pipeline.samples import VideoSample, encode_sample, write_tar
from training.config import TrainConfig

VISUAL_2D, VISUAL_3D, MELS, TEXT = 24, 16, 40, 20
TOPICS = 6


def topic_directions(seed: int = 0) -> dict[str, np.ndarray]:
    """A fixed random direction a topic and track."""
    rng = np.random.default_rng((seed, 99))
    widths = {"visual_2d": VISUAL_2D, "visual_3d": VISUAL_3D, "audio": MELS, "text": TEXT}
    return {name: rng.normal(size=(TOPICS, width)) for name, width in widths.items()}


def make_video(
    number: int,
    duration: float = 6.0,
    segments: int = 2,
    sound: bool = True,
    picture: bool = True,
    split: str = "train",
) -> VideoSample:
    """A video of topic `number % TOPICS`; the clips of a video share the topic, not the noise."""
    topic, means = number % TOPICS, topic_directions()
    rng = np.random.default_rng((7, number))

    def noisy(name: str, rows: int, noise: float) -> np.ndarray:
        mean = means[name][topic]
        return (mean + noise * rng.normal(size=(rows, len(mean)))).astype(np.float16)

    tracks = {}
    if picture:
        tracks["visual_2d"] = Track(noisy("visual_2d", int(duration), 0.5), start=0.5, hop=1.0)
        rows_3d = int(duration * 1.5)
        tracks["visual_3d"] = Track(noisy("visual_3d", rows_3d, 0.5), start=1 / 3, hop=2 / 3)
    if sound:
        decibel = -40 + 10 * noisy("audio", int(duration * 100), 0.5)
        tracks["audio"] = Track(np.clip(decibel, -80, 0).astype(np.float16), start=0.0, hop=0.01)
    edges = np.linspace(0, duration, segments + 1)
    spoken = tuple(
        Segment(float(a), float(b), f"topic {topic}", "captions")
        for a, b in pairwise(edges)
        if segments
    )
    meta = {
        "uri": f"{number}.mp4",
        "duration": duration,
        "label": f"topic{topic}",
        "split": split,
        "tracks": {name: {"start": t.start, "hop": t.hop} for name, t in tracks.items()},
    }
    text = noisy("text", segments, 0.5) if segments else None
    return VideoSample(f"video{number:03d}", meta, tracks, spoken, text)


def write_dataset(folder: Path, samples: Iterable[VideoSample], shard_size: int = 8) -> str:
    """Publishes shards as extraction does: tar, parquet, record. Returns the dataset's path."""
    samples, dataset = list(samples), str(folder)
    (folder / "shards").mkdir(parents=True)
    for number, first in enumerate(range(0, len(samples), shard_size)):
        part = samples[first : first + shard_size]
        tar = Path(shards.shard_url(dataset, number, ".tar"))
        parquet = Path(shards.shard_url(dataset, number, ".parquet"))
        write_tar(tar, [(sample.key, encode_sample(sample)) for sample in part])
        rows = [
            {"key": s.key, "status": "success", "split": s.meta["split"], "rows": []} for s in part
        ]
        rows.append({"key": f"broken{number}", "status": "failed", "split": "train", "rows": []})
        shards.write_rows(parquet, rows)
        record = shards.ShardRecord(
            number=number,
            count=len(rows),
            successes=len(part),
            reasons={"truncated": 1},
            tar_sha256=shards.sha256_of(tar),
            tar_bytes=tar.stat().st_size,
            parquet_sha256=shards.sha256_of(parquet),
            job="0",
            stage_seconds={},
            video_seconds=sum(s.duration for s in part),
            started="",
            ended="",
        )
        url = shards.shard_url(dataset, number, "_stats.json")
        storage.publish_json(url, {"format_version": 1, **asdict(record)})
    return dataset


def small_config(**changes: object) -> TrainConfig:
    """A model of some 20,000 weights; `changes` are dotted keys with __ for the dot."""
    tree: dict[str, object] = {
        "epochs": 2,
        "log_steps": 1,
        "checkpoint_steps": 2,
        "sampling": {"batch_videos": 4, "clips_per_video": 2, "min_time": 2.0},
        "model": {"embedding_dim": 16, "audio_widths": [8, 8], "audio_blocks": 1, "decoder_dim": 8},
        "loss": {"reconstruction_weight": 1.0},
        "clustering": {"clusters": 4, "queue_rows": 24, "refit_steps": 2},
        "optimiser": {"lr": 1e-3, "warmup_steps": 2},
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})  # type: ignore[assignment]
        node[last] = value
    return TrainConfig.model_validate(tree)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small matrices are slower on many threads, and bits depend on their number."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_config() -> Callable[..., TrainConfig]:
    return small_config


@pytest.fixture(scope="session")
def make_sample() -> Callable[..., VideoSample]:
    return make_video


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., str]:
    return write_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """20 videos in shards of 8: 16 to train on (two silent, two without speech, one without a
    picture), 4 of the test split."""
    odd = {1: {"sound": False}, 2: {"segments": 0}, 9: {"sound": False}, 10: {"segments": 0}}
    odd[5] = {"picture": False}
    videos = [make_video(i, **odd.get(i, {})) for i in range(16)]
    videos += [make_video(i, split="test") for i in range(16, 20)]
    return write_dataset(tmp_path_factory.mktemp("data") / "set", videos)
