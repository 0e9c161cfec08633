"""`pipeline export` and `pipeline import`: the layouts of other programs."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from extractors.errors import UsageError
from pipeline.cli import options, run, show

if TYPE_CHECKING:
    import torch

    from pipeline.formats.importing import ImportPlan
    from pipeline.shards import ShardRecord

FormatOption = Annotated[
    str, typer.Option("--format", help="howto100m, mcn-pickle, video-features, parquet or npy.")
]
Tracks = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        help="NAME=TRACK: what the format calls NAME is our TRACK, as in 3d=visual_3d, "
        "resnet=visual_2d; NAME= leaves it out. May be repeated.",
    ),
]


def export(
    dataset: options.DatasetArgument,
    output: Annotated[str, typer.Argument(help="Folder or URL that is written.")],
    fmt: FormatOption,
    track: Tracks = None,
    items: Annotated[
        str,
        typer.Option(
            help="Of mcn-pickle: youcook2 (an item a segment of speech), msrvtt (an item a video)."
        ),
    ] = "youcook2",
    debug: options.Debug = False,
) -> None:
    """A dataset in the layout of another program. Run again, it writes only what is missing."""
    from pipeline.dataset import read_dataset_card
    from pipeline.formats.choice import check_format, check_items, make_exporter
    from pipeline.formats.exporting import export_dataset

    chosen = check_format(fmt)
    tracks = read_dataset_card(dataset)["tracks"]
    exporter = make_exporter(
        chosen, tracks, options.pairs("--track", track, may_be_empty=True), check_items(items)
    )
    with show.progress("export", 1, "videos") as bar:

        def on_video(done: int, total: int) -> None:
            bar.reach(done, total, "")

        made = export_dataset(dataset, output, chosen, exporter, on_video)
    rows = [
        ("videos", made.videos),
        ("shards kept from before", made.kept),
        ("files", made.files),
        ("megabytes", round(made.size_bytes / 2**20, 3)),
    ]
    show.table(f"Exported to {output} as {chosen}", ("what", "number"), rows)


def import_features(
    source: Annotated[str, typer.Argument(help="Folder, URL or file of the features.")],
    output: Annotated[str, typer.Option("--output", help="Folder or URL of the dataset.")],
    fmt: FormatOption,
    track: Tracks = None,
    hop: Annotated[
        list[str] | None,
        typer.Option(
            "--hop",
            help="NAME=SECONDS from one row of NAME to the next, where it is not the usual one.",
        ),
    ] = None,
    list_url: Annotated[
        str | None,
        typer.Option("--list", help="csv of the videos: column path (howto100m) or key (npy)."),
    ] = None,
    captions: Annotated[
        str | None,
        typer.Option(
            help="Transcripts: caption.json, caption.pickle, or a folder of ID.json, .srt, .vtt."
        ),
    ] = None,
    audio_root: Annotated[
        str | None, typer.Option(help="Of howto100m: the folder of the spectrograms, if another.")
    ] = None,
    features: Annotated[
        str,
        typer.Option(help="What made the features; runs take datasets of the same words alone."),
    ] = "",
    keep_text: Annotated[
        bool,
        typer.Option(
            "--keep-text",
            help="Take text vectors of parquet or npy as made by extract.text, not make them anew.",
        ),
    ] = False,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Read pickles: arrays and plain values alone.")
    ] = False,
    device: options.Device = "auto",
    preset: options.Preset = "embedded",
    config: options.ConfigFile = None,
    sets: options.Sets = None,
    debug: options.Debug = False,
) -> None:
    """Features of other programs to a dataset. Run again, it makes only the missing shards.

    Of the configuration it uses extract.text (the sentence encoder) and extract.videos_per_shard.
    """
    from pipeline.formats.choice import Reading, check_format, open_source
    from pipeline.formats.imported_card import ImportOptions
    from pipeline.formats.importing import plan_import

    settings = options.load_config(preset, config, sets).extract
    chosen, on_device = check_format(fmt), options.choose_device(device)
    if keep_text and chosen not in ("parquet", "npy"):
        raise UsageError(f"--keep-text: {chosen} holds no text vectors; parquet and npy may")
    reading = Reading(
        tracks=options.pairs("--track", track, may_be_empty=True),
        hops=_hops(hop),
        list_url=list_url,
        captions=captions,
        audio_root=audio_root,
        trust_pickle=trust_pickle,
        keep_text=keep_text,
    )
    made_with = ImportOptions(
        videos_per_shard=settings.videos_per_shard,
        text=settings.text,
        keep_text=keep_text,
        features=features,
    )
    with open_source(chosen, source, reading) as opened:
        records = _run_import(plan_import(opened, output, made_with), on_device)
    failed = _show_imported(f"Imported to {output} from {chosen}", records)
    if failed:
        show.note(f"{show.count(failed, 'video')} failed: `pipeline status {output}` lists them")
    raise typer.Exit(run.FAILED_VIDEOS if failed else 0)


def _run_import(plan: "ImportPlan", device: "torch.device") -> "list[ShardRecord]":
    """Makes the plan's shards under a progress bar; gives the records of the whole dataset."""
    from pipeline.formats.importing import run_import

    done = sum(record.count for record in plan.done)
    if plan.done:
        kept = f"{show.count(len(plan.done), 'shard')} ({show.count(done, 'video')})"
        show.note(f"{plan.dataset}: {kept} there already, kept")
    total = done + sum(len(job.videos) for job in plan.jobs)
    failed = 0
    with show.progress("import", total, "videos") as bar:
        bar.advance(done, "")

        def on_video(has_failed: bool) -> None:
            nonlocal failed
            failed += has_failed
            bar.advance(1, f"{failed} failed")

        return run_import(plan, device, on_video)


def _show_imported(title: str, records: "Sequence[ShardRecord]") -> int:
    """A table of what the dataset holds; gives the number of failed videos."""
    reasons = Counter[str]()
    for record in records:
        reasons.update(record.reasons)
    rows = [
        ("shards", len(records)),
        ("videos", sum(record.count for record in records)),
        *((f"failed: {reason}", count) for reason, count in sorted(reasons.items())),
    ]
    show.table(title, ("what", "number"), rows)
    return reasons.total()


def _hops(given: Sequence[str] | None) -> dict[str, float]:
    found = {}
    for name, value in options.pairs("--hop", given).items():
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = 0.0
        if not 0 < found[name] < float("inf"):
            raise UsageError(f"--hop {name}={value}: seconds above 0 are wanted")
    return found
