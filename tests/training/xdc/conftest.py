"""A real small corpus: ffmpeg-made videos of three topics, extracted to proxies and log-mel."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from extractors.config import LogMelConfig
from extractors.decode_config import ProxyConfig
from pipeline.config import ExtractConfig
from pipeline.extract import plan_extract, run_extract
from tests.conftest import Media
from training.xdc.config import XdcConfig
from training.xdc.video_set import VideoSet, open_video_set

TOPICS, VIDEOS, SECONDS = 3, 10, 2.4
SILENT, UNSEEN = "clip04", "clip07"
"""A video without sound, and one without a picture."""
COLOURS = ((220, 60, 40), (50, 200, 70), (60, 80, 230))
TONES = (300, 1200, 3600)


def frames_of(number: int, seconds: float = SECONDS) -> np.ndarray:
    """A square of the topic's colour that moves to the right, on noise of the video's own."""
    rng = np.random.default_rng((5, number))
    count = round(seconds * 25)
    frames = rng.integers(60, 120, (1, 48, 64, 3), dtype=np.uint8).repeat(count, axis=0)
    for i in range(count):
        left, top = 4 + i * 36 // count, 8 + number % 3
        frames[i, top : top + 24, left : left + 20] = COLOURS[number % TOPICS]
    return frames


def sound_of(number: int, seconds: float = SECONDS) -> np.ndarray:
    """The topic's tone, slightly off, with noise."""
    rng = np.random.default_rng((6, number))
    time = np.arange(round(seconds * 16_000)) / 16_000
    tone = 0.4 * np.sin(2 * np.pi * TONES[number % TOPICS] * rng.uniform(0.97, 1.03) * time)
    return tone + 0.02 * rng.normal(size=len(time))


def make_corpus(media: Media, folder: Path) -> Path:
    """10 videos to train on and one of the test split, 2.4 s each; gives the list of them."""
    lines = ["path,label,split"]
    for number in range(VIDEOS + 1):
        target = folder / f"clip{number:02d}.mp4"
        sound = media.path(f"tone{number}.wav")
        wavfile.write(sound, 16_000, np.round(sound_of(number) * 32767).astype(np.int16))
        lines.append(f"{target.name},topic{number % TOPICS},{'test' if number == VIDEOS else ''}")
        if target.stem == UNSEEN:
            media.run("-i", sound, "-c:a", "aac", target)
            continue
        codec = ["-c:v", "mpeg4", "-q:v", "2", "-c:a", "aac"]
        inputs = [] if target.stem == SILENT else ["-i", sound]
        made = media.video(target.name, codec, frames=frames_of(number), inputs=inputs)
        Path(made).replace(target)
    listed = folder / "videos.csv"
    listed.write_text("\n".join(lines))
    return listed


def extract_config(**changes: object) -> ExtractConfig:
    """Proxies of 32 pixels and XDC's log-mel, nothing that needs weights."""
    settings: dict[str, object] = {
        "videos_per_shard": 8,
        "extractors": {"mel": LogMelConfig(front_end="xdc")},
        "proxy": ProxyConfig(short_side=32),
        "speech": None,
        "text": None,
    }
    return ExtractConfig.model_validate(settings | changes)


def extract(source: Path, dataset: Path, config: ExtractConfig) -> str:
    """Runs to the end; gives the dataset's path."""
    todo = plan_extract(str(source), str(dataset), config)
    device = torch.device("cpu")
    run_extract(
        todo,
        str(dataset),
        config,
        device,
        executor="local",
        num_workers=1,
        on_record=lambda record: None,
    )
    return str(dataset)


def small_config(**changes: object) -> XdcConfig:
    """Encoders of some 10,000 weights; `changes` are dotted keys with __ for the dot."""
    tree: dict[str, object] = {
        "iterations": 2,
        "epochs": 2,
        "patience": None,
        "checkpoint_steps": 2,
        "log_steps": 1,
        "video": {"widths": [4, 8], "blocks": [1, 1], "frames": 4, "short_side": 32, "size": 24},
        "audio": {"widths": [4, 8], "blocks": [1, 1], "seconds": 0.8},
        "clustering": {"clusters": 3},
        "sampling": {"batch_clips": 4, "held_out": 0.2, "loader_workers": 0},
        "optimiser": {"name": "adamw", "lr": 3e-3, "warmup_steps": 2},
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})  # type: ignore[assignment]
        node[last] = value
    return XdcConfig.model_validate(tree)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Bits depend on the number of threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def corpus(media: Media, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(media, tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def dataset(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return extract(corpus, tmp_path_factory.mktemp("data") / "set", extract_config())


@pytest.fixture(scope="session")
def make_config() -> Callable[..., XdcConfig]:
    return small_config


@pytest.fixture(scope="session")
def videos(dataset: str) -> VideoSet:
    return open_video_set(dataset, small_config())
