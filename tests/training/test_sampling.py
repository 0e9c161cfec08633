"""training.sampling: which videos and clips make up the batches, and in what order."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.errors import AbortError
from training import sampling
from training.batches import TrainBatch
from training.clips import TrackDims
from training.config import TrainConfig
from training.sampling import (
    ClipSampler,
    VideoRef,
    epoch_lanes,
    open_training_set,
    read_ahead,
    shuffle_through,
)

MakeConfig = Callable[..., TrainConfig]
VIDEOS = [VideoRef(i // 5, f"v{i}") for i in range(23)]


def sampler_of(dataset: str, config: TrainConfig, rank: int = 0, world: int = 1) -> ClipSampler:
    return ClipSampler(open_training_set(dataset, config.sampling), config, rank, world)


def same(a: TrainBatch, b: TrainBatch) -> bool:
    return (
        a.keys == b.keys
        and a.clips == b.clips
        and torch.equal(a.inputs.visual_BV, b.inputs.visual_BV)
        and torch.equal(a.inputs.spectrogram_BMT, b.inputs.spectrogram_BMT)
        and torch.equal(a.inputs.text_BSE, b.inputs.text_BSE)
    )


def all_same(a: list[TrainBatch], b: list[TrainBatch]) -> bool:
    return len(a) == len(b) and all(map(same, a, b))


def test_the_training_set_leaves_out_tests_and_failures(dataset: str, make_config) -> None:
    training_set = open_training_set(dataset, make_config().sampling)
    assert [video.key for video in training_set.videos] == [f"video{i:03d}" for i in range(16)]
    assert training_set.dims == TrackDims((24, 16), 40, 20)


def test_a_dataset_without_training_videos_is_refused(
    tmp_path: Path, make_dataset: Callable, make_sample: Callable, make_config: MakeConfig
) -> None:
    empty = make_dataset(tmp_path / "tests", [make_sample(0, split="test")])
    with pytest.raises(AbortError, match="no videos to train on"):
        open_training_set(empty, make_config().sampling)
    one = make_dataset(tmp_path / "one", [make_sample(0, sound=False, segments=0)])
    with pytest.raises(AbortError, match="training needs two modalities"):
        open_training_set(one, make_config().sampling)


def test_batches_hang_on_the_seed_and_the_epoch_alone(dataset: str, make_config) -> None:
    config = make_config()
    sampler = sampler_of(dataset, config)
    first = list(sampler.batches(epoch=0))
    assert len(first) == sampler.batches_per_epoch == 4
    assert all_same(first, list(sampler.batches(epoch=0)))  # from the cache
    uncached = make_config(sampling__cache_megabytes=0)
    assert all_same(first, list(sampler_of(dataset, uncached).batches(epoch=0)))
    assert not all_same(first, list(sampler.batches(epoch=1)))
    other = make_config(seed=2)
    assert not all_same(first, list(sampler_of(dataset, other).batches(epoch=0)))


@pytest.mark.parametrize("megabytes", [0, 1000])
@pytest.mark.parametrize("buffer", [1, 5, 1000])
def test_an_epoch_resumes_at_any_batch(dataset: str, make_config, buffer, megabytes) -> None:
    config = make_config(sampling__shuffle_videos=buffer, sampling__cache_megabytes=megabytes)
    whole = list(sampler_of(dataset, config).batches(epoch=3))
    assert sorted({key for batch in whole for key in batch.keys}) == [
        f"video{i:03d}" for i in range(16)
    ]
    for first in range(5):
        resumed = list(sampler_of(dataset, config).batches(epoch=3, first_batch=first))
        assert all_same(resumed, whole[first:])


def test_resuming_reads_no_shard_that_is_used_up(dataset: str, make_config, monkeypatch) -> None:
    read: list[int] = []
    original = sampling.read_shard

    def counted(dataset: str, number: int, tracks: set[str]):
        read.append(number)
        return original(dataset, number, tracks)

    config = make_config(sampling__shuffle_videos=1)
    sampler = sampler_of(dataset, config)
    monkeypatch.setattr(sampling, "read_shard", counted)
    list(sampler.batches(epoch=0, first_batch=2))
    assert len(read) == 1
    list(sampler.batches(epoch=0))
    assert len(read) == 2  # the other shard; the first is cached
    list(sampler.batches(epoch=1))
    assert len(read) == 2


@pytest.mark.parametrize("lanes", [1, 2, 3, 7])
def test_lanes_are_disjoint_complete_and_read_few_shards(lanes: int) -> None:
    parts = epoch_lanes(VIDEOS, 1, 5, lanes)
    assert sorted(video for part in parts for video in part) == sorted(VIDEOS)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    touched = [len({video.shard for video in part}) for part in parts]
    assert sum(touched) <= 5 + lanes - 1  # each cut splits one shard at most


@pytest.mark.parametrize("buffer", [1000, 6])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_share_the_batches_of_one_process(dataset, make_config, world_size, buffer) -> None:
    """Six videos a batch: 16 of them in one lane, or (a small buffer) in three lanes of two."""
    config = make_config(
        sampling__batch_videos=6, sampling__shuffle_videos=buffer, sampling__lanes=3
    )
    alone = list(sampler_of(dataset, config).batches(epoch=1))
    samplers = [sampler_of(dataset, config, rank, world_size) for rank in range(world_size)]
    shares = [list(sampler.batches(epoch=1)) for sampler in samplers]
    assert {sampler.batches_per_epoch for sampler in samplers} == {len(alone)} == {2}
    for batch, *parts in zip(alone, *shares, strict=True):
        assert sum((part.keys for part in parts), ()) == batch.keys
        assert sum((part.clips for part in parts), ()) == batch.clips
        assert sum((part.places for part in parts), ()) == batch.places
        assert sum((part.videos for part in parts), ()) == batch.videos
        assert sorted(set(batch.places)) == list(range(6))
        assert max(len(part.videos) for part in parts) == -(-6 // world_size)


def test_as_many_ranks_as_lanes_read_each_shard_once(
    tmp_path: Path, make_dataset, make_sample, make_config, monkeypatch
) -> None:
    big = make_dataset(tmp_path / "big", [make_sample(i) for i in range(16)], 2)
    read: list[int] = []
    original = sampling.read_shard

    def counted(dataset: str, number: int, tracks: set[str]):
        read.append(number)
        return original(dataset, number, tracks)

    config = make_config(sampling__shuffle_videos=4, sampling__lanes=4)
    samplers = [sampler_of(big, config, rank, 4) for rank in range(4)]
    monkeypatch.setattr(sampling, "read_shard", counted)
    for sampler in samplers:
        assert len(list(sampler.batches(epoch=0))) == 4
    assert sorted(read) == list(range(8))


def test_a_share_without_clips_is_empty(tmp_path: Path, make_dataset, make_sample, make_config):
    videos = [make_sample(0), make_sample(1, sound=False, picture=False, segments=0)]
    some = make_dataset(tmp_path / "set", videos)
    config = make_config(sampling__batch_videos=2)
    shares = [next(sampler_of(some, config, rank, 2).batches(epoch=0)) for rank in range(2)]
    assert sorted(len(share.keys) for share in shares) == [0, 2]
    assert sorted(share.videos for share in shares) == [("video000",), ("video001",)]


@pytest.mark.parametrize("size", [1, 4, 23, 100])
def test_the_shuffle_holds_no_more_than_its_buffer(size: int) -> None:
    order = shuffle_through(VIDEOS, size, np.random.default_rng(0))
    assert sorted(order) == sorted(VIDEOS)
    place = {video: i for i, video in enumerate(VIDEOS)}
    read = held = 0
    for i, video in enumerate(order):
        read = max(read, place[video] + 1)
        held = max(held, read - i)
    assert held <= size
    assert (order == VIDEOS) == (size == 1)


def test_the_epoch_moves_the_shards() -> None:
    firsts = {epoch_lanes(VIDEOS, 1, epoch, 1)[0][0].shard for epoch in range(30)}
    assert firsts == {0, 1, 2, 3, 4}


def test_the_cache_is_bounded(dataset: str, make_config) -> None:
    sampler = sampler_of(dataset, make_config(sampling__cache_megabytes=0.15))
    list(sampler.batches(epoch=0))
    assert 0 < sampler._cached_bytes <= 0.15 * 2**20
    assert 0 < len(sampler._cache) < 16


def test_a_tar_that_lacks_a_video_is_named(
    tmp_path: Path, make_dataset: Callable, make_sample: Callable, make_config: MakeConfig
) -> None:
    config = make_config(sampling__batch_videos=3)
    broken = make_dataset(tmp_path / "set", [make_sample(i) for i in range(3)])
    training_set = open_training_set(broken, config.sampling)
    other = make_dataset(tmp_path / "other", [make_sample(i) for i in range(2)])
    sampler = ClipSampler(
        sampling.TrainingSet(other, training_set.videos, training_set.dims), config
    )
    with pytest.raises(AbortError, match="shard 000000 lists video video002"):
        list(sampler.batches(epoch=0))


def test_reading_ahead_gives_the_same_and_passes_errors_on(dataset: str, make_config) -> None:
    sampler = sampler_of(dataset, make_config())
    assert all_same(list(read_ahead(sampler.batches(0))), list(sampler.batches(0)))

    def failing():
        yield next(sampler.batches(0))
        raise AbortError("gone")

    ahead = read_ahead(failing())
    next(ahead)
    with pytest.raises(AbortError, match="gone"):
        next(ahead)


@pytest.mark.parametrize("left_out", ["video", "audio", "text"])
def test_a_modality_can_be_left_out(dataset: str, make_config: MakeConfig, left_out: str) -> None:
    kept = [name for name in ("video", "audio", "text") if name != left_out]
    config = make_config(sampling__modalities=kept)
    training_set = open_training_set(dataset, config.sampling)
    widths = {"video": training_set.dims.visual, "audio": training_set.dims.audio}
    widths["text"] = training_set.dims.text
    expected = {"video": (24, 16), "audio": 40, "text": 20}
    assert widths == expected | {left_out: (0, 0) if left_out == "video" else 0}
    batch = next(ClipSampler(training_set, config).batches(0))
    assert not batch.inputs.present[left_out].any()
    assert all(batch.inputs.present[name].any() for name in kept)


def test_missing_modalities_can_count_as_in_the_official_code(dataset: str, make_config) -> None:
    """The odd videos of the dataset have no sound, no speech or no picture."""
    absent = {}
    for masked in (True, False):
        config = make_config(sampling__batch_videos=16, loss__mask_missing=masked)
        training_set = open_training_set(dataset, config.sampling)
        batch = next(ClipSampler(training_set, config).batches(0)).inputs
        masks = torch.stack([*batch.present.values(), *batch.parts_BP.T])
        absent[masked] = int((~masks).sum())
    assert absent[True] > 0
    assert absent[False] == 0
