"""`pipeline run extract|train|index|all`."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from extractors.errors import UsageError
from pipeline.cli import options, show
from pipeline.cli.extraction import (
    Means,
    failed_by_shard,
    refuse_foreign,
    run_extract,
    run_plan,
    run_range,
)
from pipeline.cli.indexes import holding_index

if TYPE_CHECKING:
    from pipeline.cli.config import PipelineConfig
    from pipeline.shard_range import ShardRange
    from training.config import TrainConfig
    from training.loop import TrainProgress
    from training.run_local import Train
    from training.xdc.config import XdcConfig

app = typer.Typer(no_args_is_help=True)

Input = Annotated[
    str, typer.Option("--input", help="Folder, glob, csv, parquet or file; local or a URL.")
]
Output = Annotated[str, typer.Option("--output", help="Folder or URL that is written.")]

FAILED_VIDEOS = 3


@app.command()
def extract(
    output: Output,
    source: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="Folder, glob, csv, parquet or file; local or a URL. Needed but with --shards.",
        ),
    ] = None,
    shards: Annotated[
        str | None,
        typer.Option(
            metavar="A:B",
            help="Only the shards from number A up to but not including B of the plan as it is; "
            "either may be left out. Such runs may be at work side by side; a run without --shards "
            "closes the dataset.",
        ),
    ] = None,
    plan_only: Annotated[
        bool,
        typer.Option(
            "--plan-only",
            help="Write the plan, which --shards needs, and fetch weights, but make no shard; "
            "print how many there are to be.",
        ),
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try all failed videos again.")
    ] = False,
    prune: options.Prune = False,
    drop_failed: options.DropFailed = False,
    take_over: options.TakeOver = False,
    metrics_file: options.MetricsFile = None,
    executor: options.ExecutorOption = "local",
    workers: options.Workers = 1,
    device: options.Device = "auto",
    preset: options.Preset = "embedded",
    config: options.ConfigFile = None,
    sets: options.Sets = None,
    debug: options.Debug = False,
) -> None:
    """Raw videos to shards of features and transcripts. Run again, it makes only what is missing or
    no longer true (`pipeline plan` says what that is)."""
    chosen = _check_ranges(source, shards, whole=plan_only or prune)
    if plan_only and (retry_failed or drop_failed):
        raise UsageError("--plan-only: makes no shard; leave out --retry-failed, --drop-failed")
    settings = options.load_config(preset, config, sets).extract
    means = Means(executor, workers, device, take_over, metrics_file)
    if source is not None and plan_only:
        typer.echo(run_plan(source, output, settings, means, prune=prune))
        return
    retry = failed_by_shard(output, []) if retry_failed else {}
    if chosen is not None:
        failures = run_range(output, settings, means, chosen, retry=retry, drop_failed=drop_failed)
    else:
        failures = run_extract(
            source,
            output,
            settings,
            means,
            retry=retry,
            prune=prune,
            drop_failed=drop_failed,
        )
    raise typer.Exit(FAILED_VIDEOS if failures else 0)


def _check_ranges(source: str | None, shards: str | None, *, whole: bool) -> "ShardRange | None":
    """What --shards says. Raises UsageError for options that do not go together."""
    if shards is None:
        if source is None:
            raise UsageError("--input: which videos? It is needed but with --shards")
        return None
    if source is not None or whole:
        raise UsageError(
            f"--shards {shards}: works the plan as it is; leave out --input, --plan-only, --prune"
        )
    from pipeline.shard_range import parse_range

    return parse_range(shards)


@app.command()
def train(
    dataset: options.Dataset,
    output: Output,
    method: Annotated[
        str,
        typer.Option(
            help="mcn: a model that embeds, from tracks (`train:`). xdc, sdc, mdc or cdc: two "
            "encoders that extract, from proxies or the videos themselves (`xdc:`)."
        ),
    ] = "mcn",
    executor: options.ExecutorOption = "local",
    workers: options.Workers = 1,
    device: options.Device = "auto",
    take_over: options.TakeOver = False,
    preset: options.Preset = "embedded",
    config: options.ConfigFile = None,
    sets: options.Sets = None,
    debug: options.Debug = False,
) -> None:
    """Shards to a multimodal clustering model, or to XDC's encoders. Run again, it goes on from its
    last checkpoint."""
    settings = options.load_config(preset, config, sets)
    run_train(dataset, output, settings, Means(executor, workers, device, take_over), method)


@app.command()
def index(
    dataset: options.Dataset,
    model: Annotated[str, typer.Option(help="The run that `run train` wrote.")],
    output: Output,
    executor: options.ExecutorOption = "local",
    workers: options.Workers = 1,
    device: options.Device = "auto",
    take_over: options.TakeOver = False,
    preset: options.Preset = "embedded",
    config: options.ConfigFile = None,
    sets: options.Sets = None,
    debug: options.Debug = False,
) -> None:
    """Every clip of a dataset, embedded by a run, to a FAISS index."""
    settings = options.load_config(preset, config, sets)
    run_index(dataset, model, output, settings, Means(executor, workers, device, take_over))


@app.command(name="all")
def run_all(
    source: Input,
    output: Output,
    executor: options.ExecutorOption = "local",
    workers: options.Workers = 1,
    device: options.Device = "auto",
    preset: options.Preset = "embedded",
    config: options.ConfigFile = None,
    sets: options.Sets = None,
    debug: options.Debug = False,
) -> None:
    """extract, train and index, to OUTPUT/dataset, OUTPUT/run and OUTPUT/index."""
    settings = options.load_config(preset, config, sets)
    failures = run_stages(source, output, settings, executor, workers, device)
    raise typer.Exit(FAILED_VIDEOS if failures else 0)


def run_stages(
    source: str, output: str, settings: "PipelineConfig", executor: str, workers: int, device: str
) -> int:
    """The three stages; gives the number of failed videos."""
    dataset, run, made_index = (f"{output.rstrip('/')}/{n}" for n in ("dataset", "run", "index"))
    means = Means(executor, workers, device)
    failures = run_extract(source, dataset, settings.extract, means)
    # a model of a demo's or a folder's size trains faster in one process than in several
    train_workers = workers if executor == "ray" else 1
    run_train(dataset, run, settings, Means(executor, train_workers, device))
    run_index(dataset, run, made_index, settings, means)
    return failures


def run_train(
    dataset: str,
    output: str,
    settings: "PipelineConfig",
    means: Means,
    method: str = "mcn",
) -> None:
    """Runs the stage under a lease, with a bar from the first step on and a closing table; under
    torchrun, rank 0 has them."""
    refuse_foreign(output, "card.json")
    runner = options.check_executor(means.executor)
    train, chosen_settings = _method(method, settings)
    from pipeline.lease import holding
    from training.loop import TrainProgress
    from training.run_local import is_reporter, train_local

    train_model = train_local
    if runner == "ray":
        from training.run_ray import train_ray as train_model
    chosen, workers = options.choose_device(means.device), means.workers
    if not is_reporter():
        train_model(dataset, output, chosen_settings, chosen, workers, train=train)
        return
    with holding(output, take_over=means.take_over) as holder, ExitStack() as shown:
        bars: list[show.Bar] = []

        def on_progress(state: TrainProgress) -> None:
            holder.check()
            if not bars:
                bars.append(shown.enter_context(show.progress("train", state.total_steps, "steps")))
            bars[0].reach(state.step, state.total_steps, _train_detail(state))

        metrics = train_model(
            dataset, output, chosen_settings, chosen, workers, on_progress, train=train
        )
    rows = [(name, round(float(value), 4)) for name, value in sorted(metrics.items())]
    show.table(f"Trained to {output}", ("last epoch", "mean"), rows)


def _method(
    name: str, settings: "PipelineConfig"
) -> "tuple[Train, TrainConfig] | tuple[Train, XdcConfig]":
    """How a method trains, and its settings. Raises UsageError for an unknown one."""
    if name == "mcn":
        from training.loop import train

        return train, settings.train
    from training.xdc.supervision import HEADS

    if name not in HEADS:
        raise UsageError(f"--method {name}: allowed are mcn, {', '.join(HEADS)}")
    from training.xdc.loop import train as train_xdc

    return train_xdc, settings.xdc.model_copy(update={"method": name})


def _train_detail(state: "TrainProgress") -> str:
    """As much as fits beside the bar; every term is in metrics.jsonl and TensorBoard."""
    return f"loss {state.losses['loss']:.2f}, {state.clips_per_second:.0f} clips/s"


def run_index(
    dataset: str,
    model: str,
    output: str,
    settings: "PipelineConfig",
    means: Means,
) -> None:
    """Runs the stage under a lease, with a bar and a closing table."""
    refuse_foreign(output, "index_infos.json")
    from index.build import BuildProgress, build_index

    chosen, executor = options.choose_device(means.device), options.check_executor(means.executor)
    with (
        holding_index(output, take_over=means.take_over) as holder,
        show.progress("index", 1, "shards") as bar,
    ):

        def on_progress(state: BuildProgress) -> None:
            holder.check()
            bar.reach(state.done, state.total, f"{state.kept} kept")

        card = build_index(
            dataset,
            model,
            output,
            settings.index,
            chosen,
            on_progress,
            executor=executor,
            num_workers=means.workers,
        )
    rows = [
        ("clips", card.count),
        ("dimension", card.dimension),
        ("factory", f"{card.factory} ({card.reason})"),
        ("metric", card.metric),
        ("indexed", " + ".join(card.target_modalities)),
        *((name, share) for name, share in card.recall.items()),
        ("milliseconds a query", card.single_ms.p50),
        ("megabytes", round(card.size_bytes / 1e6, 3)),
    ]
    show.table(f"Indexed to {output}", ("what", "value"), rows)
