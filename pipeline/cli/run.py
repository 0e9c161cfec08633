"""`pipeline run extract|train|index|all`."""

import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from extractors.errors import UsageError
from pipeline.cli import options, show

if TYPE_CHECKING:
    from pipeline.cli.config import PipelineConfig
    from pipeline.shards import ShardRecord
    from training.loop import TrainProgress

app = typer.Typer(no_args_is_help=True)

Input = Annotated[
    str, typer.Option("--input", help="Folder, glob, csv, parquet or file; local or a URL.")
]
Output = Annotated[str, typer.Option("--output", help="Folder or URL that is written.")]

FAILED_VIDEOS = 3


@app.command()
def extract(
    source: Input,
    output: Output,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Make shards with failed videos again.")
    ] = False,
    executor: options.ExecutorOption = "local",
    workers: options.Workers = 1,
    device: options.Device = "auto",
    preset: options.Preset = "embedded",
    config: options.ConfigFile = None,
    sets: options.Sets = None,
    debug: options.Debug = False,
) -> None:
    """Raw videos to shards of features and transcripts. Run again, it does only what is missing."""
    settings = options.load_config(preset, config, sets)
    failures = run_extract(
        source, output, settings, executor, workers, device, retry_failed=retry_failed
    )
    raise typer.Exit(FAILED_VIDEOS if failures else 0)


@app.command()
def train(
    dataset: options.Dataset,
    output: Output,
    executor: options.ExecutorOption = "local",
    workers: options.Workers = 1,
    device: options.Device = "auto",
    preset: options.Preset = "embedded",
    config: options.ConfigFile = None,
    sets: options.Sets = None,
    debug: options.Debug = False,
) -> None:
    """Shards to a multimodal clustering model. Run again, it goes on from its last checkpoint."""
    settings = options.load_config(preset, config, sets)
    run_train(dataset, output, settings, executor, workers, device)


@app.command()
def index(
    dataset: options.Dataset,
    model: Annotated[str, typer.Option(help="The run that `run train` wrote.")],
    output: Output,
    executor: options.ExecutorOption = "local",
    workers: options.Workers = 1,
    device: options.Device = "auto",
    preset: options.Preset = "embedded",
    config: options.ConfigFile = None,
    sets: options.Sets = None,
    debug: options.Debug = False,
) -> None:
    """Every clip of a dataset, embedded by a run, to a FAISS index."""
    settings = options.load_config(preset, config, sets)
    run_index(dataset, model, output, settings, executor, workers, device)


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
    failures = run_extract(source, dataset, settings, executor, workers, device)
    # a model of a demo's or a folder's size trains faster in one process than in several
    train_workers = workers if executor == "ray" else 1
    run_train(dataset, run, settings, executor, train_workers, device)
    run_index(dataset, run, made_index, settings, executor, workers, device)
    return failures


def run_extract(
    source: str,
    output: str,
    settings: "PipelineConfig",
    executor: str,
    workers: int,
    device: str,
    *,
    retry_failed: bool = False,
) -> int:
    """Runs the stage with a bar and a closing table; gives the number of failed videos."""
    from pipeline import extract as stage

    _refuse_foreign(output, "dataset.json")

    chosen = options.choose_device(device)
    runner = _executor(executor, ("local", "ray"))
    todo = stage.plan_extract(source, output, settings.extract, retry_failed=retry_failed)
    done = sum(record.count for record in todo.done)
    if todo.done:
        show.note(f"{output}: {len(todo.done)} shards ({done} videos) are up to date and kept")
    with show.progress("extract", done + todo.num_videos, "videos") as bar:
        bar.advance(done, "")
        meter = _Meter(bar)
        records = stage.run_extract(
            todo,
            output,
            settings.extract,
            chosen,
            executor=runner,
            num_workers=workers,
            on_record=meter.add,
        )
    _print_extracted(output, records, meter)
    failures = sum(record.count - record.successes for record in records)
    if failures:
        show.note(
            f"{failures} videos failed: `pipeline status {output}` lists them; "
            "`run extract --retry-failed` tries their shards again"
        )
    return failures


