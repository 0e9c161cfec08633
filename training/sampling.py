"""Batches of clips from shards: each video is read once an epoch and many clips are cut from it.

The order of an epoch follows from (seed, epoch, rank) and the shards' parquet alone, so a run
resumes at (epoch, batch) without reading what it has already used.
"""

import hashlib
import itertools
import zlib
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from extractors.errors import AbortError
from pipeline.samples import VideoSample, read_shard
from pipeline.shards import read_record, read_rows, shard_numbers
from training.batches import TrainBatch, collate
from training.clips import Clip, ClipInputs, TrackDims, clip_inputs, draw_clips
from training.config import SamplingConfig, TrainConfig

TEST_SPLIT = "test"


class VideoRef(NamedTuple):
    """Where a video lies."""

    shard: int
    key: str


@dataclass(frozen=True)
class TrainingSet:
    """The videos that a run trains on, without their arrays."""

    dataset: str
    videos: tuple[VideoRef, ...]
    dims: TrackDims


def dataset_digest(dataset: str) -> str:
    """sha256 over the shards' tar_sha256 in the order of their numbers: what the dataset holds."""
    digests = [read_record(dataset, number).tar_sha256 for number in shard_numbers(dataset)]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def open_training_set(dataset: str, config: SamplingConfig) -> TrainingSet:
    """Lists the videos whose split is not 'test' and finds the tracks' widths.

    Raises AbortError where there is no such video or fewer than two modalities to compare.
    """
    videos = tuple(
        VideoRef(number, row["key"])
        for number in shard_numbers(dataset)
        for row in read_rows(dataset, number)
        if row["status"] == "success" and row["split"] != TEST_SPLIT
    )
    if not videos:
        raise AbortError(
            f"{dataset}: no videos to train on (extracted, and of a split other than "
            f"{TEST_SPLIT!r}); run `pipeline run extract` first"
        )
    dims = track_dims(dataset, config)
    there = [bool(sum(dims.visual)), bool(dims.audio), bool(dims.text)]
    if sum(there) < 2:
        wanted = ", ".join([*config.visual_tracks, config.audio_track, "text"])
        raise AbortError(
            f"{dataset}: training needs two modalities, of the tracks {wanted} found widths {dims}"
        )
    return TrainingSet(dataset, videos, dims)


def track_dims(dataset: str, config: SamplingConfig) -> TrackDims:
    """Widths of the tracks, from the first videos that have them; 0 where no video does."""
    names = [*config.visual_tracks, config.audio_track, "text"]
    widths = dict.fromkeys(names, 0)
    for number in shard_numbers(dataset):
        missing = {name for name, width in widths.items() if not width}
        for sample in read_shard(dataset, number, missing):
            for name in (*config.visual_tracks, config.audio_track):
                if name in sample.tracks:
                    widths[name] = widths[name] or sample.tracks[name].rows.shape[1]
            if sample.text is not None:
                widths["text"] = widths["text"] or sample.text.shape[1]
            if all(widths.values()):
                break
        if all(widths.values()):
            break
    visual = tuple(widths[name] for name in config.visual_tracks)
    return TrackDims(visual, widths[config.audio_track], widths["text"])


