"""What `pipeline evaluate` shows of its measurements: tables in per cent, and the same as JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.cli import show

if TYPE_CHECKING:
    from training.classification import NeighbourRow, ProbeRow
    from training.evaluation import ClusterRow
    from training.protocols.caption_retrieval import CaptionRetrieval
    from training.protocols.step_scores import Localisation
    from training.retrieval import RetrievalRow
    from training.retrieval_metrics import Recall

Columns = tuple[str, ...]
Rows = list[tuple[Any, ...]]
Facts = dict[str, Any]
"""Settings and results of an evaluation, as JSON has them."""


def show_report(
    evaluation: str,
    model: str,
    facts: Mapping[str, Any],
    tables: Sequence[tuple[str, Columns, Rows]],
    as_json: bool,
    output: str | None,
) -> None:
    """Tables (title, columns, rows) or JSON on standard output; the JSON in a file too where one
    is named. It begins with what was measured, and of which checkpoint."""
    from training.checkpoints import code_version, read_card

    checkpoint = (read_card(model) or {}).get("checkpoint")
    report = {"evaluation": evaluation, "model": model, "checkpoint": checkpoint}
    report |= {"code_version": code_version(), **facts}
    give_report(report, tables, as_json, output)


def give_report(
    report: Facts,
    tables: Iterable[tuple[str, Sequence[str], Iterable[Sequence[Any]]]],
    as_json: bool,
    output: str | None,
) -> None:
    """Tables (title, columns, rows) or the report as JSON on standard output; the JSON in a file
    too where one is named."""
    from pipeline import storage

    if output is not None:
        storage.publish_json(output, report)
    if as_json:
        show.out.print_json(json.dumps(report))
        return
    for title, columns, rows in tables:
        show.table(title, columns, rows)


def retrieval_dict(row: "RetrievalRow") -> dict[str, Any]:
    """One row as JSON has it, chance included."""
    return asdict(row) | {
        "chance_recall": row.metrics.chance_recall,
        "chance_median_rank": row.metrics.chance_median_rank,
    }


def retrieval_table(rows: "Sequence[RetrievalRow]") -> tuple[Columns, Rows]:
    """Columns and rows, in per cent with the chance level in brackets; queries of candidates."""
    columns = ("query→target", "R@1 %", "R@5 %", "R@10 %", "MedR", "queries")
    return columns, [
        (
            f"{row.query}→{row.target}",
            *_per_cent(row.metrics.recall, row.metrics.chance_recall),
            f"{row.metrics.median_rank:.1f}",
            f"{row.metrics.queries} of {row.metrics.candidates}"
            + (f", {row.metrics.missing} missing" if row.metrics.missing else ""),
        )
        for row in rows
    ]


def caption_dict(found: "CaptionRetrieval") -> dict[str, Any]:
    """As JSON has it, chance included."""
    return asdict(found) | {"rows": [retrieval_dict(row) for row in found.rows]}


def cluster_table(rows: "Sequence[ClusterRow]") -> tuple[Columns, Rows]:
    """Columns and rows."""
    measures = ("nmi", "ami", "ari", "accuracy", "purity", "entropy")
    columns = ("features", "NMI", "AMI", "ARI", *measures[3:], "clusters", "labels", "clips")
    return columns, [
        (
            row.features,
            *(getattr(row.agreement, name) for name in measures),
            row.clusters,
            row.labels,
            row.items,
        )
        for row in rows
    ]


def recall_table(
    rows: "dict[str, Recall]", place: str = "R@", candidates: str = "candidates"
) -> tuple[Columns, Rows]:
    """Columns and rows of named measurements that share their k."""
    first = next(iter(rows.values()))
    columns = ("", *(f"{place}{k} %" for k in first.recall), "queries", candidates)
    return columns, [
        (name, *_per_cent(row.recall, row.chance), row.queries, row.candidates)
        for name, row in rows.items()
    ]


def neighbour_table(rows: "Sequence[NeighbourRow]") -> tuple[Columns, Rows]:
    """Columns and rows."""
    return recall_table({row.features: row.recall for row in rows}, "label in nearest ")


def probe_table(rows: "Sequence[ProbeRow]") -> tuple[Columns, Rows]:
    """Columns and rows, in per cent, chance and majority beside them."""
    columns = ("features", "classifier", "videos %", "clips %", "chance %", "majority %")
    return (*columns, "classes", "test videos", "training clips"), [
        (
            row.features,
            row.classifier,
            *(
                f"{100 * share:.1f}"
                for share in (row.accuracy, row.clip_accuracy, row.chance, row.majority)
            ),
            row.classes,
            row.test_videos,
            row.train_clips,
        )
        for row in rows
    ]


def caption_tables(name: str, found: "CaptionRetrieval") -> list[tuple[str, Columns, Rows]]:
    """One table of clips and, where there are full videos, one of them."""
    from training.retrieval_metrics import FORMS

    title = f"{name}: {found.clips} clips, {found.with_audio} with sound (chance in brackets)"
    tables = [(title, *retrieval_table(found.rows))]
    if found.videos:
        named = {FORMS[form]: recall for form, recall in found.videos.items()}
        tables.append((f"{name}: full videos", *recall_table(named)))
    return tables


def localisation_table(found: "Localisation") -> tuple[Columns, Rows]:
    """Columns and rows, in per cent."""
    columns = ("measure", "%", "chance %")
    return columns, [
        (name, f"{100 * value:.1f}", "" if chance is None else f"{100 * chance:.1f}")
        for name, value, chance in (
            (
                "recall, mean over videos, then tasks",
                found.recall_per_video,
                found.chance_per_video,
            ),
            ("recall, sum over a task, then tasks", found.recall_per_task, found.chance_per_task),
            ("IoU, one second a step", found.one_second.iou, None),
            ("IoD, one second a step", found.one_second.iod, None),
            ("IoU, every second a step", found.covering.iou, None),
            ("IoD, every second a step", found.covering.iod, None),
        )
    ]


def _per_cent(shares: dict[int, float], chances: dict[int, float]) -> list[str]:
    return [f"{100 * share:.1f} ({100 * chances[k]:.1f})" for k, share in shares.items()]
