"""`pipeline evaluate list`, `tracks` and `finetune`: features and encoders on labelled sets."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from extractors.errors import UsageError
from pipeline.cli import options, show
from pipeline.cli.evaluation_tables import give_report
from training.probe_config import Average, FinetuneConfig, ProbeConfig, Trained

if TYPE_CHECKING:
    import torch

    from training.protocols.split_tables import SplitTable
    from training.split_scores import ScoreRow
    from training.xdc.supervision import Modality

Table = tuple[str, Sequence[str], Sequence[Sequence[Any]]]

Splits = Annotated[
    str | None,
    typer.Option(help="What `evaluate list` wrote; by default the dataset's labels and split."),
]
Output = Annotated[str | None, typer.Option("--output", help="File for the same JSON.")]
OnlySplits = Annotated[
    list[str] | None,
    typer.Option("--split", help="Only this split; may be repeated. Default: all."),
]
Labels = Annotated[
    int | None,
    typer.Option(help="Learn from so many training videos, equally many a label.", min=2),
]
Seed = Annotated[int, typer.Option(help="Of all that is drawn.", min=0)]

# of `finetune`, in the order of its parameters
EncoderModel = Annotated[
    str, typer.Option(help="A run of `run train --method xdc`, or an encoder's file.")
]
WhichEncoder = Annotated[str, typer.Option(help="video or audio: which encoder.")]
Layers = Annotated[
    str, typer.Option(help="all: the whole network learns. fc: a new linear layer alone.")
]
FromScratch = Annotated[
    bool, typer.Option("--from-scratch", help="Begin with a fresh encoder, to compare with.")
]
Epochs = Annotated[int, typer.Option(help="Passes over the clips.", min=0)]
ClipsPerVideo = Annotated[
    int, typer.Option(help="Random clips of a training video in an epoch.", min=1)
]
BatchClips = Annotated[int, typer.Option(help="Clips of a step.", min=2)]
EncoderRate = Annotated[float, typer.Option(help="Learning rate of the encoder.", min=0)]
HeadRate = Annotated[float, typer.Option(help="Learning rate of the linear layer.", min=0)]
WeightDecay = Annotated[float, typer.Option(help="Of all weights.", min=0)]
WarmupEpochs = Annotated[int, typer.Option(help="Epochs of rising rates.", min=0)]
DropEpochs = Annotated[
    list[int] | None,
    typer.Option(
        "--drop-epoch", help="After it the rates fall; may be repeated. Default: 6 and 10."
    ),
]
DropFactor = Annotated[float, typer.Option(help="By which they fall.")]
TestClips = Annotated[int, typer.Option(help="Uniform clips of a test video, averaged.", min=1)]
NoFlip = Annotated[bool, typer.Option("--no-flip", help="Mirror no clips.")]
MelTrack = Annotated[str, typer.Option(help="The track of XDC's log-mel.")]
Readers = Annotated[int, typer.Option(help="Processes that read clips.", min=0)]


def list_set(
    name: Annotated[str, typer.Argument(help="ucf101, hmdb51, esc50 or dcase2014.")],
    folder: Annotated[str, typer.Argument(help="Where the set's lists and files are, or below.")],
    output: Annotated[
        str | None,
        typer.Option(help="The csv; by default FOLDER/videos.csv, with relative paths."),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """A published set as a source of `run extract`, with labels and all its splits or folds."""
    from pipeline import storage
    from training.protocols.labelled_sets import count_parts, read_labelled_set
    from training.protocols.split_tables import write_split_table

    found = read_labelled_set(name, folder)
    target = output or storage.join(folder, "videos.csv")
    write_split_table(found, target)
    labels = len({file.label for file in found.files})
    rows = [(split, *counts.values()) for split, counts in count_parts(found).items()]
    show.note(f"{target}: {len(found.files)} files, {labels} labels")
    show.table("Files", ("split", "train", "test"), rows)
    if found.missing:
        show.note(f"{len(found.missing)} files of the lists are not there, as {found.missing[0]}")


def tracks(
    dataset: options.Dataset,
    splits: Splits = None,
    split: OnlySplits = None,
    track: Annotated[
        list[str] | None, typer.Option("--track", help="A track; may be repeated. Default: all.")
    ] = None,
    clips: Annotated[
        int, typer.Option(help="Rows of a video, uniformly spaced; 0: all.", min=0)
    ] = ProbeConfig.clips,
    average: Annotated[
        str,
        typer.Option(
            help="scores: a video is the mean of its rows' scores. features: of its rows, "
            "in training too, which is faster."
        ),
    ] = ProbeConfig.average,
    c: Annotated[
        list[float] | None,
        typer.Option(
            "--c",
            help="scikit-learn's C; of several (the default) the best is chosen "
            "on training videos.",
        ),
    ] = None,
    folds: Annotated[
        int, typer.Option(help="Parts of the training videos to choose C by.", min=2)
    ] = ProbeConfig.folds,
    labels: Labels = None,
    seed: Seed = 0,
    as_json: options.Json = False,
    output: Output = None,
    debug: options.Debug = False,
) -> None:
    """Linear SVM, logistic regression and nearest neighbours on a dataset's tracks, over splits."""
    from training.track_probe import evaluate_tracks

    if any(value <= 0 for value in c or ()):
        raise UsageError(f"--c {min(c or ())}: must be above 0")
    config = ProbeConfig(
        clips=clips,
        average=cast(Average, _one_of("--average", average, ("scores", "features"))),
        c=tuple(c) if c else ProbeConfig.c,
        folds=folds,
        labels=labels,
        seed=seed,
    )
    found = evaluate_tracks(dataset, _table(dataset, splits, split), track or (), config)
    facts = {"dataset": dataset, "splits_table": splits, "settings": asdict(config)}
    missing = [f"{count} without {name}" for name, count in found.without.items() if count]
    title = _title("Tracks", found.labelled, found.absent, missing)
    shown = (title, *_score_table(found.rows))
    _report("tracks", facts | asdict(found), shown, as_json, output)


