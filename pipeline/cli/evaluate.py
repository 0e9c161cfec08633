"""`pipeline evaluate`: what a run can do, as a table, as JSON, or in a file."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from extractors.errors import UsageError
from pipeline.cli import evaluation_tables as tables
from pipeline.cli import options
from pipeline.cli.evaluation_tables import Facts, show_report

if TYPE_CHECKING:
    from training.protocols.step_files import AnnotatedVideo
    from training.protocols.step_scores import ScoringConfig

app = typer.Typer(no_args_is_help=True)

Split = Annotated[str, typer.Option(help="Split to evaluate; 'all' for every video.")]
TrainSplit = Annotated[str, typer.Option(help="Split whose labels are known.")]
TestSplit = Annotated[str, typer.Option(help="Split whose labels are asked for.")]
Window = Annotated[float, typer.Option(help="Seconds of a clip where nothing is said.", min=0.1)]
Target = Annotated[str, typer.Option(help="Modalities of a clip, joined by '+'.")]
Pairs = Annotated[
    list[str] | None,
    typer.Option("--pair", help="QUERY:TARGET, as in text:video+audio. May be repeated."),
]
Complete = Annotated[
    bool,
    typer.Option("--complete", help="Rank only clips that have all modalities of the pair."),
]
CountMissing = Annotated[
    bool,
    typer.Option("--count-missing", help="Clips that lack a modality are queries that miss."),
]
Total = Annotated[
    int | None,
    typer.Option(help="Denominator of R@k; clips that are not there miss.", min=1),
]
Data = Annotated[str, typer.Option(help="The published pickle: a list of dicts.")]
TrustPickle = Annotated[
    bool, typer.Option("--trust-pickle", help="Open the pickle; arrays and tensors only.")
]
EncoderOf = Annotated[
    str | None,
    typer.Option("--dataset", help="The run's dataset, where it has moved: its text encoder."),
]
Probs = Annotated[str | None, typer.Option(help="Folder for VIDEO.probs, log-softmax scores.")]
Output = Annotated[str | None, typer.Option("--output", help="File for the same JSON.")]


@app.command()
def retrieval(
    dataset: options.Dataset,
    model: options.Model,
    split: Split = "test",
    pair: Pairs = None,
    complete: Complete = False,
    count_missing: CountMissing = False,
    window: Window = 10.0,
    as_json: options.Json = False,
    output: Output = None,
    device: options.Device = "auto",
    debug: options.Debug = False,
) -> None:
    """R@1/5/10 and median rank of pairs of modalities over a dataset's clips, beside chance."""
    from training.evaluation import evaluate_retrieval
    from training.retrieval import DEFAULT_PAIRS

    pairs, chosen = read_pairs(pair, DEFAULT_PAIRS), options.choose_device(device)
    rows = evaluate_retrieval(
        model, dataset, _split(split), pairs, window, chosen, complete, count_missing
    )
    facts: Facts = {"dataset": dataset, "split": split, "window": window}
    facts |= {"complete": complete, "count_missing": count_missing}
    facts |= {"rows": [tables.retrieval_dict(row) for row in rows]}
    title = f"Retrieval, split {split} (chance in brackets)"
    table = (title, *tables.retrieval_table(rows))
    show_report("retrieval", model, facts, [table], as_json, output)


@app.command()
def clusters(
    dataset: options.Dataset,
    model: options.Model,
    split: Split = "test",
    k: Annotated[int | None, typer.Option("-k", help="Clusters; by default the labels.")] = None,
    window: Window = 10.0,
    as_json: options.Json = False,
    output: Output = None,
    device: options.Device = "auto",
    debug: options.Debug = False,
) -> None:
    """NMI, AMI, ARI, accuracy, purity and entropy of k-means against labels, and of the raw
    features."""
    from training.evaluation import evaluate_clusters

    chosen = options.choose_device(device)
    rows = evaluate_clusters(model, dataset, _split(split), k, window, device=chosen)
    facts: Facts = {"dataset": dataset, "split": split, "window": window}
    facts |= {"rows": [asdict(row) for row in rows]}
    table = (f"Clusters, split {split}", *tables.cluster_table(rows))
    show_report("clusters", model, facts, [table], as_json, output)


