"""One seed of the av_digits benchmark, from raw videos: extract, train every row, probe.

    python benchmarks/av_digits/run.py --corpus CORPUS --work WORK --seed 0 --output seed0.json

CORPUS is what corpus.py made. The dataset goes to WORK/dataset and is shared by the seeds; a row's
run goes to WORK/seed0/ROW. Settings are in preset.yaml; a seed changes the weights, the held-out
videos, k-means and the clips. The JSON is written after every row; called again with the same
corpus and settings it goes on with the rows that are missing.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import normalized_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.seed_results import save
from extractors.xdc_encoder_file import load_audio_encoder, load_video_encoder
from extractors.xdc_run import encoder_file
from training import checkpoints
from training.classification import CLASSIFIERS, make_classifier
from training.provenance import stored_digest
from training.xdc.config import XdcConfig
from training.xdc.embedding import embed_set
from training.xdc.model import XdcModel
from training.xdc.pseudo_labels import cluster_set
from training.xdc.reading import ClipLoader
from training.xdc.row_files import Float32, read_rows_at
from training.xdc.supervision import MODALITIES
from training.xdc.video_set import VideoSet, open_video_set

PRESET = Path(__file__).with_name("preset.yaml")
CPU = torch.device("cpu")
CLIPS = 3
"""Uniformly spaced clips of a video, whose vectors are averaged for the probes."""
REGULARISATION = 1.0
"""C of the linear classifiers, on standardised columns."""
FEW_LABELS = {10: 10, 100: 5, 1000: 2}
"""Labelled videos, and how often as many are drawn."""
NUISANCES = {"video": "photograph", "audio": "speaker"}
"""Columns of takes.csv: what a modality's clusters may be of instead."""


class Row(NamedTuple):
    """One training of the table."""

    method: str
    sets: tuple[str, ...] = ()
    """Of `--set`, over preset.yaml."""


ROWS = {
    "scratch": Row("xdc", ("xdc.iterations=0",)),
    "xdc": Row("xdc"),
    "sdc": Row("sdc"),
    "cdc": Row("cdc"),
    "mdc": Row("mdc"),
    # as many epochs as the others have at most
    "supervised": Row("supervised", ("xdc.iterations=1", "xdc.epochs=24", "xdc.patience=null")),
}


class Vectors(NamedTuple):
    """One modality of one split by trained encoders."""

    rows: Float32
    """(N, D)"""
    labels: NDArray[np.str_]


def extract(corpus: Path, dataset: Path, workers: int) -> float:
    """`run extract`; seconds."""
    source = str(corpus / "videos.csv")
    return pipeline(
        "run", "extract", "--preset", "xdc", "--config", str(PRESET), "--input", source,
        "--output", str(dataset), "--workers", str(workers),
    )  # fmt: skip


def train(dataset: Path, run: Path, row: Row, overrides: Sequence[str]) -> float:
    """`run train`; seconds."""
    sets = [part for value in overrides for part in ("--set", value)]
    return pipeline(
        "run", "train", "--method", row.method, "--preset", "xdc", "--config", str(PRESET),
        "--dataset", str(dataset), "--output", str(run), "--device", "cpu", *sets,
    )  # fmt: skip


def pipeline(*arguments: str) -> float:
    """Runs a command of the pipeline; seconds."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - started


def measure_run(run: Path, dataset: Path, takes: dict[str, dict[str, str]]) -> dict[str, Any]:
    """All figures of a trained run."""
    card = checkpoints.read_card(str(run), "xdc")
    assert card is not None, f"{run} has no card"
    config = XdcConfig.model_validate(card["config"])
    model = XdcModel(config)
    model.encoders["video"] = load_video_encoder(Path(encoder_file(str(run), "video")))
    model.encoders["audio"] = load_audio_encoder(Path(encoder_file(str(run), "audio")))
    with tempfile.TemporaryDirectory() as name:
        folders = Path(name, "train"), Path(name, "test")
        train_vectors, clusters = embed(model, dataset, folders[0], takes, test=False)
        test_vectors, _ = embed(model, dataset, folders[1], takes, test=True)
    rng = np.random.default_rng(0)  # the same videos are labelled in every row and seed
    return {
        "steps": card["step"],
        "probe": {
            modality: probes(train_vectors[modality], test_vectors[modality])
            for modality in (*MODALITIES, "both")
        },
        "few_labels": {
            modality: few_labels(train_vectors[modality], test_vectors[modality], rng)
            for modality in MODALITIES
        },
        "clusters": clusters,
        "iterations": iterations(run),
    }


def embed(
    model: XdcModel, dataset: Path, folder: Path, takes: dict[str, dict[str, str]], *, test: bool
) -> tuple[dict[str, Vectors], dict[str, Any]]:
    """Vectors of a split by modality, and what the clusters of the training split agree with."""
    folder.mkdir()
    videos = open_video_set(str(dataset), model.config, test=test)
    with ClipLoader(videos, model.config, CPU) as loader:
        found = embed_set(model, videos, loader, CLIPS, CPU, folder).files
    digits = np.array([takes[key]["digit"] for key in videos.keys])
    every = np.arange(len(videos))
    vectors = {name: Vectors(read_rows_at(path, every), digits) for name, path in found.items()}
    joined = np.concatenate([unit(vectors[name].rows) for name in MODALITIES], axis=1)
    clusters = {} if test else cluster(model.config, videos, found, takes, folder)
    return vectors | {"both": Vectors(joined, digits)}, clusters


def unit(rows_ND: Float32) -> Float32:
    """Of length 1."""
    found: Float32 = rows_ND / np.maximum(np.linalg.norm(rows_ND, axis=1, keepdims=True), 1e-12)
    return found


def cluster(
    config: XdcConfig,
    videos: VideoSet,
    found: Any,
    takes: dict[str, dict[str, str]],
    folder: Path,
) -> dict[str, Any]:
    """NMI of each modality's k-means with the digit and with what the digit is not."""
    scores: dict[str, Any] = {}
    for modality in MODALITIES:
        made = cluster_set(modality, found, videos, config.clustering, (config.seed, 4), folder)
        scores[modality] = {
            column: normalized_mutual_info_score(
                [takes[key][column] for key in videos.keys], made.labels_N
            )
            for column in ("digit", NUISANCES[modality])
        }
    return scores


