"""`pipeline status|verify|doctor` and `pipeline weights`: looking after datasets."""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from extractors.errors import AbortError, UsageError
from pipeline.cli import options, show

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.doctor_checks import Finding
    from pipeline.shards import ShardRecord
    from pipeline.status import Status

WATCH_SECONDS = 2.0
"""At least, from one look at a dataset to the next."""
COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}

weights_app = typer.Typer(no_args_is_help=True)


def status(
    dataset: options.DatasetArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it, until Ctrl-C.")] = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """What is done, what is missing, what failed, how fast it goes. Works while a run goes on,
    from any machine."""
    from pipeline.status import read_status

    if watch and as_json:
        raise UsageError("--watch and --json: choose one")
    if watch:
        _watch(dataset)
        return
    found = read_status(dataset)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
        return
    show.out.print(_status_table(found))
    if found.reasons:
        show.note(f"`pipeline errors {dataset}` lists the failed videos")


def _watch(dataset: str) -> None:
    """Shows the status anew every few seconds until interrupted."""
    import time

    from rich.live import Live

    from pipeline.cli.app import Interrupted
    from pipeline.status import read_status

    first = _status_table(read_status(dataset))
    with suppress(Interrupted), Live(first, console=show.out, auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            live.update(_status_table(read_status(dataset)), refresh=True)
            # a dataset that takes long to read is read less often
            time.sleep(max(WATCH_SECONDS, 4 * (time.monotonic() - began)))


def _status_table(found: "Status") -> "Table":
    rows: list[tuple[str, str | int | float]] = [
        ("shards", f"{found.shards} of {found.planned_shards}"),
        ("videos", f"{found.videos} of {found.planned_videos}"),
        ("in the shards", found.successes),
        ("hours of video", round(found.video_seconds / 3600, 3)),
        ("megabytes", round(found.tar_bytes / 2**20, 1)),
        *((f"failed: {reason}", count) for reason, count in found.reasons.items()),
        *((f"decoded on {device}", count) for device, count in found.decoded_on.items()),
        *_stage_rows(found),
    ]
    if found.rate is not None:
        rate, left = found.rate, show.duration(found.rate.seconds_left)
        ends = datetime.now().astimezone() + timedelta(seconds=found.rate.seconds_left)
        rows += [
            ("videos an hour, lately", round(rate.videos_per_hour)),
            ("hours of video an hour", round(rate.video_seconds_per_second, 1)),
            ("time left at this rate", f"{left}, until {ends:%Y-%m-%d %H:%M}"),
        ]
    if found.lease is not None:
        dead = "" if found.lease.valid else " (dead: `pipeline doctor --fix` clears it)"
        rows.append(("run at work", f"{found.lease}{dead}"))
    rows += [(f"run of shards {name}", str(lease)) for name, lease in found.ranges.items()]
    return show.make_table(found.dataset, ("what", "number"), rows)


def _stage_rows(found: "Status") -> list[tuple[str, str]]:
    """Each stage's share of the workers' time, the bottleneck marked."""
    total = sum(found.stage_seconds.values())
    return [
        (
            f"stage {name}",
            f"{seconds:,.1f} s, {seconds / total:.0%}"
            + (", the bottleneck" if name == found.bottleneck else ""),
        )
        for name, seconds in found.stage_seconds.items()
        if total > 0
    ]


def verify(
    dataset: options.DatasetArgument,
    deep: Annotated[
        bool, typer.Option("--deep", help="Open every array, transcript and proxy too.")
    ] = False,
    fix: Annotated[
        bool,
        typer.Option(
            "--fix",
            help="Restore what the manifest repeats; remove the record of every other damaged "
            "shard, so that `run extract` makes it again.",
        ),
    ] = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Hashes every file, compares tar, parquet, record, plan and manifest; exit code 1 if any
    differ."""
    from pipeline.dataset import read_dataset_card, read_records
    from pipeline.lease import holding
    from pipeline.published import repair_shard
    from pipeline.verify import verify_dataset

    read_dataset_card(dataset)
    records = read_records(dataset)
    size = sum(record.tar_bytes for record in records)
    damaged: list[ShardRecord] = []
    with show.byte_progress("verify", size) as advance:
        problems = verify_dataset(
            dataset, deep=deep, records=records, on_bytes=advance, on_damaged=damaged.append
        )
    if as_json:
        facts = {"shards": len(records), "tar_bytes": size, "deep": deep, "problems": problems}
        typer.echo(json.dumps({"dataset": dataset} | facts, indent=2))
    else:
        for problem in problems:
            show.error(problem)
    if damaged and fix:
        with holding(dataset):  # a run at work may replace what is damaged
            for record in damaged:
                show.note(repair_shard(dataset, record))
    if problems:
        todo = "; `pipeline verify --fix` mends what it can" if damaged and not fix else ""
        raise AbortError(f"{dataset}: {show.count(len(problems), 'problem')}{todo}")
    show.note(f"{dataset}: every shard is what its record says")


def doctor(
    dataset: options.DatasetArgument,
    fix: Annotated[bool, typer.Option("--fix", help="Do the repairs that are safe.")] = False,
    check_sources: Annotated[
        bool, typer.Option("--check-sources", help="Look for every planned video in its place.")
    ] = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """What is wrong with a dataset as a whole, why, and what to do; exit code 1 while an error
    remains."""
    from pipeline.doctor import diagnose, repair

    findings = diagnose(dataset, check_sources=check_sources)
    if fix:
        findings = repair(findings)
    if as_json:
        typer.echo(json.dumps([finding.as_json() for finding in findings], indent=2))
    else:
        _print_findings(findings)
    errors = sum(finding.severity == "error" and not finding.fixed for finding in findings)
    if errors:
        raise AbortError(f"{dataset}: {errors} errors")
    if not findings:
        show.note(f"{dataset}: nothing is wrong")


def _print_findings(findings: "Sequence[Finding]") -> None:
    for finding in findings:
        show.out.print(f"[bold {COLOURS[finding.severity]}]{finding.severity}[/]", end=" ")
        show.out.print(finding.what, markup=False, soft_wrap=True)
        show.out.print(f"  why: {finding.why}", markup=False, soft_wrap=True)
        done = f"fixed: {finding.fixed}" if finding.fixed else f"to do: {finding.todo}"
        show.out.print(f"  {done}", markup=False, soft_wrap=True)


@weights_app.command(name="list")
def list_weights(as_json: options.Json = False, debug: options.Debug = False) -> None:
    """Every set of weights: source, sha256, licence, whether it is here."""
    from extractors.weights import cache_folder, registry

    if as_json:
        show.out.print_json(json.dumps([weights.facts() for weights in registry()]))
        return
    rows = [
        (w.name, w.what, w.source, w.licence, "yes" if w.is_cached else "no", w.sha256_shown)
        for w in registry()
    ]
    titles = ("name", "what", "source", "licence", "here", "sha256")
    show.table(str(cache_folder()), titles, rows)


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
    from extractors.preflight import needed_weights

    config = options.load_config(preset, None, None).extract
    needs = needed_weights(config.wanted, config.speech, config.text)
    return [need.name for need in needs if need.local is None]
