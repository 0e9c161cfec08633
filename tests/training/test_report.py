import json
import math
from pathlib import Path

import pytest

from extractors.errors import AbortError
from pipeline import storage
from pipeline.report_page import Section
from training.config import TrainConfig
from training.metrics_log import MetricsLog
from training.report import _points as thinned
from training.report import report_run

STATISTICS = {"clusters_used": 4.0, "largest_cluster": 0.5}


def write_run(run: Path, steps: int = 20, **card: object) -> None:
    """As the loop leaves it."""
    log = MetricsLog(str(run), first_step=1, config=TrainConfig())
    for step in range(1, steps + 1):
        losses = {"loss": 3 / step, "mms_text_video": 2 / step, "clustering": 1 / step}
        log.write(step, 0, losses | STATISTICS | {"lr": 1e-3, "clips_per_second": 10.0})
    log.publish()
    log.close()
    content = {
        "kind": "mcn",
        "step": steps,
        "total_steps": 40,
        "finished": False,
        "parameters": 12345,
        "metrics": {"loss": 0.5, "mms_text_video": 0.3, "clustering": 0.2},
        "best": None,
        "config": TrainConfig().model_dump(mode="json"),
    }
    storage.publish_json(str(run / "card.json"), content | card)


def sections(run: Path) -> dict[str, Section]:
    return {section.title: section for section in report_run(str(run))}


def test_every_term_has_a_curve_beside_clusters_and_pace(tmp_path: Path) -> None:
    write_run(tmp_path)
    found = sections(tmp_path)
    curves = {chart.title: chart for chart in found["Learning curves"].charts}
    assert list(curves) == ["All loss terms", "loss, all terms", "mms text video", "clustering"]
    assert curves["clustering"].rows == (("clustering", "1", "0.05"),)
    assert [row[0] for row in curves["All loss terms"].rows] == [
        "loss", "mms_text_video", "clustering"
    ]  # fmt: skip
    statistics = found["Clusters and other statistics"].charts
    assert [chart.title for chart in statistics] == ["clusters used", "largest cluster"]
    pace = [chart.title for chart in found["Pace"].charts]
    assert pace == ["learning rate", "clips per second"]
    facts = dict(found["Run"].facts)
    assert facts["steps"] == "20 of 40, not finished"
    assert facts["parameters"] == "12,345"
    assert "best checkpoint" not in facts
    (settings,) = found["Configuration"].tables
    assert ("optimiser.lr", str(TrainConfig().optimiser.lr)) in settings.rows
    assert found["Run"].tables[0].rows[1] == ("mms_text_video", "0.3")


def test_long_curves_are_thinned_but_keep_their_ends(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("training.report.POINTS", 10)
    write_run(tmp_path, steps=103)
    (chart,) = (
        c for c in sections(tmp_path)["Learning curves"].charts if c.title == "loss, all terms"
    )
    assert chart.rows[0][1:] == ("3", f"{3 / 103:.3g}")
    steps, _ = thinned([{"step": float(step), "loss": 1.0} for step in range(1, 104)], "loss")
    assert steps == [1, 12, 23, 34, 45, 56, 67, 78, 89, 100, 103]


def test_evaluations_in_the_folder_are_shown(tmp_path: Path) -> None:
    write_run(tmp_path)
    rows = [{"query": "text", "R@1": 0.12345, "chance": {"R@1": 0.001}}, {"query": "audio"}]
    retrieval = {"evaluation": "retrieval", "model": "m", "split": "test", "rows": rows}
    storage.publish_json(str(tmp_path / "retrieval.json"), retrieval)
    probe = {"evaluation": "probe", "model": "m", "accuracy": {"top1": 0.5}}
    storage.publish_json(str(tmp_path / "probe.json"), probe)
    storage.publish_json(str(tmp_path / "notes.json"), {"mine": 1})
    storage.publish_json(str(tmp_path / "list.json"), [1])
    first, second = sections(tmp_path)["Evaluations"].tables
    assert ("accuracy.top1", "0.5") in first.rows
    assert second.title == "retrieval (retrieval.json): split test"
    assert second.columns == ("query", "R@1", "chance.R@1")
    assert second.rows == (("text", "0.123", "0.001"), ("audio", "–", "–"))
    assert second.numeric == frozenset({1, 2})


def test_a_run_that_has_logged_nothing_yet(tmp_path: Path) -> None:
    write_run(tmp_path, steps=1)
    (tmp_path / "metrics.jsonl").unlink()
    assert list(sections(tmp_path)) == ["Run", "Configuration"]


def test_values_that_are_not_finite_leave_a_gap(tmp_path: Path) -> None:
    write_run(tmp_path, steps=2)
    row = json.dumps({"step": 3, "epoch": 0, "loss": math.nan, "clustering": 1.0})
    log = tmp_path / "metrics.jsonl"
    log.write_text(log.read_text() + row + "\n")
    (chart,) = (
        c for c in sections(tmp_path)["Learning curves"].charts if c.title == "loss, all terms"
    )
    assert chart.rows == (("loss", "3", "–"),)


@pytest.mark.parametrize("name", ["card.json", "metrics.jsonl", "broken.json"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    write_run(tmp_path)
    (tmp_path / name).write_text("{")
    with pytest.raises(AbortError, match=f"{name}: not"):
        report_run(str(tmp_path))
