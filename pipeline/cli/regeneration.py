"""`pipeline plan|retry|quarantine`: what a run would make again, and making it."""

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from extractors.errors import UsageError
from pipeline.cli import extraction, options, run, show

if TYPE_CHECKING:
    from pipeline.changes import ShardChange, StageCost
    from pipeline.cli.estimate import Paper
    from pipeline.extract import Todo

MOST_REASONS = 30


def plan(
    output: run.Output,
    source: Annotated[
        str | None, typer.Option("--input", help="The source; without it, the plan as it is.")
    ] = None,
    prune: options.Prune = False,
    preset: options.Preset = "embedded",
    config: options.ConfigFile = None,
    sets: options.Sets = None,
    on_paper: Annotated[
        bool,
        typer.Option(
            "--estimate",
            help="Also what it takes in cores, operations, bytes of shards and network, and what "
            "training and index take afterwards. What was never measured here has the stated rate "
            "of one CPU core (docs/scale.md).",
        ),
    ] = False,
    days: Annotated[
        float | None, typer.Option(help="With --estimate: cores and bytes a second for so many.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="With --estimate: a run; training is taken to be as fast as it was."),
    ] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """What `run extract` with the same options would do, why, and what it would cost. Writes
    nothing."""
    from pipeline.changes import estimate, explain, seconds_a_video
    from pipeline.extract import compare

    _check_estimate_options(days, model, on_paper=on_paper)
    loaded = options.load_config(preset, config, sets)
    settings = loaded.extract
    todo = compare(source, output, settings, prune=prune)
    changes = explain(todo, output, settings)
    records = [*todo.done, *todo.stale.values()]
    seconds = seconds_a_video(todo, records, settings)
    costs = estimate(changes, records, seconds)
    paper = None
    if on_paper:
        from pipeline.cli.estimate import estimate_all  # counts operations: training, FAISS

        paper = estimate_all(output, loaded, todo, changes, costs, seconds, model)
    if as_json:
        _print_json(todo, changes, costs, paper)
        return
    _print_summary(output, todo, changes)
    extraction.show_update(todo.update, pruned=prune)
    if changes:
        _print_reasons(changes)
    if paper is not None:
        paper.show(days)
    elif changes:
        _print_costs(costs)


def _check_estimate_options(days: float | None, model: str | None, *, on_paper: bool) -> None:
    """Raises UsageError."""
    if not on_paper and (days is not None or model is not None):
        raise UsageError("--days and --model say more of --estimate: give that too")
    if days is not None and not days > 0:
        raise UsageError(f"--days {days:g}: more than 0")


def _print_json(
    todo: "Todo",
    changes: "list[ShardChange]",
    costs: "list[StageCost]",
    paper: "Paper | None",
) -> None:
    content = {
        "up_to_date": [record.number for record in todo.done],
        "orphans": [record.number for record in todo.orphans],
        "added": todo.update.added,
        "unlisted": todo.update.unlisted,
        "renamed": todo.update.renamed,
        "shards": [asdict(change) for change in changes],
        "cost": [asdict(cost) | {"worker_hours": cost.worker_hours} for cost in costs],
    }
    if paper is not None:
        content["estimate"] = paper.as_json()
    typer.echo(json.dumps(content, indent=2))


def _print_summary(output: str, todo: "Todo", changes: "list[ShardChange]") -> None:
    states = Counter(change.state for change in changes)
    videos = Counter[str]()
    for change in changes:
        videos[change.state] += change.videos
    done = sum(record.count for record in todo.done)
    rows = [
        ("up to date", len(todo.done), done, ""),
        ("missing", states["missing"], videos["missing"], f"{todo.update.added} videos are new"),
        ("stale", states["stale"], videos["stale"], "what is still true is carried over"),
        ("orphaned", len(todo.orphans), sum(r.count for r in todo.orphans), "not in the plan"),
    ]
    show.table(f"Plan of {output}", ("shards", "number", "videos", ""), rows)


def _print_reasons(changes: "list[ShardChange]") -> None:
    shards = Counter(reason for change in changes for reason in change.reasons)
    rows = [(reason, count) for reason, count in shards.most_common(MOST_REASONS)]
    if len(shards) > MOST_REASONS:
        rows.append((f"and {len(shards) - MOST_REASONS} more reasons: --json has all", 0))
    show.table("Why", ("reason", "shards"), rows)


def _print_costs(costs: "list[StageCost]") -> None:
    rows = [
        (
            cost.stage,
            cost.video_hours,
            "not measured yet" if cost.rate is None else round(cost.rate, 4),
            "" if cost.worker_hours is None else round(cost.worker_hours, 3),
        )
        for cost in costs
    ]
    columns = ("stage", "hours of video", "seconds a video-second", "worker-hours")
    show.table("Cost, at the rates of the shards that are there", columns, rows)


def retry(
    dataset: options.DatasetArgument,
    where: options.Where = None,
    take_over: options.TakeOver = False,
    metrics_file: options.MetricsFile = None,
    executor: options.ExecutorOption = "local",
    workers: options.Workers = 1,
    device: options.Device = "auto",
    debug: options.Debug = False,
) -> None:
    """Tries failed videos again, by the dataset's own settings; the rest of their shards is
    carried over."""
    from pipeline.dataset import read_dataset_config

    settings = read_dataset_config(dataset)
    failed = extraction.failed_by_shard(dataset, where or [])
    if not failed:
        show.note(f"{dataset}: no failed video meets these conditions")
        return
    means = extraction.Means(executor, workers, device, take_over, metrics_file)
    failures = extraction.run_extract(None, dataset, settings, means, retry=failed)
    raise typer.Exit(run.FAILED_VIDEOS if failures else 0)


def quarantine(
    dataset: options.DatasetArgument,
    keys: Annotated[list[str] | None, typer.Argument(help="Keys of videos.")] = None,
    where: options.Where = None,
    why: Annotated[str, typer.Option(help="Kept beside the keys.")] = "",
    release: Annotated[bool, typer.Option("--release", help="Take them out again.")] = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Puts videos aside: no run opens them until they are released. Without keys or conditions,
    lists them."""
    from pipeline import quarantine as aside
    from pipeline.dataset import read_dataset_card

    read_dataset_card(dataset)
    chosen = _chosen(dataset, keys or [], where or [], release=release)
    if chosen and release:
        aside.release(dataset, chosen)
    elif chosen:
        aside.put_aside(dataset, dict.fromkeys(chosen, why))
    found = aside.read_quarantine(dataset)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        rows = [(key, entry["since"], entry["why"]) for key, entry in found.items()]
        show.table(f"Quarantine of {dataset}", ("key", "since", "why"), rows)
    if chosen:
        fate = "" if release else ": the features of these videos leave the dataset then"
        show.note(f"takes effect with the next `pipeline run extract` or `pipeline retry`{fate}")


def _chosen(dataset: str, keys: list[str], conditions: list[str], *, release: bool) -> list[str]:
    """The keys that are meant. Raises UsageError for one that is not there."""
    from pipeline.plan import read_plan
    from pipeline.quarantine import read_quarantine

    if keys:
        known = (
            set(read_quarantine(dataset))
            if release
            else {planned.video.key for planned in read_plan(dataset)}
        )
        for key in keys:
            if key not in known:
                place = "quarantine" if release else "plan"
                raise UsageError(f"key {key!r}: not in the {place} of {dataset}")
    selected = extraction.failed_by_shard(dataset, conditions) if conditions else {}
    return keys + [key for found in selected.values() for key in found]
