"""One seed of the stamps benchmark: train every row, measure it on the unseen stamps.

    python benchmarks/stamps/run.py --dataset DATASET --seed 0 --output results/fold0.json

DATASET is what `pipeline run extract` made of the corpus of corpus.py (README.md beside this). Rows
and settings are in settings.yaml. The JSON is written after every row; called again, with the same
settings and dataset, it goes on with the rows that are missing.
"""

import argparse
import json
import logging
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.seed_results import save
from pipeline.settings import load_settings
from training.config import TrainConfig
from training.evaluation import evaluate_clusters, evaluate_retrieval
from training.provenance import stored_digest
from training.retrieval import RetrievalRow
from training.run_local import train_local

PAIRS = (("text", "video"), ("text", "audio"), ("text", "video+audio"))
CPU = torch.device("cpu")


def measure_row(dataset: str, seed: int, name: str) -> dict[str, Any]:
    """Trains a row of settings.yaml into a temporary folder and measures it on the test split."""
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING, format=f"{name}: %(message)s", force=True)
    config = row_config(name, seed)
    pairs = [pair for pair in PAIRS if can_ask(pair, config.sampling.modalities)]
    with tempfile.TemporaryDirectory() as run:
        before, started = time.process_time(), time.perf_counter()
        losses = train_local(dataset, run, config, CPU, num_workers=1)
        cpu, wall = time.process_time() - before, time.perf_counter() - started
        retrieval = evaluate_retrieval(run, dataset, pairs=pairs)
        clusters = evaluate_clusters(run, dataset, seed=seed)
    return {
        "retrieval": [retrieval_numbers(row) for row in retrieval],
        "clusters": {row.features: asdict(row) for row in clusters},
        "losses": losses,
        "cpu_seconds": round(cpu, 1),
        "wall_seconds": round(wall, 1),
    }


def row_config(name: str, seed: int) -> TrainConfig:
    """`base` of settings.yaml, what the row changes in it, and the seed."""
    settings = read_settings()
    layers = [
        ("base", yaml.safe_dump(settings["base"])),
        (name, yaml.safe_dump(settings["rows"][name]["set"])),
    ]
    return load_settings(TrainConfig, layers, [f"seed={seed}"])


def read_settings() -> dict[str, Any]:
    """settings.yaml beside this file."""
    settings: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("settings.yaml").read_text())
    return settings


def can_ask(pair: tuple[str, str], modalities: Sequence[str]) -> bool:
    """Whether a model of these modalities has all that the pair names."""
    return set("+".join(pair).split("+")) <= set(modalities)


def retrieval_numbers(row: RetrievalRow) -> dict[str, Any]:
    """A row of retrieval as JSON, with chance beside it."""
    found = row.metrics
    return {
        "query": row.query,
        "target": row.target,
        "recall": {str(k): value for k, value in found.recall.items()},
        "median_rank": found.median_rank,
        "chance_recall": {str(k): value for k, value in found.chance_recall.items()},
        "chance_median_rank": found.chance_median_rank,
        "queries": found.queries,
        "candidates": found.candidates,
    }


def open_results(path: Path, dataset: str, seed: int) -> dict[str, Any]:
    """What an earlier call left, but for rows whose settings are others now."""
    settings = read_settings()
    results = {"seed": seed, "dataset": stored_digest(dataset), "base": settings["base"]}
    if path.exists():
        before = json.loads(path.read_text())
        if all(before[name] == value for name, value in results.items()):
            rows = before["rows"]
            kept = {n: row for n, row in rows.items() if row["set"] == set_of(settings, n)}
            return results | {"rows": kept}
    return results | {"rows": {}}


def set_of(settings: dict[str, Any], name: str) -> Any:
    """What a row changes; None for one that is not in settings.yaml."""
    return settings["rows"].get(name, {}).get("set")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", help="by default all of settings.yaml")
    parser.add_argument("--workers", type=int, default=1, help="rows at a time, one thread each")
    arguments = parser.parse_args()
    settings = read_settings()
    results = open_results(arguments.output, arguments.dataset, arguments.seed)
    wanted = arguments.rows or list(settings["rows"])
    if unknown := sorted(set(wanted) - set(settings["rows"])):
        raise SystemExit(f"--rows {' '.join(unknown)}: known are {' '.join(settings['rows'])}")
    missing = [name for name in wanted if name not in results["rows"]]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, spawn) as pool:
        jobs = {
            pool.submit(measure_row, arguments.dataset, arguments.seed, name): name
            for name in missing
        }
        for job in as_completed(jobs):
            name, found = jobs[job], job.result()
            results["rows"][name] = {"set": set_of(settings, name)} | found
            save(arguments.output, results)
            print(f"{name}: {summary(found)}", flush=True)


def summary(found: dict[str, Any]) -> str:
    """One line."""
    parts = [
        f"{row['query']}->{row['target']} R@1 {row['recall']['1']:.3f} "
        f"R@10 {row['recall']['10']:.3f} MedR {row['median_rank']:g}"
        for row in found["retrieval"]
    ]
    agreement = found["clusters"]["embedding"]["agreement"]
    parts.append(f"NMI {agreement['nmi']:.3f} ARI {agreement['ari']:.3f}")
    return f"{'; '.join(parts)}; {found['cpu_seconds']:g} CPU s, {found['wall_seconds']:g} s"


if __name__ == "__main__":
    main()