@app.command()
def zero_shot(
    dataset: options.Dataset,
    model: options.Model,
    split: Split = "test",
    target: Target = "video",
    window: Window = 10.0,
    as_json: options.Json = False,
    output: Output = None,
    device: options.Device = "auto",
    debug: options.Debug = False,
) -> None:
    """Top-1 and top-5 accuracy of labels found by their names alone, beside chance."""
    from training.classification import evaluate_zero_shot

    chosen = options.choose_device(device)
    found = evaluate_zero_shot(model, dataset, _split(split), target, window, chosen)
    facts: Facts = {"dataset": dataset, "split": split, "target": target, "window": window}
    facts |= {"rows": [asdict(found)]}
    title = f"Zero-shot classification, split {split} (chance in brackets)"
    table = (title, *tables.recall_table({"names of labels": found}, "top-", "labels"))
    show_report("zero-shot", model, facts, [table], as_json, output)


@app.command()
def neighbours(
    dataset: options.Dataset,
    model: options.Model,
    train_split: TrainSplit = "train",
    test_split: TestSplit = "test",
    target: Target = "video+audio",
    window: Window = 10.0,
    as_json: options.Json = False,
    output: Output = None,
    device: options.Device = "auto",
    debug: options.Debug = False,
) -> None:
    """Whether a label is among those of the nearest 1, 5, 10 training videos, and by the raw
    features."""
    from training.classification import evaluate_neighbours

    chosen = options.choose_device(device)
    rows = evaluate_neighbours(model, dataset, train_split, test_split, target, window, chosen)
    facts: Facts = {"dataset": dataset, "target": target, "window": window}
    facts |= {"train_split": train_split, "test_split": test_split}
    facts |= {"rows": [asdict(row) for row in rows]}
    title = f"Nearest neighbours of {test_split} in {train_split} (chance in brackets)"
    table = (title, *tables.neighbour_table(rows))
    show_report("neighbours", model, facts, [table], as_json, output)


@app.command()
def probe(
    dataset: options.Dataset,
    model: options.Model,
    train_split: TrainSplit = "train",
    test_split: TestSplit = "test",
    target: Target = "video+audio",
    c: Annotated[float, typer.Option("--c", help="scikit-learn's C, inverse regularisation.")] = 1,
    window: Window = 10.0,
    as_json: options.Json = False,
    output: Output = None,
    device: options.Device = "auto",
    debug: options.Debug = False,
) -> None:
    """Linear classifiers (logistic regression, SVM) on frozen embeddings, and on the raw
    features."""
    from training.classification import evaluate_probe

    if c <= 0:
        raise UsageError(f"--c {c}: must be above 0")
    chosen = options.choose_device(device)
    rows = evaluate_probe(model, dataset, train_split, test_split, target, c, window, chosen)
    facts: Facts = {"dataset": dataset, "target": target, "window": window, "c": c}
    facts |= {"train_split": train_split, "test_split": test_split}
    facts |= {"rows": [asdict(row) for row in rows]}
    table = (f"Linear probes, {train_split} to {test_split}", *tables.probe_table(rows))
    show_report("probe", model, facts, [table], as_json, output)


@app.command()
def youcook2(
    data: Data,
    model: options.Model,
    pair: Pairs = None,
    target: Target = "video+audio",
    trust_pickle: TrustPickle = False,
    dataset: EncoderOf = None,
    complete: Complete = False,
    count_missing: CountMissing = False,
    total: Total = None,
    as_json: options.Json = False,
    output: Output = None,
    device: options.Device = "auto",
    debug: options.Debug = False,
) -> None:
    """Zero-shot retrieval on YouCook2 (officially --total 3350): its clips, its full videos in
    five forms."""
    from training.protocols.caption_retrieval import PAIRS, evaluate_youcook2

    pairs, chosen = read_pairs(pair, PAIRS), options.choose_device(device)
    counting = (complete, count_missing, total)
    found = evaluate_youcook2(model, data, trust_pickle, pairs, target, dataset, chosen, *counting)
    facts: Facts = {"data": data, "target": target, "complete": complete}
    facts |= tables.caption_dict(found)
    shown = tables.caption_tables("YouCook2", found)
    show_report("youcook2", model, facts, shown, as_json, output)


