"""The stamps benchmark as markdown: mean and sample standard deviation over folds.

    python benchmarks/stamps/table.py benchmarks/stamps/results/fold*.json

Only rows that every file has are shown. The last table is of paired differences: a row less
another one of the same fold and seed.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from run import read_settings

TARGETS = {"video": "T→V", "video+audio": "T→V+A", "audio": "T→A"}
RECALLS = ("1", "5", "10")
CLAIMS = (
    ("mms_clustering", "mms"),
    ("clustering_3", "mms"),
    ("mms_reconstruction", "mms"),
    ("mcn", "mms"),
    ("mcn", "mms_clustering"),
    ("mcn", "nce"),
    ("mcn", "sinkhorn"),
    ("mcn", "no_audio"),
    ("mcn", "official"),
)

Figures = dict[str, float]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, nargs="+")
    seeds = [json.loads(path.read_text()) for path in parser.parse_args().results]
    if any(seed["base"] != seeds[0]["base"] for seed in seeds):
        raise SystemExit("the files are of different base settings: run them again")
    names = [n for n in read_settings()["rows"] if all(n in seed["rows"] for seed in seeds)]
    figures = {n: [row_figures(seed["rows"][n]) for seed in seeds] for n in names}
    chance = chance_figures(seeds[0]["rows"][names[0]])
    figures = {"raw": [raw_figures(seed["rows"][names[0]]) for seed in seeds]} | figures
    numbers = ", ".join(str(seed["seed"]) for seed in seeds)
    print(f"Folds and seeds {numbers}; recall in %, mean ± standard deviation.\n")
    for columns in (columns_of(("T→V", "T→V+A")), [*columns_of(("T→A",)), "NMI", "AMI", "ARI"]):
        print_table({"chance": [chance]} | figures, columns)
    print_differences(figures)


def columns_of(targets: Sequence[str]) -> list[str]:
    """R@1, R@5, R@10 and MedR of each."""
    return [f"{target} {what}" for target in targets for what in ("R@1", "R@5", "R@10", "MedR")]


def row_figures(row: dict[str, Any]) -> Figures:
    """By column: recall in percent, median ranks, clusters of the fused embedding."""
    figures: Figures = {}
    for found in row["retrieval"]:
        target = TARGETS[found["target"]]
        figures |= {f"{target} R@{k}": 100 * found["recall"][k] for k in RECALLS}
        figures[f"{target} MedR"] = found["median_rank"]
    return figures | cluster_figures(row, "embedding")


def raw_figures(row: dict[str, Any]) -> Figures:
    """Clusters before any model; raw features of two modalities cannot be compared."""
    return cluster_figures(row, "raw")


def cluster_figures(row: dict[str, Any], features: str) -> Figures:
    """NMI, AMI and ARI."""
    agreement = row["clusters"][features]["agreement"]
    return {what.upper(): agreement[what] for what in ("nmi", "ami", "ari")}


def chance_figures(row: dict[str, Any]) -> Figures:
    """Of a random order; AMI and ARI are 0 by definition, NMI is not."""
    figures: Figures = {"AMI": 0.0, "ARI": 0.0}
    for found in row["retrieval"]:
        target = TARGETS[found["target"]]
        figures |= {f"{target} R@{k}": 100 * found["chance_recall"][k] for k in RECALLS}
        figures[f"{target} MedR"] = found["chance_median_rank"]
    return figures


def print_table(figures: dict[str, list[Figures]], columns: Sequence[str]) -> None:
    """One line a row; a dash where a row has no such figure."""
    print(f"| row | {' | '.join(columns)} |\n| --- |{' --- |' * len(columns)}")
    titles = {name: row["title"] for name, row in read_settings()["rows"].items()}
    titles["raw"] = "raw features"
    for name, seeds in figures.items():
        cells = [cell([seed[c] for seed in seeds if c in seed], c) for c in columns]
        print(f"| {titles.get(name, name)} | {' | '.join(cells)} |")
    print()


def print_differences(figures: dict[str, list[Figures]]) -> None:
    """The rows of CLAIMS, seed by seed."""
    columns = ("T→V R@1", "T→V R@10", "T→V+A R@1", "T→V+A R@10", "T→V+A MedR", "NMI", "ARI")
    print(f"| difference | {' | '.join(columns)} |\n| --- |{' --- |' * len(columns)}")
    for name, other in CLAIMS:
        if name not in figures or other not in figures:
            continue
        pairs = list(zip(figures[name], figures[other], strict=True))
        cells = [cell([a[c] - b[c] for a, b in pairs if c in a and c in b], c) for c in columns]
        print(f"| {name} − {other} | {' | '.join(cells)} |")


def cell(values: Sequence[float], column: str) -> str:
    """Mean and spread."""
    if not values:
        return "–"
    digits = 1 if "@" in column or "MedR" in column else 3
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
