"""training.metrics_log: metrics.jsonl of a run that stops and goes on."""

import json
from pathlib import Path

from training.metrics_log import MetricsLog


def steps(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_rows_after_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    log = MetricsLog(str(tmp_path), first_step=1)
    for step in (1, 2, 3):
        log.write(step, 0, {"loss": step / 2})
    log.publish()
    log.write(4, 0, {"loss": 2.0})  # never published: the process is killed here
    log.close()
    assert steps(tmp_path) == [1, 2, 3]
    resumed = MetricsLog(str(tmp_path), first_step=3)  # the checkpoint was at step 2
    resumed.write(3, 0, {"loss": 9.0})
    resumed.publish()
    resumed.close()
    assert steps(tmp_path) == [1, 2, 3]
    last = (tmp_path / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last) == {"step": 3, "epoch": 0, "loss": 9.0}


def test_a_remote_run_has_no_tensorboard(tmp_path: Path) -> None:
    log = MetricsLog("memory://metrics_log_test/run", first_step=1)
    log.write(1, 0, {"loss": 1.0})
    log.publish()
    log.close()
    again = MetricsLog("memory://metrics_log_test/run", first_step=2)
    again.write(2, 0, {"loss": 1.0})
    again.close()
    assert len(again._lines) == 2
