"""The av_digits benchmark as markdown: mean and sample standard deviation over seeds.

    python benchmarks/av_digits/table.py seed0.json seed1.json seed2.json

Only rows that every file has are shown.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TITLES = {
    "scratch": "scratch (random encoders)",
    "sdc": "SDC",
    "mdc": "MDC",
    "cdc": "CDC",
    "xdc": "XDC",
    "supervised": "supervised",
}
MODALITIES = {"video": "video", "audio": "sound", "both": "both"}
CLASSIFIERS = {"logistic": "logistic", "svm": "SVM", "nearest": "1-NN"}
NUISANCES = {"video": "photograph", "audio": "speaker"}
CLAIMS = (("xdc", "scratch"), ("xdc", "sdc"), ("xdc", "mdc"), ("xdc", "cdc"), ("cdc", "mdc"),
          ("mdc", "sdc"), ("supervised", "xdc"))  # fmt: skip

STAGES = ("train", "measure")

Result = dict[str, Any]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, nargs="+")
    seeds = [json.loads(path.read_text()) for path in parser.parse_args().results]
    if any(seed[key] != seeds[0][key] for seed in seeds for key in ("dataset", "preset", "set")):
        raise SystemExit("the files are of different datasets or settings: run them again")
    names = [name for name in TITLES if all(name in seed["rows"] for seed in seeds)]
    rows = {name: [seed["rows"][name] for seed in seeds] for name in names}
    numbers = ", ".join(str(seed["seed"]) for seed in seeds)
    print(f"Seeds {numbers}; accuracy in %, mean ± standard deviation.\n")
    print_probes(rows)
    print_differences(rows)
    print_few_labels(rows)
    print_iterations(rows)
    print_seconds(rows)


def print_probes(rows: dict[str, list[Result]]) -> None:
    """Linear probes and nearest neighbours, and what the clusters at the end agree with."""
    head = [f"{what} {way}" for what in MODALITIES.values() for way in CLASSIFIERS.values()]
    for modality, nuisance in NUISANCES.items():
        head += [f"{MODALITIES[modality]} NMI digit", f"{MODALITIES[modality]} NMI {nuisance}"]
    lines = {}
    for name, seeds in rows.items():
        cells = [
            cell([100 * seed["probe"][modality][way] for seed in seeds], 1)
            for modality in MODALITIES
            for way in CLASSIFIERS
        ]
        for modality, nuisance in NUISANCES.items():
            for column in ("digit", nuisance):
                cells.append(cell([seed["clusters"][modality][column] for seed in seeds], 3))
        lines[TITLES[name]] = cells
    print_table("row", head, lines)


def print_differences(rows: dict[str, list[Result]]) -> None:
    """The rows of CLAIMS, seed by seed: points of logistic probes."""
    lines = {}
    for name, other in CLAIMS:
        if name in rows and other in rows:
            pairs = list(zip(rows[name], rows[other], strict=True))
            lines[f"{name} − {other}"] = [
                cell([100 * (a["probe"][m]["logistic"] - b["probe"][m]["logistic"])
                      for a, b in pairs], 1)
                for m in MODALITIES
            ]  # fmt: skip
    print_table("difference, logistic", list(MODALITIES.values()), lines)


def print_few_labels(rows: dict[str, list[Result]]) -> None:
    """Logistic probes on few labelled videos; a seed's figure is the mean over its draws."""
    counts = list(next(iter(rows.values()))[0]["few_labels"]["video"])
    head = [f"{MODALITIES[m]}, {count} labels" for m in NUISANCES for count in counts]
    lines = {
        TITLES[name]: [
            cell([100 * statistics.mean(seed["few_labels"][m][count]) for seed in seeds], 1)
            for m in NUISANCES
            for count in counts
        ]
        for name, seeds in rows.items()
    }
    print_table("few labels", head, lines)


def print_iterations(rows: dict[str, list[Result]]) -> None:
    """NMI of the pseudo-labels with the digits at the start of each iteration."""
    lines = {}
    most = max(len(seed["iterations"]) for seeds in rows.values() for seed in seeds)
    for name, seeds in rows.items():
        for kind in ("video", "audio", "joint"):
            key = f"{kind}_nmi_label"
            found = [[row[key] for row in seed["iterations"] if key in row] for seed in seeds]
            if any(found):
                lines[f"{name} {kind}"] = [
                    cell([one[number] for one in found if number < len(one)], 3)
                    for number in range(most)
                ]
    print_table("NMI with the digit", [f"iteration {i}" for i in range(most)], lines)


def print_seconds(rows: dict[str, list[Result]]) -> None:
    """Wall-clock time of each row."""
    lines = {
        TITLES[name]: [cell([seed["seconds"][stage] for seed in seeds], 0) for stage in STAGES]
        + [cell([seed["steps"] for seed in seeds], 0)]
        for name, seeds in rows.items()
    }
    print_table("seconds", [*STAGES, "steps"], lines)


def print_table(title: str, head: Sequence[str], lines: dict[str, list[str]]) -> None:
    """As markdown."""
    print(f"| {title} | {' | '.join(head)} |\n| --- |{' --- |' * len(head)}")
    for name, cells in lines.items():
        print(f"| {name} | {' | '.join(cells)} |")
    print()


def cell(values: Sequence[float], digits: int) -> str:
    """Mean and spread; a dash where there is no figure."""
    if not values:
        return "–"
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
