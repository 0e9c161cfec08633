"""What extraction costs, as ratios to its floors, measured in one run.

    python benchmarks/extract.py [--seconds 60] [--repeats 3] [--output bench_extract.json]

The floors: decoding the same file with `ffmpeg -i FILE -f null -`, and each network's forward pass
on ready windows. CPU seconds (children included) decide, wall seconds stand beside them; each
figure is the median of runs that alternate with those it is compared with.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from extractors.build import build_extractor
from extractors.config import DecodeConfig
from extractors.decode import Chunk, decode
from extractors.extractor import Extractor
from extractors.ffmpeg import ffmpeg_binary, ffmpeg_version
from extractors.probe import probe
from extractors.windows import Window, WindowCutter
from pipeline.cli.options import load_config
from pipeline.config import ExtractConfig
from pipeline.sources import SourceVideo
from pipeline.worker import Worker


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("bench_extract.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        video = make_video(Path(folder) / "bench.mp4", arguments.seconds)
        figures = measure(video, arguments.repeats)
    figures |= {"seconds_of_video": arguments.seconds, "ffmpeg": ffmpeg_version()}
    arguments.output.write_text(json.dumps(figures, indent=2) + "\n")
    show(figures)


def make_video(path: Path, seconds: int) -> Path:
    """720p H.264 at 30 frames/s with sound: noise over a test picture, so that decoding is work."""
    picture = f"testsrc2=s=1280x720:r=30:d={seconds},noise=alls=12:allf=t"
    subprocess.run(
        [ffmpeg_binary(), "-v", "error", "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i",
         f"sine=frequency=440:sample_rate=44100:duration={seconds}", "-c:v", "libx264", "-preset",
         "veryfast", "-crf", "28", "-g", "250", "-c:a", "aac", str(path)],
        check=True,
    )  # fmt: skip
    return path


def measure(video: Path, repeats: int) -> dict[str, Any]:
    """Medians of CPU and wall seconds of the floors and of what we do."""
    config = load_config("embedded", None, ["extract.speech=null", "extract.text=null"]).extract
    ready = make_ready(video, config)
    source = SourceVideo(key="bench", uri=str(video), path=video.name)
    worker = Worker(config, torch.device("cpu")).__enter__()
    parts: dict[str, Callable[[], object]] = {
        "floor: ffmpeg -f null": lambda: null_decode(video),
        "decode, all views": lambda: all_chunks(video, config),
        "floor: networks on ready windows": lambda: forward_all(ready),
        "whole extraction": lambda: list(worker.extract([source])),
    }
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in parts}
    forward_all(ready)  # warm-up: allocator, kernels
    for _ in range(repeats):
        for name, run in parts.items():
            runs[name].append(timed(run))
    cpu = {name: statistics.median(c for c, _ in values) for name, values in runs.items()}
    wall = {name: statistics.median(w for _, w in values) for name, values in runs.items()}
    floors = cpu["decode, all views"] + cpu["floor: networks on ready windows"]
    return {
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "decode_over_floor": cpu["decode, all views"] / cpu["floor: ffmpeg -f null"],
        "extraction_over_floors": cpu["whole extraction"] / floors,
    }


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """(CPU, wall) seconds of a call, its children's CPU included."""
    before, started = os.times(), time.perf_counter()
    run()
    after = os.times()
    cpu = sum(after[:4]) - sum(before[:4])
    return cpu, time.perf_counter() - started


def null_decode(video: Path) -> None:
    """The floor of decoding: everything decoded, nothing kept."""
    command = [ffmpeg_binary(), "-v", "error", "-threads", "1", "-i", str(video), "-f", "null", "-"]
    subprocess.run(command, check=True)


def all_chunks(video: Path, config: ExtractConfig) -> list[Chunk]:
    """Every chunk of every view of the preset."""
    views = [build_extractor(settings).view for settings in config.wanted.values()]
    decoding = DecodeConfig()
    found = decode(str(video), probe(str(video), decoding), views, decoding)
    return [chunk for chunk in found if isinstance(chunk, Chunk)]


@dataclass(frozen=True)
class Ready:
    """A loaded extractor and all its windows of the video."""

    extractor: Extractor
    windows: list[Window]


def make_ready(video: Path, config: ExtractConfig) -> list[Ready]:
    """Cuts every extractor's windows beforehand and loads its model."""
    chunks = all_chunks(video, config)
    ready = []
    for settings in config.wanted.values():
        extractor = build_extractor(settings)
        extractor.setup(torch.device("cpu"))
        cutter = WindowCutter(extractor.windowing)
        own = [chunk for chunk in chunks if chunk.view == extractor.view]
        windows = [window for chunk in own for window in cutter.push(chunk.data)]
        ready.append(Ready(extractor, windows + list(cutter.finish())))
    return ready


def forward_all(ready: list[Ready]) -> None:
    """Every extractor over its windows in its own batches."""
    for one in ready:
        size = one.extractor.batch_size
        for first in range(0, len(one.windows), size):
            one.extractor.extract(one.windows[first : first + size])


def show(figures: dict[str, Any]) -> None:
    """The table."""
    table = Table("part", "CPU s", "wall s", title="Extraction of one 720p video, embedded preset")
    for name, cpu in figures["cpu_seconds"].items():
        table.add_row(name, f"{cpu:.2f}", f"{figures['wall_seconds'][name]:.2f}")
    console = Console()
    console.print(table)
    console.print(f"decode / floor: {figures['decode_over_floor']:.2f}")
    console.print(f"extraction / (decode + networks): {figures['extraction_over_floors']:.2f}")


if __name__ == "__main__":
    main()