class _Meter:
    """Counts records as they come, for the bar and the closing table."""

    def __init__(self, bar: show.Bar) -> None:
        self._bar = bar
        self._started = time.monotonic()
        self.records: list[ShardRecord] = []

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


def _print_extracted(output: str, records: "list[ShardRecord]", meter: _Meter) -> None:
    reasons = Counter[str]()
    stages = Counter[str]()
    for record in records:
        reasons.update(record.reasons)
    for record in meter.records:
        stages.update(record.stage_seconds)
    videos = sum(record.count for record in records)
    rows: list[tuple[str, float, str]] = [
        ("shards", len(records), f"{len(meter.records)} made now"),
        ("videos", videos, f"{videos - sum(reasons.values())} in the shards"),
        *((f"failed: {reason}", count, "") for reason, count in sorted(reasons.items())),
        *((f"seconds: {name}", round(s, 1), "") for name, s in stages.most_common() if s >= 0.05),
    ]
    if meter.records:
        rows.append(("video-hours/hour", round(meter.rate, 1), f"{meter.seconds:.0f} s in all"))
    show.table(f"Extracted to {output}", ("what", "number", ""), rows)


def run_train(
    dataset: str, output: str, settings: "PipelineConfig", executor: str, workers: int, device: str
) -> None:
    """Runs the stage with a bar and a closing table; under torchrun, rank 0 shows them."""
    _refuse_foreign(output, "card.json")
    runner = _executor(executor, ("local", "ray"))
    from training.loop import TrainProgress
    from training.run_local import is_reporter, train_local

    train_model = train_local
    if runner == "ray":
        from training.run_ray import train_ray as train_model
    chosen = options.choose_device(device)
    if not is_reporter():
        train_model(dataset, output, settings.train, chosen, workers)
        return
    with show.progress("train", 1, "steps") as bar:

        def on_progress(state: TrainProgress) -> None:
            bar.reach(state.step, state.total_steps, _train_detail(state))

        metrics = train_model(dataset, output, settings.train, chosen, workers, on_progress)
    rows = [(name, round(float(value), 4)) for name, value in sorted(metrics.items())]
    show.table(f"Trained to {output}", ("last epoch", "mean"), rows)


def _train_detail(state: "TrainProgress") -> str:
    """As much as fits beside the bar; every term is in metrics.jsonl and TensorBoard."""
    return f"loss {state.losses['loss']:.2f}, {state.clips_per_second:.0f} clips/s"


def run_index(
    dataset: str,
    model: str,
    output: str,
    settings: "PipelineConfig",
    executor: str,
    workers: int,
    device: str,
) -> None:
    """Runs the stage with a bar and a closing table."""
    _refuse_foreign(output, "index_infos.json")
    from index.build import BuildProgress, build_index

    chosen = options.choose_device(device)
    with show.progress("index", 1, "shards") as bar:

        def on_progress(state: BuildProgress) -> None:
            bar.reach(state.done, state.total, f"{state.kept} kept")

        card = build_index(
            dataset,
            model,
            output,
            settings.index,
            chosen,
            on_progress,
            executor=_executor(executor, ("local", "ray")),
            num_workers=workers,
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


def _executor(name: str, allowed: tuple[str, ...]) -> Literal["local", "ray"]:
    if name not in allowed:
        raise UsageError(f"--executor {name}: allowed are {' and '.join(allowed)}")
    return cast(Literal["local", "ray"], name)


CARDS = {"dataset.json": "a dataset", "card.json": "a run", "index_infos.json": "an index"}


def _refuse_foreign(output: str, own: str) -> None:
    """Raises UsageError where the output holds what another stage made."""
    from pipeline import storage

    for card, what in CARDS.items():
        if card != own and storage.exists(storage.join(output, card)):
            raise UsageError(f"--output {output}: holds {what} already; choose another folder")
