"""Extraction as the command line runs it: a lease, a bar, a metrics file, a closing table."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from extractors.errors import UsageError
from pipeline.cli import options, show

if TYPE_CHECKING:
    import torch

    from pipeline.config import ExtractConfig
    from pipeline.extract import Todo
    from pipeline.lease import Holder
    from pipeline.plan import PlanUpdate
    from pipeline.shard_range import ShardRange
    from pipeline.shards import ShardRecord


@dataclass(frozen=True)
class Means:
    """What a run works with, whatever it is to do."""

    executor: str = "local"
    workers: int = 1
    device: str = "auto"
    take_over: bool = False
    """Work although another run's lease says that it is alive."""
    metrics_file: str | None = None
    """Metrics in Prometheus' text form; by default `metrics.prom` of the dataset, or of the range's
    folder in it."""


def failed_by_shard(dataset: str, conditions: Sequence[str]) -> dict[int, list[str]]:
    """Keys of the failed videos that meet the conditions, by shard; none where no dataset is."""
    from pipeline import storage
    from pipeline.failures import parse_where, select_failed

    wheres = parse_where(conditions)
    found: dict[int, list[str]] = {}
    if storage.exists(storage.join(dataset, "dataset.json")):
        for failed in select_failed(dataset, wheres):
            found.setdefault(failed.shard, []).append(failed.key)
    return found


def run_extract(
    source: str | None,
    output: str,
    settings: "ExtractConfig",
    means: Means,
    *,
    retry: Mapping[int, Sequence[str]] | None = None,
    prune: bool = False,
    drop_failed: bool = False,
) -> int:
    """Runs the stage with a bar and a closing table; gives the number of videos that failed or that
    could not be made again. Without a source, the dataset's own plan is worked."""
    from pipeline.extract import plan_extract
    from pipeline.shard_range import holding_whole

    refuse_foreign(output, "dataset.json")
    chosen = options.choose_device(means.device)
    options.check_executor(means.executor)
    with holding_whole(output, take_over=means.take_over) as holder:
        _sweep(output)
        todo = plan_extract(
            source, output, settings, retry=retry, prune=prune, drop_failed=drop_failed
        )
        show_update(todo.update, pruned=prune)
        meter = _work(todo, output, settings, means, chosen, holder)
    return _tell_end(todo, output, meter)


def run_range(
    output: str,
    settings: "ExtractConfig",
    means: Means,
    shards: "ShardRange",
    *,
    retry: Mapping[int, Sequence[str]] | None = None,
    drop_failed: bool = False,
) -> int:
    """As `run_extract` of some shards of the dataset's plan, beside runs of other ranges; writes
    nothing but these shards."""
    from pipeline.extract import check_planned, plan_range
    from pipeline.shard_range import holding_range

    refuse_foreign(output, "dataset.json")
    chosen = options.choose_device(means.device)
    options.check_executor(means.executor)
    check_planned(output, settings)  # before the lease, which would make the dataset's folder
    with holding_range(output, shards, take_over=means.take_over) as holder:
        _sweep(output)
        todo = plan_range(output, settings, shards, retry=retry, drop_failed=drop_failed)
        meter = _work(todo, output, settings, means, chosen, holder)
    return _tell_end(todo, output, meter)


def run_plan(
    source: str, output: str, settings: "ExtractConfig", means: Means, *, prune: bool = False
) -> int:
    """Writes plan and card, makes ready what every run needs, makes no shard; gives the number of
    planned shards."""
    from pipeline.extract import make_ready, num_shards, plan_extract
    from pipeline.shard_range import holding_whole

    refuse_foreign(output, "dataset.json")
    with holding_whole(output, take_over=means.take_over):
        _sweep(output)
        todo = plan_extract(source, output, settings, prune=prune)
        show_update(todo.update, pruned=prune)
        if todo.jobs:
            make_ready(settings)
    planned = num_shards(todo.update.plan)
    show.note(
        f"{output}: {show.count(planned, 'shard')} planned, {len(todo.jobs)} of them to be made"
    )
    return planned


def _sweep(output: str) -> None:
    from pipeline import storage

    for folder in (output, storage.join(output, "shards"), storage.join(output, "attempts")):
        storage.sweep(folder)


def _tell_end(todo: "Todo", output: str, meter: "_Meter") -> int:
    """The closing table and notes; gives what `run_extract` does."""
    _print_extracted(output, meter)
    failures = sum(record.count - record.successes for record in meter.all_records)
    if failures:
        show.note(
            f"{show.count(failures, 'video')} failed: `pipeline errors {output}` lists them; "
            f"`pipeline retry {output}` tries again what is not quarantined"
        )
    left = todo.left(meter.records)
    if left:
        show.note(
            f"{show.count(len(left), 'shard')} left as made earlier: videos that they have cannot "
            "be read now (the warnings name them); bring the files back and run again, or give "
            "--prune for those that the source no longer lists, --drop-failed for all"
        )
    return failures + sum(record.count for record in left)


