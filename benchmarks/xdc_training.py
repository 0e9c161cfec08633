"""How much of an iteration of `run train --method xdc` embedding and k-means take."""

import json
import sys
from pathlib import Path
from typing import Any

from figures import figure, say
from measuring import Command, Ratio, median, run
from xdc_sets import BenchSet

ITERATIONS = 2
LIMIT = 0.15


def measure_share(
    made: BenchSet, folder: Path, core: int, overrides: tuple[str, ...] = ()
) -> tuple[dict[str, Any], list[Ratio]]:
    """From metrics.jsonl of a real run on one core, with the setting's own epochs, which end early
    where the held-out loss saturates, as they do in any run.

    The share is clustering_seconds / (clustering_seconds + seconds of all steps). The former hold
    the embedding of all videos, k-means of both modalities, and the statistics; the held-out loss
    after each epoch is left out, which makes the share larger than it is.
    The first iteration, in which the reading process is started, stands beside, without limit.
    """
    output = folder / f"{made.name}_run"
    sets = (f"xdc.iterations={ITERATIONS}", "xdc.log_steps=1", *overrides)
    line = [sys.executable, "-m", "pipeline", "run", "train", "--method", "xdc", "--dataset",
            str(made.dataset), "--output", str(output), "--device", "cpu", *made.setting.train,
            *(part for value in sets for part in ("--set", value))]  # fmt: skip
    run(Command(line, {core}), folder / f"{made.name}_run.log")
    found = iterations((output / "metrics.jsonl").read_text(), batch_clips(made))
    say(f"{made.name}: {found}")
    each = [row["share"] for row in found]
    what = f"embedding and k-means / iteration, {made.name}"
    later = tuple(each[1:]) or tuple(each)
    return {"iterations": found}, [
        Ratio(what, median(later), later, LIMIT, at_least=False),
        figure(f"{what}, the first", each[0], None, at_least=False),
    ]


def batch_clips(made: BenchSet) -> int:
    """Clips of a batch: an epoch has full batches only, smaller ones where it has fewer clips."""
    sampling = made.setting.config.sampling
    clips = int((~made.videos.held_out_N).sum()) * sampling.clips_per_video
    return min(sampling.batch_clips, clips)


def iterations(metrics: str, clips: int) -> list[dict[str, Any]]:
    """Seconds of each iteration, whose batches have so many clips."""
    found: list[dict[str, Any]] = []
    for row in map(json.loads, metrics.splitlines()):
        if "clustering_seconds" in row:
            found.append({"clustering": row["clustering_seconds"], "steps": 0.0, "epochs": 0})
        elif "clips_per_second" in row:
            found[-1]["steps"] += clips / row["clips_per_second"]
            found[-1]["epochs"] = row["epoch"] + 1
    for row in found:
        row["share"] = round(row["clustering"] / (row["clustering"] + row["steps"]), 4)
    return found
