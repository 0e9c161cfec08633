"""Figures and their limits, as a table and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from measuring import Ratio
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