def finetune(
    dataset: options.Dataset,
    model: EncoderModel,
    modality: WhichEncoder = "video",
    splits: Splits = None,
    split: OnlySplits = None,
    layers: Layers = FinetuneConfig.trained,
    from_scratch: FromScratch = False,
    epochs: Epochs = FinetuneConfig.epochs,
    clips_per_video: ClipsPerVideo = FinetuneConfig.clips_per_video,
    batch_clips: BatchClips = FinetuneConfig.batch_clips,
    lr: EncoderRate = FinetuneConfig.lr,
    head_lr: HeadRate = FinetuneConfig.head_lr,
    weight_decay: WeightDecay = FinetuneConfig.weight_decay,
    warmup_epochs: WarmupEpochs = FinetuneConfig.warmup_epochs,
    drop_epoch: DropEpochs = None,
    drop_factor: DropFactor = FinetuneConfig.drop_factor,
    test_clips: TestClips = FinetuneConfig.test_clips,
    no_flip: NoFlip = False,
    audio_track: MelTrack = "mel",
    labels: Labels = None,
    seed: Seed = 0,
    workers: Readers = FinetuneConfig.loader_workers,
    as_json: options.Json = False,
    output: Output = None,
    device: options.Device = "auto",
    debug: options.Debug = False,
) -> None:
    """An XDC encoder with a new linear layer, trained on labels: fc-only or full fine-tuning."""
    config = FinetuneConfig(
        trained=cast(Trained, _one_of("--layers", layers, ("fc", "all"))),
        from_scratch=from_scratch,
        epochs=epochs,
        clips_per_video=clips_per_video,
        batch_clips=batch_clips,
        lr=lr,
        head_lr=head_lr,
        weight_decay=weight_decay,
        warmup_epochs=warmup_epochs,
        drop_epochs=FinetuneConfig.drop_epochs if drop_epoch is None else tuple(drop_epoch),
        drop_factor=drop_factor,
        flip=not no_flip,
        test_clips=test_clips,
        labels=labels,
        seed=seed,
        loader_workers=workers,
    )
    which = cast("Modality", _one_of("--modality", modality, ("video", "audio")))
    chosen, table = options.choose_device(device), _table(dataset, splits, split)
    facts = {"dataset": dataset, "model": model, "modality": modality, "splits_table": splits}
    _finetune(facts, table, which, config, audio_track, chosen, as_json, output)


