"""Proxies in shards: made beside the tracks, read back, the same bytes again."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors import proxy
from extractors.decode_config import ProxyConfig
from extractors.errors import AbortError, Reason, VideoError
from extractors.proxy_reader import ProxyReader
from pipeline.config import ExtractConfig
from pipeline.jobs import Job, run_job
from pipeline.provenance import fingerprints
from pipeline.samples import read_shard
from pipeline.sources import SourceVideo
from pipeline.worker import Worker
from tests.pipeline.conftest import Clips, tar_digests

CPU = torch.device("cpu")


@pytest.fixture
def with_proxies(config: ExtractConfig) -> ExtractConfig:
    return config.model_copy(update={"proxy": ProxyConfig(short_side=64)})


@pytest.fixture
def videos(clips: Clips) -> tuple[SourceVideo, ...]:
    paths = [clips.make("red.mp4", "red"), clips.make("mute_blue.mp4", "blue", tone=None)]
    return tuple(SourceVideo(path.stem, str(path), path.name) for path in paths)


def made(folder: Path, config: ExtractConfig, videos: tuple[SourceVideo, ...]) -> Path:
    with Worker(config, CPU) as worker:
        record = run_job(Job(str(folder), 0, videos, "x"), worker)
    assert record.successes == len(videos), record
    return folder


def test_every_video_has_its_proxy(
    tmp_path: Path, with_proxies: ExtractConfig, videos: tuple[SourceVideo, ...]
) -> None:
    dataset = made(tmp_path, with_proxies, videos)
    for sample, colour in zip(read_shard(str(dataset), 0), ([255, 0, 0], [0, 0, 255]), strict=True):
        assert sample.proxy is not None
        reader = ProxyReader(sample.proxy)
        frames = reader.read([0.0, 0.5, 0.99])
        assert frames.shape == (3, 64, 86, 3)
        np.testing.assert_allclose(frames.mean((0, 1, 2)), colour, atol=8)
        assert sample.meta["proxy"] == {"rate": 12.0, "absent": ""}
        assert reader.rate == 12.0
        assert sample.tracks["colour"].rows.shape == (4, 3)
    with tarfile.open(dataset / "shards" / "000000.tar") as tar:
        assert "red.proxy.mp4" in tar.getnames()


def test_a_second_run_gives_the_same_tar(
    tmp_path: Path, with_proxies: ExtractConfig, videos: tuple[SourceVideo, ...]
) -> None:
    first = made(tmp_path / "first", with_proxies, videos)
    second = made(tmp_path / "second", with_proxies, videos[:])
    assert tar_digests(first) == tar_digests(second) != {}


def test_proxies_change_no_track(
    tmp_path: Path,
    config: ExtractConfig,
    with_proxies: ExtractConfig,
    videos: tuple[SourceVideo, ...],
) -> None:
    plain = list(read_shard(str(made(tmp_path / "plain", config, videos)), 0))
    rich = list(read_shard(str(made(tmp_path / "rich", with_proxies, videos)), 0))
    for one, other in zip(plain, rich, strict=True):
        assert one.proxy is None
        assert one.tracks.keys() == other.tracks.keys()
        for name, track in one.tracks.items():
            np.testing.assert_array_equal(track.rows, other.tracks[name].rows)
    before, after = fingerprints(config), fingerprints(with_proxies)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"proxy"}


def test_a_proxy_is_read_only_where_it_is_wanted(
    tmp_path: Path, with_proxies: ExtractConfig, videos: tuple[SourceVideo, ...]
) -> None:
    dataset = str(made(tmp_path, with_proxies, videos))
    assert [sample.proxy for sample in read_shard(dataset, 0, {"audio"})] == [None, None]
    for sample in read_shard(dataset, 0, {"proxy"}):
        assert sample.proxy
        assert sample.tracks == {}


def test_sound_alone_has_an_empty_member(
    tmp_path: Path, with_proxies: ExtractConfig, clip: Path
) -> None:
    sound = tmp_path / "sound.wav"
    command = [proxy.ffmpeg_binary(), "-v", "error", "-i", str(clip), str(sound)]
    proxy.subprocess.run(command, check=True, timeout=60)
    dataset = made(tmp_path / "d", with_proxies, (SourceVideo("s", str(sound), "sound.wav"),))
    (sample,) = read_shard(str(dataset), 0)
    assert sample.proxy is None
    assert sample.meta["proxy"]["absent"] == "no picture"
    with tarfile.open(dataset / "shards" / "000000.tar") as tar:
        assert tar.getmember("s.proxy.mp4").size == 0


def test_a_proxy_that_fails_costs_its_video_alone(
    with_proxies: ExtractConfig,
    videos: tuple[SourceVideo, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finish = proxy.ProxyWriter.finish

    def failing(self: proxy.ProxyWriter) -> bytes:
        if "red" in self._path:
            raise VideoError(Reason.EXTRACTOR_ERROR, "proxy", "as planned")
        return finish(self)

    monkeypatch.setattr(proxy.ProxyWriter, "finish", failing)
    with Worker(with_proxies, CPU) as worker:
        (red, no_sample), (_, sample) = list(worker.extract(videos))
    assert no_sample is None
    assert red.failure is not None
    assert red.failure.stage == "proxy"
    assert sample is not None
    assert worker.stage_seconds["proxy"] > 0


def test_no_encoder_ends_the_run_before_the_first_video(
    with_proxies: ExtractConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "ffmpeg_binary", lambda: "/bin/true")
    with pytest.raises(AbortError, match="libx264"), Worker(with_proxies, CPU):
        pass


def test_a_setting_of_the_proxy_changes_its_fingerprint(
    with_proxies: ExtractConfig, load: Callable[..., ExtractConfig]
) -> None:
    before = fingerprints(load("extract.proxy.rate=12"))
    after = fingerprints(load("extract.proxy.rate=6"))
    assert {name for name in before if before[name] != after[name]} == {"proxy"}


@pytest.fixture
def load() -> Callable[..., ExtractConfig]:
    def loaded(*sets: str) -> ExtractConfig:
        from pipeline.cli.options import load_config

        return load_config("embedded", None, list(sets)).extract

    return loaded
