"""Peak resident memory of a worker that extracts 10 minutes, and one that extracts 3 hours."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from extract_media import make_long_video
from measuring import Command, PeakMemory, Ratio, pinned

MINUTES = 10
# As many rows a second as the preset has, from an eighth of its frames: what a video holds on to
# is its rows, and three hours are over in minutes.
FEWER_FRAMES = ["extract.extractors.visual_3d.rate=1", "extract.extractors.visual_3d.window=2"]
LIMIT_MB = 2000


def measure_memory(
    folder: Path, hours: float, cores: set[int]
) -> tuple[dict[str, Any], list[Ratio]]:
    """MiB of the worker process, and of it with its ffmpeg child, for both lengths."""
    figures: dict[str, Any] = {}
    for name, seconds in (("short", MINUTES * 60), ("long", round(hours * 3600))):
        video = make_long_video(folder / f"{name}.mp4", seconds)
        peak = peak_memory(video, folder / f"{name}_dataset", cores)
        figures[name] = {
            "seconds_of_video": seconds,
            "worker_mb": round(peak.worker),
            "with_child_mb": round(peak.tree),
        }
    grown = figures["long"]["worker_mb"] / figures["short"]["worker_mb"]
    most = float(figures["long"]["with_child_mb"])
    long = f"{hours:g} h"
    return figures, [
        Ratio(f"memory: {long} / {MINUTES} min", round(grown, 4), (grown,), 1.15, at_least=False),
        Ratio(f"memory: MiB for {long}, with ffmpeg", most, (most,), LIMIT_MB, at_least=False),
    ]


def peak_memory(video: Path, dataset: Path, cores: set[int]) -> PeakMemory:
    """Of `pipeline run extract` of this one video, embedded preset, speech recognition included."""
    line = [sys.executable, "-m", "pipeline", "run", "extract", "--input", str(video), "--output",
            str(dataset), "--device", "cpu"]  # fmt: skip
    for setting in FEWER_FRAMES:
        line += ["--set", setting]
    with (
        subprocess.Popen(pinned(Command(line, cores)), stdout=subprocess.DEVNULL) as process,
        PeakMemory(process.pid) as peak,
    ):
        code = process.wait()
    if code != 0:
        raise SystemExit(f"exit code {code}: {' '.join(line)}")
    return peak