def probes(train: Vectors, test: Vectors) -> dict[str, float]:
    """Accuracy on the test videos of linear classifiers and of the nearest neighbour (cosine)."""
    found = {name: accuracy(make_classifier(name, REGULARISATION), train, test)
             for name in CLASSIFIERS}  # fmt: skip
    nearest = KNeighborsClassifier(1)
    unit_length = (Vectors(unit(part.rows), part.labels) for part in (train, test))
    return found | {"nearest": accuracy(nearest, *unit_length)}


def accuracy(model: Any, train: Vectors, test: Vectors) -> float:
    """Of a scikit-learn classifier."""
    return float(model.fit(*train).score(*test))


def few_labels(train: Vectors, test: Vectors, rng: np.random.Generator) -> dict[str, list[float]]:
    """Accuracy of logistic regression on as many labelled videos, each digit equally often."""
    names = np.unique(train.labels)
    found: dict[str, list[float]] = {}
    for count, draws in FEW_LABELS.items():
        found[str(count)] = []
        for _ in range(draws):
            shuffled = rng.permutation(len(train.labels))
            each = [shuffled[train.labels[shuffled] == name][: count // 10] for name in names]
            chosen = np.concatenate(each)
            some = Vectors(train.rows[chosen], train.labels[chosen])
            found[str(count)].append(accuracy(make_classifier("logistic", 1.0), some, test))
    return found


def iterations(run: Path) -> list[dict[str, float]]:
    """What metrics.jsonl says at the start of each iteration: NMI, sizes, seconds of clustering."""
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if "clustering_seconds" in row]


def open_results(path: Path, dataset: Path, seed: int, overrides: Sequence[str]) -> dict[str, Any]:
    """What an earlier call left, if it was of the same videos and settings."""
    results: dict[str, Any] = {
        "seed": seed,
        "dataset": stored_digest(str(dataset)),
        "preset": PRESET.read_text(),
        "set": list(overrides),
    }
    if path.exists():
        before: dict[str, Any] = json.loads(path.read_text())
        if all(before[name] == value for name, value in results.items()):
            return before
    return results | {"rows": {}}


def summary(name: str, found: dict[str, Any]) -> str:
    """One line."""
    parts = [
        f"{modality} {100 * found['probe'][modality]['logistic']:.1f} % "
        f"NMI {found['clusters'][modality]['digit']:.3f}"
        for modality in MODALITIES
    ]
    times = ", ".join(f"{stage} {spent:.0f} s" for stage, spent in found["seconds"].items())
    return f"{name}: {'; '.join(parts)}; {found['steps']} steps; {times}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--workers", type=int, default=2, help="processes that extract")
    parser.add_argument("--set", nargs="+", default=[], help="over preset.yaml: xdc.epochs=2 …")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    dataset = arguments.work / "dataset"
    extracting = extract(arguments.corpus, dataset, arguments.workers)
    with (arguments.corpus / "takes.csv").open(newline="", encoding="utf-8") as stream:
        takes = {take["key"]: take for take in csv.DictReader(stream)}
    results = open_results(arguments.output, dataset, arguments.seed, arguments.set)
    results.setdefault("extract_seconds", extracting)
    for name in arguments.rows:
        if name in results["rows"]:
            continue
        run = arguments.work / f"seed{arguments.seed}" / name
        row = ROWS[name]
        overrides = [f"xdc.seed={arguments.seed}", *arguments.set, *row.sets]
        seconds = {"train": train(dataset, run, row, overrides)}
        started = time.perf_counter()
        found = measure_run(run, dataset, takes)
        seconds["measure"] = time.perf_counter() - started
        results["rows"][name] = found | {"seconds": seconds}
        save(arguments.output, results)
        print(summary(name, results["rows"][name]), flush=True)


if __name__ == "__main__":
    main()