def epoch_videos(
    videos: Sequence[VideoRef], seed: int, epoch: int, rank: int, world_size: int
) -> list[VideoRef]:
    """A rank's videos of an epoch, in the order they are read: whole shards as far as possible.

    Shards are shuffled alike on all ranks, then their videos are cut into `world_size` runs that
    differ by one at most: disjoint, together complete, and each touching few shards.
    """
    shards = sorted({video.shard for video in videos})
    np.random.default_rng((seed, epoch)).shuffle(shards)
    place = {shard: i for i, shard in enumerate(shards)}
    ordered = sorted(videos, key=lambda video: place[video.shard])
    bounds = [len(ordered) * i // world_size for i in range(world_size + 1)]
    return ordered[bounds[rank] : bounds[rank + 1]]


def shuffle_through(
    videos: Sequence[VideoRef], size: int, rng: np.random.Generator
) -> list[VideoRef]:
    """The order in which a shuffle buffer of `size` gives the videos away.

    A video leaves after at most `size` later ones have been read, which bounds how many a reader
    must hold.
    """
    buffer = list(videos[:size])
    order = []
    for video in videos[size:]:
        i = int(rng.integers(size))
        order.append(buffer[i])
        buffer[i] = video
    return order + [buffer[i] for i in rng.permutation(len(buffer))]


@dataclass
class ClipSampler:
    """Draws the batches of a run for one rank.

    Holds at most `shuffle_videos` decoded videos besides its cache of `cache_megabytes`.
    """

    training_set: TrainingSet
    config: TrainConfig
    rank: int = 0
    world_size: int = 1
    _cache: dict[VideoRef, VideoSample] = field(default_factory=dict, repr=False)
    _cached_bytes: int = 0

    @property
    def batch_videos(self) -> int:
        """Videos in a batch: the configured number, or all of the smallest rank if fewer."""
        smallest = len(self.training_set.videos) // self.world_size
        return min(self.config.sampling.batch_videos, smallest)

    @property
    def batches_per_epoch(self) -> int:
        """Full batches in an epoch, the same on every rank; the rest of the videos is left out."""
        smallest = len(self.training_set.videos) // self.world_size
        return smallest // self.batch_videos

    def batches(self, epoch: int, first_batch: int = 0) -> Iterator[TrainBatch]:
        """The batches of an epoch from `first_batch` on, the same however often it is stopped."""
        config = self.config
        mine = epoch_videos(
            self.training_set.videos, config.seed, epoch, self.rank, self.world_size
        )
        rng = np.random.default_rng((config.seed, epoch, self.rank))
        order = shuffle_through(mine, config.sampling.shuffle_videos, rng)
        size = self.batch_videos
        todo = order[first_batch * size : self.batches_per_epoch * size]
        samples = self._read(mine, todo)
        for _ in range(first_batch, self.batches_per_epoch):
            yield self._cut(list(itertools.islice(samples, size)), epoch)

    def _read(
        self, read_order: Sequence[VideoRef], todo: Sequence[VideoRef]
    ) -> Iterator[VideoSample]:
        """The videos of `todo` in its order, read in `read_order` and held until their turn."""
        missing = {video for video in todo if video not in self._cache}
        stream = self._stream(list(dict.fromkeys(video.shard for video in read_order)), missing)
        waiting: dict[VideoRef, VideoSample] = {}
        for video in todo:
            if video in self._cache and video not in waiting:
                yield self._cache[video]
                continue
            while video not in waiting:
                read = next(stream, None)
                if read is None:
                    raise AbortError(
                        f"{self.training_set.dataset}: shard {video.shard:06d} lists video "
                        f"{video.key}, its tar does not hold it; extract the shard again"
                    )
                waiting[read[0]] = read[1]
            yield waiting.pop(video)

    def _stream(
        self, shards: Sequence[int], missing: set[VideoRef]
    ) -> Iterator[tuple[VideoRef, VideoSample]]:
        """Reads the shards that hold missing videos, in order; fills the cache on the way."""
        sampling = self.config.sampling
        tracks = {*sampling.visual_tracks, sampling.audio_track, "text"}
        for shard in shards:
            left = {video for video in missing if video.shard == shard}
            if not left:
                continue
            for sample in read_shard(self.training_set.dataset, shard, tracks):
                video = VideoRef(shard, sample.key)
                if video in left:
                    self._remember(video, sample)
                    yield video, sample

    def _remember(self, video: VideoRef, sample: VideoSample) -> None:
        arrays = [track.rows for track in sample.tracks.values()]
        size = sum(rows.nbytes for rows in arrays)
        size += 0 if sample.text is None else sample.text.nbytes
        if self._cached_bytes + size <= self.config.sampling.cache_megabytes * 2**20:
            self._cache[video] = sample
            self._cached_bytes += size

    def _cut(self, samples: Sequence[VideoSample], epoch: int) -> TrainBatch:
        """Draws and cuts each video's clips; a clip without any modality is left out."""
        config, dims = self.config, self.training_set.dims
        kept: list[tuple[str, Clip, ClipInputs]] = []
        for sample in samples:
            # by the key, so that a video's clips do not hang on the order or the batch
            number = zlib.crc32(sample.key.encode())
            rng = np.random.default_rng((config.seed, epoch, self.rank, number))
            for clip in draw_clips(sample, config.sampling, rng):
                inputs = clip_inputs(sample, clip, config.sampling, dims)
                if any(inputs.present.values()):
                    kept.append((sample.key, clip, inputs))
        if not kept:
            keys = ", ".join(sample.key for sample in samples)
            raise AbortError(f"none of the videos of a batch has anything to train on: {keys}")
        return TrainBatch(
            collate([inputs for _, _, inputs in kept], dims, config),
            keys=tuple(key for key, _, _ in kept),
            clips=tuple(clip for _, clip, _ in kept),
        )


def read_ahead(batches: Iterator[TrainBatch]) -> Generator[TrainBatch, None, None]:
    """The same batches, the next one being read in a thread while one is used."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, batches, None)
        while (batch := pending.result()) is not None:
            pending = pool.submit(next, batches, None)
            yield batch
