"""`pipeline render rayjob|sbatch`."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from extractors.errors import UsageError
from pipeline.cli import options

if TYPE_CHECKING:
    from extractors.extractor import Resources
    from pipeline.cli.config import PipelineConfig

app = typer.Typer(no_args_is_help=True)

MOUNTED_CONFIG = "/etc/pipeline/config.yaml"
NEEDED = {
    "extract": ("--input", "--output"),
    "train": ("--dataset", "--output"),
    "index": ("--dataset", "--model", "--output"),
}

Stage = Annotated[str, typer.Argument(help="extract, train or index.")]
Input = Annotated[str | None, typer.Option("--input", help="Of extract, as for `run extract`.")]
Dataset = Annotated[str | None, typer.Option(help="Of train and index.")]
Model = Annotated[str | None, typer.Option(help="Of index: the run that `run train` wrote.")]
Output = Annotated[str | None, typer.Option("--output", help="Folder or URL that is written.")]
Device = Annotated[str, typer.Option(help="cuda or cpu: what the cluster's machines have.")]
Name = Annotated[str | None, typer.Option(help="Of the job; by default pipeline-STAGE.")]
MemoryMb = Annotated[
    int, typer.Option(help="Of one worker of train or index; extract's is known.", min=500)
]


@app.command()
def rayjob(
    stage: Stage,
    image: Annotated[str, typer.Option(help="Image that docker/Dockerfile built.")],
    source: Input = None,
    dataset: Dataset = None,
    model: Model = None,
    output: Output = None,
    workers: options.Workers = 1,
    device: Device = "cuda",
    worker_memory_mb: MemoryMb = 8000,
    name: Name = None,
    credentials: Annotated[
        str,
        typer.Option("--secret", help="It holds AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."),
    ] = "s3-credentials",
    endpoint: Annotated[
        str | None, typer.Option(help="URL of the object store, if not Amazon's.")
    ] = None,
    weights_claim: Annotated[
        str | None, typer.Option(help="Volume claim of the weights' cache, shared by all pods.")
    ] = None,
    preset: options.Preset = "embedded",
    config: options.ConfigFile = None,
    sets: options.Sets = None,
    debug: options.Debug = False,
) -> None:
    """A KubeRay RayJob that runs a stage: to be piped to `kubectl apply -f -`."""
    from pipeline.render import Command, RayJob, pods, render_rayjob

    places = {"--input": source, "--dataset": dataset, "--model": model, "--output": output}
    settings = options.load_config(preset, config, sets)
    arguments = _places(stage, places) + _means("ray", workers, device)
    # a new attempt has a new cluster, and the lease of the one before may still look alive
    arguments += ("--take-over",)
    arguments += _settings(preset, MOUNTED_CONFIG if config else None, sets)
    needs = _needs(stage, settings, worker_memory_mb)
    job = RayJob(
        name=name or f"pipeline-{stage}",
        image=image,
        command=Command(stage, arguments),
        machines=pods(needs, workers, cuda=device == "cuda"),
        config=config.read_text(encoding="utf-8") if config else "",
        secret=credentials,
        endpoint=endpoint,
        weights_claim=weights_claim,
    )
    typer.echo(render_rayjob(job), nl=False)


@app.command()
def sbatch(
    stage: Stage,
    source: Input = None,
    dataset: Dataset = None,
    model: Model = None,
    output: Output = None,
    num_nodes: Annotated[
        int, typer.Option("--nodes", help="Machines of the allocation.", min=1)
    ] = 1,
    workers: options.Workers = 1,
    device: Device = "cuda",
    worker_memory_mb: MemoryMb = 8000,
    name: Name = None,
    time: Annotated[str, typer.Option(help="Limit, as Slurm writes it.")] = "24:00:00",
    partition: Annotated[str | None, typer.Option(help="Slurm's partition.")] = None,
    array: Annotated[
        int | None,
        typer.Option(
            help="Of extract: at most so many tasks, each with --workers on a range of shards, "
            "without Ray.",
            min=1,
        ),
    ] = None,
    setup: Annotated[
        list[str] | None,
        typer.Option(help="Shell line that puts `pipeline` on PATH. May be repeated."),
    ] = None,
    preset: options.Preset = "embedded",
    config: options.ConfigFile = None,
    sets: options.Sets = None,
    debug: options.Debug = False,
) -> None:
    """An sbatch script that runs a stage on a Ray cluster of its own allocation; with --array one
    whose tasks extract ranges of shards, each on its own."""
    from pipeline.render import (
        Command,
        SlurmArray,
        SlurmJob,
        alone,
        nodes,
        render_array,
        render_sbatch,
    )

    if array is not None and (stage != "extract" or num_nodes > 1):
        raise UsageError("--array: is of extract alone, and each task has one node")
    places = {"--input": source, "--dataset": dataset, "--model": model, "--output": output}
    settings = options.load_config(preset, config, sets)
    where = _places(stage, places)
    rest = _means("ray" if array is None else "local", workers, device)
    chosen = _settings(preset, str(config.resolve()) if config else None, sets)
    needs, cuda = _needs(stage, settings, worker_memory_mb), device == "cuda"
    job = SlurmJob(
        name=name or f"pipeline-{stage}",
        command=Command(stage, where + rest + chosen),
        machines=nodes(needs, workers, num_nodes, cuda=cuda)
        if array is None
        else alone(needs, workers, cuda=cuda),
        time=time,
        partition=partition,
        setup=tuple(setup or ()),
    )
    if array is None:
        typer.echo(render_sbatch(job), nl=False)
        return
    output_only = Command(stage, where[2:] + rest + chosen)  # the plan says which videos
    plan = Command(stage, (*where, *chosen, "--plan-only"))
    made = SlurmArray(replace(job, command=output_only), plan, close=job.command, tasks=array)
    typer.echo(render_array(made), nl=False)


def _places(stage: str, places: dict[str, str | None]) -> tuple[str, ...]:
    """Where a stage reads and writes. Raises UsageError."""
    from pipeline.render import place_path

    if stage not in NEEDED:
        raise UsageError(f"{stage}: no such stage; allowed are {', '.join(NEEDED)}")
    given = tuple(option for option, value in places.items() if value is not None)
    if set(given) != set(NEEDED[stage]):
        raise UsageError(
            f"{stage}: takes {', '.join(NEEDED[stage])}; given: {', '.join(given) or 'none'}"
        )
    found: list[str] = []
    for option in NEEDED[stage]:
        found += (option, place_path(option, places[option] or ""))
    return tuple(found)


def _means(executor: str, workers: int, device: str) -> tuple[str, ...]:
    """What a stage works with. Raises UsageError."""
    if device not in ("cuda", "cpu"):
        raise UsageError(f"--device {device}: allowed are cuda and cpu")
    return ("--executor", executor, "--workers", str(workers), "--device", device)


def _settings(preset: str, config: str | None, sets: list[str] | None) -> tuple[str, ...]:
    """The same preset, file and settings for the job."""
    file = ("--config", config) if config else ()
    chosen = tuple(part for setting in sets or () for part in ("--set", setting))
    return ("--preset", preset, *file, *chosen)


def _needs(stage: str, settings: "PipelineConfig", memory_mb: int) -> "Resources":
    """Of one worker. Only extractors know their memory."""
    from extractors.extractor import Resources
    from pipeline.resources import TRAIN_CPUS, worker_resources

    if stage == "extract":
        return worker_resources(settings.extract)
    cpus = TRAIN_CPUS if stage == "train" else settings.index.threads
    return Resources(cpus=cpus, gpus=1.0, memory_mb=memory_mb)
