"""A run's part of `pipeline report`: what it is, how it learnt, how its clusters fared."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from extractors.errors import AbortError
from pipeline import storage
from pipeline.charts import Chart, lines, number_text
from pipeline.report_page import Section, Table
from training.checkpoints import flatten
from training.validation import VALIDATION_RECALL

POINTS = 400
"""Of a curve; longer ones are thinned."""
PROGRESS = ("lr", "gradient_norm", "clips", "clips_per_second")
WORDS = {"lr": "learning rate", "gradient_norm": "norm of the gradient", "loss": "loss, all terms"}
STEP_KEYS = ("step", "epoch")


def report_run(run: str) -> list[Section]:
    """Sections of a run, whether it has finished or not.

    Raises AbortError where card.json or metrics.jsonl is damaged.
    """
    card = _read_json(storage.join(run, "card.json"))
    rows = _metrics(storage.join(run, "metrics.jsonl"))
    sections = [_overview(card)]
    if rows:
        sections += _curves(rows, set(card.get("metrics", {})))
    evaluations = list(_evaluations(run))
    if evaluations:
        sections.append(Section("Evaluations", tables=tuple(evaluations)))
    return [*sections, _configuration(card)]


def _overview(card: Mapping[str, Any]) -> Section:
    step, total = card.get("step", 0), card.get("total_steps", 0)
    best = card.get("best") or {}
    facts = [
        ("kind", card.get("kind")),
        ("steps", f"{step:,} of {total:,}" + ("" if card.get("finished") else ", not finished")),
        ("epochs", card.get("epoch")),
        ("parameters", f"{card.get('parameters', 0):,}"),
        ("dimension", card.get("embedding_dim")),
        ("videos", card.get("videos")),
        ("processes", card.get("world_size")),
        ("best checkpoint", best.get("checkpoint")),
        ("trained on", card.get("dataset")),
        ("dataset digest", str(card.get("dataset_digest", ""))[:12]),
        ("program, torch", f"{card.get('code_version')}, {card.get('torch_version')}"),
    ]
    known = tuple((name, str(value)) for name, value in facts if value not in (None, ""))
    means = tuple(
        (name, number_text(float(value))) for name, value in card.get("metrics", {}).items()
    )
    table = Table("Metrics of the last epoch", ("metric", "value"), means, frozenset({1}))
    return Section("Run", facts=known, tables=(table,) if means else ())


def _curves(rows: Sequence[Mapping[str, float]], losses: set[str]) -> Iterator[Section]:
    """Loss terms, then what the clusters are like, then the pace."""
    names = [
        name for name in dict.fromkeys(n for row in rows for n in row) if name not in STEP_KEYS
    ]
    validation = [name for name in names if name.startswith(VALIDATION_RECALL)]
    terms = [n for n in names if (n in losses or n.startswith("loss")) and n not in validation]
    pace = [name for name in names if name in PROGRESS]
    others = [name for name in names if name not in {*terms, *pace, *validation}]
    charts = [_curve(rows, name) for name in terms]
    if len(terms) > 2:
        every = {name: _points(rows, name) for name in terms}
        charts.insert(0, lines("All loss terms", every, "step"))
    yield Section("Learning curves", charts=tuple(charts))
    if validation:
        charts = [_curve(rows, name) for name in validation]
        yield Section("Validation: mean of R@1, R@5 and R@10", charts=tuple(charts))
    if others:
        charts = [_curve(rows, name) for name in others]
        yield Section("Clusters and other statistics", charts=tuple(charts))
    if pace:
        yield Section("Pace", charts=tuple(_curve(rows, name) for name in pace))


def _curve(rows: Sequence[Mapping[str, float]], name: str) -> Chart:
    return lines(WORDS.get(name, name.replace("_", " ")), {name: _points(rows, name)}, "step")


def _points(rows: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Steps and values, POINTS at most, the last one always."""
    found = [(row["step"], row[name]) for row in rows if name in row]
    every = max(1, -(-len(found) // POINTS))
    kept = found[::every] + ([found[-1]] if (len(found) - 1) % every else [])
    return [step for step, _ in kept], [value for _, value in kept]


def _evaluations(run: str) -> Iterator[Table]:
    """Reports that `pipeline evaluate --output` wrote into the run's folder."""
    for name in storage.names(run):
        if not name.endswith(".json") or name == "card.json":
            continue
        content = _read_json(storage.join(run, name))
        if "evaluation" in content:
            yield _evaluation(name, content)


def _evaluation(name: str, content: Mapping[str, Any]) -> Table:
    """A row a measured thing where it lists them, else a row a number."""
    facts = {key: value for key, value in content.items() if not isinstance(value, list | dict)}
    said = ", ".join(f"{k} {v}" for k, v in facts.items() if k not in ("evaluation", "model"))
    title = f"{content['evaluation']} ({name}): {said}"
    listed = content.get("rows")
    if isinstance(listed, list) and all(isinstance(row, dict) for row in listed):
        flat = [flatten(row) for row in listed]
        columns = tuple(dict.fromkeys(key for row in flat for key in row))
        rows = tuple(tuple(_cell(row.get(column)) for column in columns) for row in flat)
        return Table(title, columns, rows, _numeric(flat, columns))
    rows = tuple((key, _cell(value)) for key, value in flatten(content).items())
    return Table(title, ("what", "value"), rows)


def _numeric(flat: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> frozenset[int]:
    return frozenset(
        place
        for place, column in enumerate(columns)
        if all(isinstance(row.get(column), int | float | None) for row in flat)
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return number_text(round(value, 4))
    return "–" if value is None else str(value)


def _configuration(card: Mapping[str, Any]) -> Section:
    flat = flatten(card.get("config", {}))
    rows = tuple((name, str(value)) for name, value in flat.items())
    table = Table("All settings", ("setting", "value"), rows, folded=True)
    return Section("Configuration", tables=(table,))


def _metrics(url: str) -> list[dict[str, float]]:
    """The rows of metrics.jsonl; none where nothing was published yet."""
    try:
        lines_read = storage.read_bytes(url).splitlines()
    except FileNotFoundError:
        return []
    try:
        return [json.loads(line) for line in lines_read]
    except ValueError as err:
        raise AbortError(f"{url}: not lines of JSON: {err}") from err


def _read_json(url: str) -> dict[str, Any]:
    try:
        content = storage.read_json(url)
    except ValueError as err:
        raise AbortError(f"{url}: not JSON: {err}") from err
    return content if isinstance(content, dict) else {}
