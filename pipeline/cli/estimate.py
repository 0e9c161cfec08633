"""`pipeline plan --estimate`: extraction, training and index on paper, and how it is shown.

docs/make_scale.py takes the same functions for docs/scale.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from extractors.extractor import Resources
from index.estimate import IndexCost, index_cost, num_clips
from index.factory import byte_size
from pipeline import storage
from pipeline.changes import PROBED_VIDEOS, ShardChange, StageCost
from pipeline.cli import show
from pipeline.estimate import (
    STATED,
    Corpus,
    Size,
    gflop_a_second,
    measured_members,
    shard_sizes,
    with_stated_rates,
)
from pipeline.extract import Todo
from pipeline.resources import worker_resources
from pipeline.sources import SourceVideo
from training.estimate import TrainingCost, clips_per_second, track_widths, training_cost

if TYPE_CHECKING:
    from pipeline.cli.config import PipelineConfig


@dataclass(frozen=True)
class Extraction:
    """What `run extract` takes."""

    stages: tuple[StageCost, ...]
    gflop: dict[str, float | None]
    """10^9 operations a second of video, by track."""
    sizes: tuple[Size, ...]
    shards: int
    source_bytes: float | None
    """Read over the network, or from a disk; None where no size is known."""
    worker: Resources
    """What one worker needs."""

    @property
    def worker_hours(self) -> float:
        """Of the stages whose rate is known."""
        return sum(stage.worker_hours or 0.0 for stage in self.stages)

    @property
    def bottleneck(self) -> str | None:
        """The stage with the most worker-hours, of those whose rate is known."""
        known = [stage for stage in self.stages if stage.worker_hours]
        return max(known, key=lambda stage: stage.worker_hours or 0.0).stage if known else None

    @property
    def bytes(self) -> float:
        """Of all tars."""
        return sum(size.bytes for size in self.sizes)

    @property
    def gflop_all(self) -> float:
        """10^9 operations of the counted networks over the videos that go through them."""
        hours = {stage.stage: stage.video_hours for stage in self.stages}
        return sum(3600 * hours.get(name, 0.0) * (n or 0.0) for name, n in self.gflop.items())


@dataclass(frozen=True)
class Paper:
    """All that `--estimate` says."""

    extraction: Extraction
    training: TrainingCost
    index: IndexCost

    def show(self, days: float | None) -> None:
        """Tables; `days` is how long the extraction may take."""
        show_extraction(self.extraction, days)
        show_learning(self.training, self.index)

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        extraction, training = self.extraction, self.training
        totals = {
            "worker_hours": extraction.worker_hours,
            "bottleneck": extraction.bottleneck,
            "bytes": extraction.bytes,
            "gflop_all": extraction.gflop_all,
        }
        return {
            "extraction": asdict(extraction) | totals,
            "training": asdict(training) | {"gflop": training.gflop},
            "index": asdict(self.index),
        }


def estimate_all(
    dataset: str,
    config: "PipelineConfig",
    todo: Todo,
    changes: Sequence[ShardChange],
    costs: Sequence[StageCost],
    seconds: float,
    model: str | None,
) -> Paper:
    """Work: of the videos that are to be opened, whose stages' `costs` are known; bytes, training
    and index: of all in the plan, whose videos have so many `seconds` on average.

    Raises UsageError where `model` is no run with a log.
    """
    extract, records = config.extract, [*todo.done, *todo.stale.values()]
    usable = [record.number for record in records if record.successes]
    members, segments = measured_members(dataset, usable[0]) if usable else ({}, None)
    videos = len(todo.update.plan)
    spoken = None if segments is None else videos * seconds * segments
    corpus = Corpus(videos, videos * seconds / 3600, spoken)
    stages = with_stated_rates(costs, extract, corpus)
    opened = sum(change.opened for change in changes)
    a_source = _source_bytes([video for job in todo.jobs for video in job.videos])
    return paper(
        config,
        corpus,
        stages,
        shards=len({planned.shard for planned in todo.update.plan}),
        source_bytes=None if opened and a_source is None else opened * (a_source or 0.0),
        members=members,
        speed=None if model is None else clips_per_second(model),
    )


def paper(
    config: "PipelineConfig",
    corpus: Corpus,
    stages: Sequence[StageCost],
    *,
    shards: int,
    source_bytes: float | None,
    members: Mapping[str, float] | None = None,
    speed: float | None = None,
) -> Paper:
    """Of a corpus whose stages are known. `members` holds measured bytes a second of video
    (`pipeline.estimate.shard_sizes`), `speed` the clips a second of training."""
    extract, train = config.extract, config.train
    widths = track_widths(extract, train.sampling)
    return Paper(
        Extraction(
            tuple(stages),
            gflop_a_second(extract),
            tuple(shard_sizes(extract, corpus, members)),
            shards,
            source_bytes,
            worker_resources(extract),
        ),
        training_cost(train, widths, corpus.videos, speed),
        index_cost(config.index, train, widths, num_clips(corpus, config.index)),
    )


def _source_bytes(videos: Sequence[SourceVideo]) -> float | None:
    """Mean size of a video, as the source lists them, else of a few that are asked now; None where
    no size is to be had."""
    sizes = [video.size_bytes for video in videos if video.size_bytes is not None]
    if not sizes:
        step = max(1, len(videos) // PROBED_VIDEOS)
        asked = [storage.size(video.uri) for video in videos[::step][:PROBED_VIDEOS]]
        sizes = [size for size in asked if size is not None]
    return sum(sizes) / len(sizes) if sizes else None


def show_extraction(found: Extraction, days: float | None) -> None:
    """Two tables: work by stage, bytes by member."""
    rows = [
        (
            stage.stage,
            stage.video_hours,
            "unknown" if stage.rate is None else round(stage.rate, 4),
            stage.rate_from,
            "" if stage.worker_hours is None else round(stage.worker_hours, 3),
            _number(found.gflop.get(stage.stage)),
        )
        for stage in found.stages
    ]
    columns = ("stage", "hours of video", "seconds a video-second", "rate from",
               "worker-hours", "GFLOP a video-second")  # fmt: skip
    show.table("Work of extracting what is to be made", columns, rows)
    show.table(
        "Shards, when all is made",
        ("member", "bytes", "how it is known"),
        [(size.member, byte_size(size.bytes), size.source) for size in found.sizes],
    )
    show.table("Extraction in all", ("what", ""), _totals(found, days))


def _totals(found: Extraction, days: float | None) -> list[tuple[str, str]]:
    source = "unknown: the source states no sizes"
    rows = [
        ("worker-hours", f"{found.worker_hours:,.3g}"),
        ("most of it", found.bottleneck or ""),
        ("a worker needs", _needs(found.worker)),
        ("shards", f"{found.shards:,}, {byte_size(found.bytes)}"),
        ("read", source if found.source_bytes is None else byte_size(found.source_bytes)),
        ("operations", f"{found.gflop_all / 1e6:,.3g} PFLOP; GPU hours: these / what a card does"),
    ]
    unknown = [stage.stage for stage in found.stages if stage.rate is None]
    if unknown:
        rows.insert(1, ("not in it, never measured", ", ".join(unknown)))
    if any(stage.stage == "speech" and stage.rate_from == STATED for stage in found.stages):
        rows.append(("speech", "counted as if no video had captions"))
    if days:
        rows.append((f"workers for {days:g} days", f"{found.worker_hours / 24 / days:,.3g}"))
        seconds = 86_400 * days
        if found.source_bytes is not None:
            rows.append(
                (f"network in, {days:g} days", f"{byte_size(found.source_bytes / seconds)}/s")
            )
        rows.append((f"network out, {days:g} days", f"{byte_size(found.bytes / seconds)}/s"))
    return rows


def show_learning(training: TrainingCost, index: IndexCost) -> None:
    """One table on training and index."""
    hours = "unknown: --model RUN takes that run's" if training.hours is None else (
        f"{training.hours:,.3g}")  # fmt: skip
    rows = [
        ("training: steps", f"{training.steps:,}"),
        ("training: operations", f"{training.gflop / 1e6:,.3g} PFLOP"),
        ("training: hours", hours),
        ("index: clips", f"{index.clips:,}"),
        ("index: operations of embedding", f"{index.gflop / 1e6:,.3g} PFLOP"),
        ("index: embeddings", f"at most {byte_size(index.embedding_bytes)}"),
        ("index: knn.index", _index_size(index)),
        ("why", index.reason),
    ]
    show.table("Training and index of all videos", ("what", ""), rows)


def _index_size(index: IndexCost) -> str:
    if index.bytes is None:
        return f"not estimated for {index.factory}"
    return f"{byte_size(index.bytes)}, {index.factory}"


def _needs(worker: Resources) -> str:
    gpu = f", {worker.gpus:g} of a GPU where there is one" if worker.gpus else ""
    return f"{show.count(round(worker.cpus), 'core')}, {byte_size(1e6 * worker.memory_mb)}{gpu}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
