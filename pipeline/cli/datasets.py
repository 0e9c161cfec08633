"""`pipeline status|verify|inspect` and `pipeline weights`: looking after datasets."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from extractors.errors import AbortError, UsageError
from pipeline.cli import options, show

MOST_FAILURES = 20

weights_app = typer.Typer(no_args_is_help=True)

DatasetArgument = Annotated[str, typer.Argument(help="Folder or URL of the dataset.")]


def status(dataset: DatasetArgument, debug: options.Debug = False) -> None:
    """What is done, what is missing, what failed and why. Works while a run goes on."""
    from pipeline.dataset import read_dataset_card, read_records
    from pipeline.plan import read_plan

    read_dataset_card(dataset)
    records, plan = read_records(dataset), read_plan(dataset)
    reasons = Counter[str]()
    for record in records:
        reasons.update(record.reasons)
    planned = len({video.shard for video in plan})
    rows = [
        ("shards", f"{len(records)} of {planned}"),
        ("videos", f"{sum(r.count for r in records)} of {len(plan)}"),
        ("in the shards", sum(r.successes for r in records)),
        ("hours of video", round(sum(r.video_seconds for r in records) / 3600, 3)),
        ("megabytes", round(sum(r.tar_bytes for r in records) / 2**20, 1)),
        *((f"failed: {reason}", count) for reason, count in sorted(reasons.items())),
    ]
    show.table(dataset, ("what", "number"), rows)
    if reasons:
        _show_failures(dataset)


def _show_failures(dataset: str) -> None:
    from pipeline.dataset import read_all_rows

    failed = [row for row in read_all_rows(dataset) if row["status"] == "failed"]
    rows = [(row["key"], row["reason"], row["error_message"]) for row in failed[:MOST_FAILURES]]
    show.table("Failed videos", ("key", "reason", "message"), rows)
    if len(failed) > MOST_FAILURES:
        more = len(failed) - MOST_FAILURES
        show.note(f"and {more} more: all are in {dataset}/manifest.parquet, status = failed")


def verify(dataset: DatasetArgument, debug: options.Debug = False) -> None:
    """Hashes every file, compares tar, parquet, record and manifest; exit code 1 if any differ."""
    from pipeline.verify import verify_dataset

    problems = verify_dataset(dataset)
    for problem in problems:
        show.error(problem)
    if problems:
        raise AbortError(f"{dataset}: {len(problems)} problems")
    show.note(f"{dataset}: every shard is what its record says")


def inspect(
    shard: Annotated[str, typer.Argument(help="DATASET/shards/000000.tar")],
    debug: options.Debug = False,
) -> None:
    """What is in one shard: its videos, their tracks and transcripts."""
    from pipeline.samples import read_shard
    from pipeline.shards import shard_numbers

    dataset, separator, name = shard.rpartition("/shards/")
    number = name.removesuffix(".tar")
    if not separator or not number.isdigit() or int(number) not in shard_numbers(dataset):
        raise UsageError(f"{shard}: not a published shard; expected DATASET/shards/000000.tar")
    rows = [
        (
            sample.key,
            show.duration(sample.duration),
            ", ".join(f"{n} {t.rows.shape[0]}x{t.rows.shape[1]}" for n, t in sample.tracks.items()),
            " / ".join(segment.text for segment in sample.segments),
        )
        for sample in read_shard(dataset, int(number))
    ]
    show.table(shard, ("key", "length", "tracks", "transcript"), rows)


@weights_app.command(name="list")
def list_weights(debug: options.Debug = False) -> None:
    """Every set of weights: source, licence, whether it is here."""
    from extractors.weights import cache_folder, registry

    rows = [
        (w.name, w.what, w.source, w.licence, "yes" if w.is_cached else "no") for w in registry()
    ]
    show.table(str(cache_folder()), ("name", "what", "source", "licence", "here"), rows)


@weights_app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Names; none: the preset's.")] = None,
    preset: options.Preset = "embedded",
    debug: options.Debug = False,
) -> None:
    """Fetches weights into the cache, checked by sha256."""
    from extractors.weights import fetch as fetch_one
    from extractors.weights import find_weights

    for name in names or _preset_weights(preset):
        weights = find_weights(name)
        if not weights.is_cached:
            show.note(f"{name}: fetching {weights.source}")
            fetch_one(weights)
        show.out.print(str(Path(weights.folder)), highlight=False, soft_wrap=True)


def _preset_weights(preset: str) -> list[str]:
    """The registry's names that a preset needs."""
    from extractors.config import ActionModelConfig, ImageModelConfig, MotionModelConfig

    config = options.load_config(preset, None, None).extract
    names: list[str] = []
    for extractor in config.wanted.values():
        if isinstance(extractor, ImageModelConfig | ActionModelConfig):
            names.append(extractor.model)
        elif isinstance(extractor, MotionModelConfig):
            names.append("transnetv2")
    names += [config.speech.model] if config.speech else []
    return names + ([config.text.model] if config.text else [])