def _finetune(
    facts: dict[str, Any],
    table: "SplitTable",
    modality: "Modality",
    config: FinetuneConfig,
    audio_track: str,
    device: "torch.device",
    as_json: bool,
    output: str | None,
) -> None:
    """Measures and reports; `facts` are what was asked."""
    from training.finetune import evaluate_finetune

    found = evaluate_finetune(
        facts["model"], facts["dataset"], table, modality, config, audio_track, device
    )
    facts |= {"settings": asdict(config)} | asdict(found)
    missing = [f"{found.without} without {modality}"] if found.without else []
    title = _title("Fine-tuning", found.labelled, found.absent, missing)
    _report("finetune", facts, (title, *_score_table([found.row])), as_json, output)


def _one_of(option: str, value: str, allowed: Sequence[str]) -> str:
    """The value. Raises UsageError for another one."""
    if value not in allowed:
        raise UsageError(f"{option} {value}: allowed are {' and '.join(allowed)}")
    return value


def _table(dataset: str, splits: str | None, only: Sequence[str] | None) -> "SplitTable":
    from training.protocols.split_tables import dataset_splits, read_split_table

    table = dataset_splits(dataset) if splits is None else read_split_table(splits)
    return table.only(only) if only else table


def _title(what: str, labelled: int, absent: int, missing: Sequence[str]) -> str:
    left_out = [f"{absent} not in the dataset"] if absent else []
    left_out += missing
    return f"{what} on {labelled} labelled videos" + (
        f" ({', '.join(left_out)}: left out)" if left_out else ""
    )


def _score_table(rows: "Sequence[ScoreRow]") -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    """In per cent, with the splits side by side, and chance and majority beside them."""
    names = [split.split for split in rows[0].splits] if rows else []
    columns = ("features", "measure", "videos %", *(f"{name} %" for name in names if names[1:]))
    columns += ("clips %", "chance %", "majority %", "classes", "trained on", "tested", "C")
    return columns, [_score_cells(row) for row in rows]


def _score_cells(row: "ScoreRow") -> Sequence[Any]:
    splits = row.splits
    several = [f"{100 * split.accuracy:.1f}" for split in splits] if splits[1:] else []
    spread = f" ± {100 * row.deviation:.1f}" if several else ""
    clips = [split.clip_accuracy for split in splits if split.clip_accuracy is not None]
    return (
        row.features,
        row.measure,
        f"{100 * row.accuracy:.1f}{spread}",
        *several,
        _mean_per_cent(clips) if clips else "",
        _mean_per_cent([split.chance for split in splits]),
        _mean_per_cent([split.majority for split in splits]),
        _span([split.classes for split in splits]),
        _span([split.train_videos for split in splits]),
        _span([split.test_videos for split in splits]),
        _span([split.c for split in splits if split.c is not None]),
    )


def _mean_per_cent(shares: Sequence[float]) -> str:
    return f"{100 * sum(shares) / len(shares):.1f}"


def _span(values: Sequence[float]) -> str:
    """'7', or '5 to 7'; empty for none."""
    ends = {min(values), max(values)} if values else set()
    return " to ".join(f"{value:g}" for value in sorted(ends))


def _report(
    evaluation: str, facts: Mapping[str, Any], table: Table, as_json: bool, output: str | None
) -> None:
    """What was measured, by which code; without a model's checkpoint, which tracks have none."""
    from training.checkpoints import code_version

    report = {"evaluation": evaluation, "code_version": code_version(), **facts}
    give_report(report, [table], as_json, output)