@app.command()
def msrvtt(
    data: Data,
    model: options.Model,
    pair: Pairs = None,
    trust_pickle: TrustPickle = False,
    dataset: EncoderOf = None,
    complete: Complete = False,
    count_missing: CountMissing = False,
    total: Total = None,
    as_json: options.Json = False,
    output: Output = None,
    device: options.Device = "auto",
    debug: options.Debug = False,
) -> None:
    """Zero-shot retrieval on MSR-VTT's test clips (officially --complete --total 1000)."""
    from training.protocols.caption_retrieval import PAIRS, evaluate_msrvtt

    pairs, chosen = read_pairs(pair, PAIRS), options.choose_device(device)
    counting = (complete, count_missing, total)
    found = evaluate_msrvtt(model, data, trust_pickle, pairs, dataset, chosen, *counting)
    facts: Facts = {"data": data, "complete": complete} | tables.caption_dict(found)
    shown = tables.caption_tables("MSR-VTT", found)
    show_report("msrvtt", model, facts, shown, as_json, output)


@app.command()
def crosstask(
    dataset: options.Dataset,
    model: options.Model,
    annotations: Annotated[str, typer.Option(help="Folder of TASK_VIDEO.csv or .npy.")],
    tasks: Annotated[str, typer.Option(help="tasks_primary.txt, or a JSON of step lists.")],
    target: Target = "video+audio",
    probs: Probs = None,
    as_json: options.Json = False,
    output: Output = None,
    device: options.Device = "auto",
    debug: options.Debug = False,
) -> None:
    """Recall of the steps of CrossTask, one second a step, per video and per task, beside
    chance."""
    from training.protocols.step_files import read_crosstask
    from training.protocols.step_scores import ScoringConfig

    videos, scoring = read_crosstask(annotations, tasks), ScoringConfig(target=target)
    _localise("CrossTask", dataset, model, videos, scoring, probs, as_json, output, device)


@app.command()
def miningyoutube(
    dataset: options.Dataset,
    model: options.Model,
    labels: Annotated[str, typer.Option(help="Folder of VIDEO.npy, (seconds, steps).")],
    steps: Annotated[str, typer.Option(help="JSON of the list of steps of each video.")],
    target: Target = "video+audio",
    probs: Probs = None,
    as_json: options.Json = False,
    output: Output = None,
    device: options.Device = "auto",
    debug: options.Debug = False,
) -> None:
    """Alignment of MiningYouTube's videos to their lists of actions: recall, IoU, IoD."""
    from training.protocols.step_files import read_mining_youtube
    from training.protocols.step_scores import ScoringConfig

    videos = read_mining_youtube(labels, steps)
    scoring = ScoringConfig(target=target, log_softmax=True)
    _localise("MiningYouTube", dataset, model, videos, scoring, probs, as_json, output, device)


def read_pairs(
    pairs: Sequence[str] | None, default: Sequence[tuple[str, str]]
) -> Sequence[tuple[str, str]]:
    """('text', 'video+audio') from 'text:video+audio'. Raises UsageError for another form."""
    if not pairs:
        return default
    found = []
    for pair in pairs:
        query, colon, target = pair.partition(":")
        if not colon or not query or not target:
            raise UsageError(f"--pair {pair}: wanted is QUERY:TARGET, as in text:video+audio")
        found.append((query, target))
    return found


def _localise(
    name: str,
    dataset: str,
    model: str,
    videos: "Sequence[AnnotatedVideo]",
    scoring: "ScoringConfig",
    probs: str | None,
    as_json: bool,
    output: str | None,
    device: str,
) -> None:
    from training.protocols.step_scores import evaluate_localisation

    chosen = options.choose_device(device)
    found = evaluate_localisation(model, dataset, videos, scoring, probs, chosen)
    facts = {"dataset": dataset} | asdict(scoring) | asdict(found)
    title = (
        f"{name}: {found.steps} steps in {found.videos} videos ({found.absent} not in the "
        f"dataset, {found.too_short} shorter than their steps)"
    )
    table = (title, *tables.localisation_table(found))
    show_report(name.lower(), model, facts, [table], as_json, output)


def _split(name: str) -> str | None:
    return None if name == "all" else name