def _work(
    todo: "Todo",
    output: str,
    settings: "ExtractConfig",
    means: Means,
    device: "torch.device",
    holder: "Holder",
) -> "_Meter":
    from pipeline import extract, storage
    from pipeline.metrics import MetricsFile
    from pipeline.shard_range import range_url

    done = sum(record.count for record in todo.done)
    if todo.done:
        show.note(f"{output}: {len(todo.done)} shards ({done} videos) are up to date and kept")
    folder = output if todo.shards is None else range_url(output, todo.shards)
    metrics = MetricsFile(
        means.metrics_file or storage.join(folder, "metrics.prom"), len(todo.jobs)
    )
    with show.progress("extract", done + todo.num_videos, "videos") as bar:
        bar.advance(done, "")
        meter = _Meter(bar)

        def on_record(record: "ShardRecord") -> None:
            holder.check()
            metrics.add(record)
            meter.add(record)

        try:
            meter.all_records = extract.run_extract(
                todo,
                output,
                settings,
                device,
                executor=options.check_executor(means.executor),
                num_workers=means.workers,
                on_record=on_record,
            )
        finally:
            metrics.write()
    return meter


def show_update(update: "PlanUpdate", *, pruned: bool) -> None:
    """Says which videos the source renamed or no longer lists."""
    for old, new in update.renamed.items():
        show.note(f"{old} is now called {new}: it keeps its place in the dataset")
    if update.unlisted:
        fate = "dropped" if pruned else "kept (--prune drops them)"
        listed = _some(update.unlisted)
        show.note(f"{show.count(len(update.unlisted), 'video')} no longer listed, {fate}: {listed}")
    if update.out_of_reach:
        listed = _some(update.out_of_reach)
        count = show.count(len(update.out_of_reach), "video")
        show.note(f"{count} listed, but not there now; what is made of them is kept: {listed}")


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (" …" if len(keys) > 3 else "")


class _Meter:
    """Counts records as they come, for the bar and the closing table."""

    def __init__(self, bar: show.Bar) -> None:
        self._bar = bar
        self._started = time.monotonic()
        self.records: list[ShardRecord] = []
        """Of the shards that were made now."""
        self.all_records: list[ShardRecord] = []
        """Of the whole dataset, at the end."""

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def add(self, record: "ShardRecord") -> None:
        """Moves the bar."""
        self.records.append(record)
        failed = sum(r.count - r.successes for r in self.records)
        self._bar.advance(record.count, f"{self.rate:.1f} video-hours/hour, {failed} failed")

    @property
    def rate(self) -> float:
        """Seconds of video a second."""
        return sum(record.video_seconds for record in self.records) / max(self.seconds, 1e-9)


def _print_extracted(output: str, meter: _Meter) -> None:
    from pipeline.status import bottleneck

    records = meter.all_records
    reasons = Counter[str]()
    stages = Counter[str]()
    for record in records:
        reasons.update(record.reasons)
    decoders = Counter[str]()
    for record in meter.records:
        stages.update(record.stage_seconds)
        decoders.update(record.decoded_on)
    carried = sum(record.carried for record in meter.records)
    videos = sum(record.count for record in records)
    rows: list[tuple[str, float, str]] = [
        ("shards", len(records), f"{len(meter.records)} made now"),
        ("videos", videos, f"{videos - sum(reasons.values())} in the shards"),
        *((f"failed: {reason}", count, "") for reason, count in sorted(reasons.items())),
        *((f"decoded on {device}", count, "") for device, count in sorted(decoders.items())),
        *((("carried whole", carried, "nothing of them was decoded"),) if carried else ()),
        *((f"seconds: {name}", round(s, 1), "") for name, s in stages.most_common() if s >= 0.05),
    ]
    if found := bottleneck(stages):
        rows.append(("bottleneck", round(found[1], 2), f"{found[0]}: its share of the time"))
    if meter.records:
        rows.append(("video-hours/hour", round(meter.rate, 1), f"{meter.seconds:.0f} s in all"))
    show.table(f"Extracted to {output}", ("what", "number", ""), rows)


CARDS = {"dataset.json": "a dataset", "card.json": "a run", "index_infos.json": "an index"}


def refuse_foreign(output: str, own: str) -> None:
    """Raises UsageError where the output holds what another stage made."""
    from pipeline import storage

    for card, what in CARDS.items():
        if card != own and storage.exists(storage.join(output, card)):
            raise UsageError(f"--output {output}: holds {what} already; choose another folder")
