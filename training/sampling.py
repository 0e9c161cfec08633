"""Batches of clips from shards: each video is read once an epoch and many clips are cut from it.

The batches of an epoch follow from (seed, epoch) and the shards' parquet alone: a run resumes at
(epoch, batch) without reading what it has already used, and any number of ranks sees the same
videos and clips in every batch, each rank its share of them.
"""

import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, pairwise, zip_longest
from typing import NamedTuple

import numpy as np

from extractors.errors import AbortError
from pipeline.samples import VideoSample, read_shard
from pipeline.shards import read_rows, shard_numbers
from training.batches import TrainBatch, collate
from training.clips import Clip, ClipInputs, TrackDims, clip_inputs, draw_clips, read_tracks
from training.config import SamplingConfig, TrainConfig

TEST_SPLIT = "test"
VALIDATION_SPLITS = frozenset({"validation", "valid", "val"})
HELD_OUT_SPLITS = VALIDATION_SPLITS | {TEST_SPLIT}
"""Never trained on."""


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
    validation: tuple[VideoRef, ...] = ()
    """Videos to measure it on while it is trained."""


def open_training_set(dataset: str, config: SamplingConfig) -> TrainingSet:
    """Lists the videos to train on, those to validate on, and finds the tracks' widths.

    Raises AbortError where there is no video to train on or fewer than two modalities to compare.
    """
    videos, validation = _choose_videos(dataset, config.split)
    dims = track_dims(dataset, config)
    there = [bool(sum(dims.visual)), bool(dims.audio), bool(dims.text)]
    if sum(there) < 2:
        wanted = ", ".join(read_tracks(config))
        raise AbortError(
            f"{dataset}: training needs two modalities, of the tracks {wanted} found widths {dims}"
        )
    return TrainingSet(dataset, videos, dims, validation)


def _choose_videos(
    dataset: str, only: str | None
) -> tuple[tuple[VideoRef, ...], tuple[VideoRef, ...]]:
    """The extracted videos to train on, of the split `only` or of all that are not held out, and
    those to validate on."""
    split_of = {
        VideoRef(number, row["key"]): row["split"]
        for number in shard_numbers(dataset)
        for row in read_rows(dataset, number)
        if row["status"] == "success"
    }
    splits = set(split_of.values())
    trained_on = splits - HELD_OUT_SPLITS if only is None else {only}
    videos = tuple(video for video, split in split_of.items() if split in trained_on)
    if not videos:
        asked = "other than test and validation" if only is None else repr(only)
        found = ", ".join(sorted(str(split) for split in splits)) or "none"
        raise AbortError(
            f"{dataset}: no videos to train on (extracted, and of a split {asked}; splits of the "
            f"extracted videos: {found}); run `pipeline run extract` first"
        )
    held_out = VALIDATION_SPLITS - trained_on
    validation = tuple(video for video, split in split_of.items() if split in held_out)
    return videos, validation


def track_dims(dataset: str, config: SamplingConfig) -> TrackDims:
    """Widths of the tracks, from the first videos that have them; 0 where no video does, and for
    modalities that are not to be read."""
    widths = dict.fromkeys(read_tracks(config), 0)
    for number in shard_numbers(dataset):
        missing = {name for name, width in widths.items() if not width}
        for sample in read_shard(dataset, number, missing) if missing else ():
            for name in missing - {"text"}:
                if name in sample.tracks:
                    widths[name] = widths[name] or sample.tracks[name].rows.shape[1]
            if sample.text is not None and "text" in widths:
                widths["text"] = widths["text"] or sample.text.shape[1]
            if all(widths.values()):
                break
    visual = tuple(widths.get(name, 0) for name in config.visual_tracks)
    return TrackDims(visual, widths.get(config.audio_track, 0), widths.get("text", 0))


