"""Reasons, metrics and messages that the pages explain are those of the code, all of them."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from extractors.errors import Reason
from index.serving.guard import Metrics
from pipeline.metrics import MEMORY, WAITING, WORKER_METRICS, Metric
from tests.docs import pages
from tests.index.real_corpus import RealCorpus

PACKAGES = ("extractors", "pipeline", "training", "index")
EXPRESSION = "\0"
LEAST_LITERAL = 12
"""Letters that a message in the code must have of its own, lest `{a}: {b}` fit everything."""


def test_every_reason_is_explained() -> None:
    ((_, rows),) = pages.tables("reasons.md")
    assert [pages.code(row["reason"]) for row in rows] == [str(reason) for reason in Reason]
    assert all(row["what happened"] and row["what to do"] for row in rows)


def test_commands_for_programs() -> None:
    """Those that the page names have `--json`."""
    text = (pages.DOCS / "howto" / "reports.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)`", text.partition("## For programs")[2].partition("`--json`")[0])
    reference = (pages.DOCS / "reference.md").read_text(encoding="utf-8").split("\n### ")
    commands = {block.partition("`\n")[0].removeprefix("`pipeline "): block for block in reference}
    for name in named:
        asked = [block for command, block in commands.items() if command.split()[:1] == [name]]
        asked = [block for block in asked if "`pipeline evaluate list`" not in block]
        assert asked, name
        assert all("- `--json`" in block for block in asked), name


def exported(metric: Metric) -> tuple[str, str, set[str]]:
    """As Prometheus sees it: counters end in `_total`."""
    ending = "_total" if metric.kind == "counter" else ""
    return metric.name + ending, metric.kind, set(metric.labels)


def documented(heading: str) -> list[tuple[str, str, set[str]]]:
    rows = dict(pages.tables("metrics.md"))[heading]
    return [
        (pages.code(row["name"]), row["type"], set(re.findall(r"`(\w+)`", row["labels"])))
        for row in rows
    ]


def test_metrics_of_extraction() -> None:
    wanted = [exported(metric) for metric in (*WORKER_METRICS, MEMORY, WAITING)]
    assert documented("Extraction, for Prometheus") == wanted


def test_metrics_of_the_server() -> None:
    made = Metrics()
    collectors = (made.requests, made.seconds, made.batch, made.waiting)
    wanted = []
    for collector in collectors:
        (family,) = collector.describe()
        ending = "_total" if family.type == "counter" else ""
        labels = set(collector._labelnames)
        wanted.append((family.name + ending, family.type, labels))
    assert documented("Search server") == wanted


def test_metrics_of_training(real: RealCorpus) -> None:
    """Each name is in the log of a run, or is one that the code writes later in a run."""
    rows = (Path(real.index).parent / "run" / "metrics.jsonl").read_text().splitlines()
    logged = {name for row in rows for name in json.loads(row)}
    later = {one for path in (pages.ROOT / "training").glob("*.py") for one in strings(path, 1)}
    explained = dict(pages.tables("howto/train_mcn.md"))["What to watch"]
    names = {name for row in explained for name in re.findall(r"`(\w+)`", row["name"])}
    assert {"loss", "mms_text_video", "clusters_used"} <= names & logged
    assert names - logged <= later


def text_of(node: ast.expr) -> str | None:
    """A string as the code writes it, expressions as EXPRESSION; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [
            str(part.value) if isinstance(part, ast.Constant) else EXPRESSION
            for part in node.values
        ]
        return "".join(parts)
    return None


def strings(path: Path, least: int = LEAST_LITERAL) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        found = text_of(node) if isinstance(node, ast.expr) else None
        if found and len(found.replace(EXPRESSION, "")) >= least:
            yield found


def patterns() -> list[re.Pattern[str]]:
    """Of every message that the code could print: an expression may be any words."""
    files = [path for package in PACKAGES for path in (pages.ROOT / package).rglob("*.py")]
    found = {string for path in files for string in strings(path)}
    return [
        re.compile(".+?".join(map(re.escape, string.split(EXPRESSION))), re.S) for string in found
    ]


MESSAGES = [
    row["message"]
    for _, rows in pages.tables("troubleshooting.md")
    for row in rows
    if "message" in row
]


@pytest.fixture(scope="module")
def of_the_code() -> list[re.Pattern[str]]:
    return patterns()


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_are_in_the_code(message: str, of_the_code: list[re.Pattern[str]]) -> None:
    words = pages.code(message)
    asked = {words, words.replace("'", "`")}  # no backticks within backticks
    asked |= {re.sub(r"'(pipeline [^']+|video)'", r"`\1`", words)}
    assert any(one.fullmatch(each) for one in of_the_code for each in asked), words


def test_messages_are_explained() -> None:
    assert len(MESSAGES) > 30
    for _, rows in pages.tables("troubleshooting.md"):
        assert all(row["what to do"] or row["cause"] for row in rows)
