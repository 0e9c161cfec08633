"""Figures and their limits, as a table and as JSON that grows."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from measuring import Cost, Ratio, medians
from rich.console import Console
from rich.table import Table


def figure(what: str, value: float, limit: float | None, *, at_least: bool) -> Ratio:
    """One that was measured once."""
    value = round(value, 4)
    return Ratio(what, value, (value,), limit, at_least)


def described(ratios: Sequence[Ratio]) -> list[dict[str, Any]]:
    """For the JSON."""
    return [asdict(ratio) | {"holds": ratio.holds} for ratio in ratios]


def show(ratios: Sequence[Ratio], title: str) -> None:
    """The table."""
    table = Table("figure", "value", "limit", "", title=title)
    for ratio in ratios:
        sign = "≥" if ratio.at_least else "≤"
        limit = "" if ratio.limit is None else f"{sign} {ratio.limit:.4g}"
        verdict = {None: "", True: "holds", False: "MISSED"}[ratio.holds]
        table.add_row(ratio.what, f"{ratio.value:.4g}", limit, verdict)
    Console().print(table)


@dataclass
class Findings:
    """What a benchmark has found so far; written after each part, so that a run that is stopped
    keeps what it has."""

    path: Path
    facts: dict[str, Any]
    ratios: list[Ratio] = field(default_factory=list)
    costs: dict[str, list[Cost]] = field(default_factory=dict)

    def keep(self, costs: Mapping[str, list[Cost]], ratios: Sequence[Ratio]) -> None:
        """Adds a part and writes."""
        self.costs |= costs
        self.ratios += ratios
        self.write()

    def write(self) -> None:
        """The JSON of what there is."""
        found = {
            "ratios": described(self.ratios),
            "medians": medians(self.costs),
            "runs": {name: [asdict(cost) for cost in runs] for name, runs in self.costs.items()},
        }
        self.path.write_text(json.dumps(self.facts | found, indent=2) + "\n")


def conclude(findings: Findings, title: str) -> NoReturn:
    """The last JSON and the table; exit code 1 where a figure is missed."""
    findings.write()
    show(findings.ratios, title)
    sys.exit(1 if any(ratio.holds is False for ratio in findings.ratios) else 0)


def check_known(
    parser: argparse.ArgumentParser, option: str, given: Sequence[str], known: Sequence[str]
) -> None:
    """Stops where an option names what is not known."""
    if unknown := set(given) - set(known):
        parser.error(f"{option} {','.join(unknown)}: known are {','.join(known)}")


def say(line: str) -> None:
    """Progress, on standard error."""
    print(line, file=sys.stderr, flush=True)