def epoch_lanes(
    videos: Sequence[VideoRef], seed: int, epoch: int, lanes: int
) -> list[list[VideoRef]]:
    """An epoch's videos in the order they are read, cut into lanes that differ by one at most.

    Shards are shuffled, then their videos are cut: each lane reads few shards, and each shard is
    read by one lane, or by two where a cut goes through it.
    """
    shards = sorted({video.shard for video in videos})
    np.random.default_rng((seed, epoch)).shuffle(shards)
    place = {shard: i for i, shard in enumerate(shards)}
    ordered = sorted(videos, key=lambda video: place[video.shard])
    bounds = [len(ordered) * i // lanes for i in range(lanes + 1)]
    return [ordered[first:last] for first, last in pairwise(bounds)]


def rank_share(count: int, rank: int, world_size: int) -> range:
    """Which of `count` things are a rank's: a run of them; the ranks' numbers differ by one."""
    return range(count * rank // world_size, count * (rank + 1) // world_size)


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
    """Draws the batches of a run, of which it reads and cuts one rank's share.

    The samplers of all ranks together hold at most `shuffle_videos` decoded videos and one batch,
    besides a cache of `cache_megabytes` each.
    """

    training_set: TrainingSet
    config: TrainConfig
    rank: int = 0
    world_size: int = 1
    _cache: dict[VideoRef, VideoSample] = field(default_factory=dict, repr=False)
    _cached_bytes: int = 0

    @property
    def batch_videos(self) -> int:
        """Videos in a batch of all ranks: the configured number, or all of them if fewer."""
        return min(self.config.sampling.batch_videos, len(self.training_set.videos))

    @property
    def batches_per_epoch(self) -> int:
        """Full batches in an epoch; the rest of the videos is left out."""
        return len(self.training_set.videos) // self.batch_videos

    @property
    def lanes(self) -> int:
        """One where the shuffle buffer holds all videos, for a perfect shuffle; else as set."""
        sampling = self.config.sampling
        whole = len(self.training_set.videos) <= sampling.shuffle_videos
        return 1 if whole else min(sampling.lanes, sampling.shuffle_videos)

    def batches(self, epoch: int, first_batch: int = 0) -> Iterator[TrainBatch]:
        """This rank's share of an epoch's batches, from `first_batch` on.

        The same however often it is stopped. A share without any usable clip has no rows.
        """
        lanes = epoch_lanes(self.training_set.videos, self.config.seed, epoch, self.lanes)
        plan = self._plan(lanes, epoch)[first_batch:]
        todo: list[list[VideoRef]] = [[] for _ in lanes]
        for lane, video in chain.from_iterable(plan):
            todo[lane].append(video)
        streams = [self._read(lane, videos) for lane, videos in zip(lanes, todo, strict=True)]
        first_place = rank_share(self.batch_videos, self.rank, self.world_size).start
        for batch in plan:
            samples = [next(streams[lane]) for lane, _ in batch]
            yield self._cut(samples, epoch, first_place)

    def _plan(
        self, lanes: Sequence[Sequence[VideoRef]], epoch: int
    ) -> list[list[tuple[int, VideoRef]]]:
        """This rank's (lane, video) of every batch: videos are drawn from the lanes in turn, a
        batch is sorted by lane, and each rank has a run of it."""
        size, seed = self.batch_videos, self.config.seed
        buffer = max(1, self.config.sampling.shuffle_videos // len(lanes))
        shuffled = [
            [
                (i, video)
                for video in shuffle_through(lane, buffer, np.random.default_rng((seed, epoch, i)))
            ]
            for i, lane in enumerate(lanes)
        ]
        turns = zip_longest(*shuffled)
        order = [drawn for turn in turns for drawn in turn if drawn is not None]
        mine = rank_share(size, self.rank, self.world_size)
        batches = [order[i * size : (i + 1) * size] for i in range(self.batches_per_epoch)]
        return [
            sorted(batch, key=lambda drawn: drawn[0])[mine.start : mine.stop] for batch in batches
        ]

    def _read(
        self, read_order: Sequence[VideoRef], todo: Sequence[VideoRef]
    ) -> Iterator[VideoSample]:
        """The videos of `todo` in its order, read in `read_order` and held until their turn."""
        missing = {video for video in todo if video not in self._cache}
        # each shard once, with what is wanted of it
        shards: dict[int, set[VideoRef]] = {}
        for video in read_order:
            if video in missing:
                shards.setdefault(video.shard, set()).add(video)
        stream = self._stream(shards)
        waiting: dict[VideoRef, VideoSample] = {}
        for video in todo:
            if video not in missing:
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
        self, shards: Mapping[int, set[VideoRef]]
    ) -> Iterator[tuple[VideoRef, VideoSample]]:
        """Reads the wanted videos of the shards, in order; fills the cache on the way."""
        sampling = self.config.sampling
        tracks = set(read_tracks(sampling))
        for shard, wanted in shards.items():
            for sample in read_shard(self.training_set.dataset, shard, tracks):
                video = VideoRef(shard, sample.key)
                if video in wanted:
                    self._remember(video, sample)
                    yield video, sample

    def _remember(self, video: VideoRef, sample: VideoSample) -> None:
        arrays = [track.rows for track in sample.tracks.values()]
        size = sum(rows.nbytes for rows in arrays)
        size += 0 if sample.text is None else sample.text.nbytes
        if self._cached_bytes + size <= self.config.sampling.cache_megabytes * 2**20:
            self._cache[video] = sample
            self._cached_bytes += size

    def _cut(self, samples: Sequence[VideoSample], epoch: int, first_place: int) -> TrainBatch:
        """Draws and cuts each video's clips; a clip without any modality is left out."""
        config, dims = self.config, self.training_set.dims
        kept: list[tuple[str, Clip, int]] = []
        cut: list[ClipInputs] = []
        for place, sample in enumerate(samples, first_place):
            # by the key, so that a video's clips do not hang on the order, the batch or the rank
            number = zlib.crc32(sample.key.encode())
            rng = np.random.default_rng((config.seed, epoch, number))
            for clip in draw_clips(sample, config.sampling, rng):
                piece = clip_inputs(sample, clip, config.sampling, dims)
                if any(piece.present.values()):
                    kept.append((sample.key, clip, place))
                    cut.append(piece)
        inputs = collate(cut, dims, config)
        return TrainBatch(
            inputs if config.loss.mask_missing else inputs.counting_missing(),
            keys=tuple(key for key, _, _ in kept),
            clips=tuple(clip for _, clip, _ in kept),
            places=tuple(place for _, _, place in kept),
            videos=tuple(sample.key for sample in samples),
        )


def read_ahead(batches: Iterator[TrainBatch]) -> Generator[TrainBatch, None, None]:
    """The same batches, the next one being read in a thread while one is used."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, batches, None)
        while (batch := pending.result()) is not None:
            pending = pool.submit(next, batches, None)
            yield batch
