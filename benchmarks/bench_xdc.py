"""What XDC's reading, clustering and memory cost, as figures with limits, measured in one run.

    python benchmarks/bench_xdc.py [--parts step,pass,peers,share,kmeans] [--repeats 5]
        [--sets digits,laptop,paper] [--videos 200] [--long-videos 12] [--clips 400]
        [--kmeans-rows 1000000] [--peer-python PYTHON] [--set xdc.KEY=VALUE …]
        [--output bench_xdc.json]

    step     clips per CPU second, loader / step on ready batches    at least 1     xdc_reading.py
    pass     CPU a clip, loader / one sequential ffmpeg pass         at most 1.5
    peers    clips per CPU second, ours / PyAV, / torchvision        at least 2     xdc_peers.py
    share    embedding and k-means / an iteration's time             at most 0.15   xdc_training.py
    kmeans   peak MiB, 1 million x 512                               at most 4096   xdc_kmeans.py

Three sets: digits is benchmarks/av_digits (2.4 s, proxies of 36 pixels, small nets), laptop the
preset `xdc` on videos of 10 s, paper the defaults (proxies of 128 pixels, R(2+1)D-18 and
ResNet-18) on the same videos. step leaves paper out, whose step takes seconds; share leaves laptop
out. Everything runs on one core, the last; CPU seconds decide, but for `share`, which is the run's
own clock. Each figure is the median of the ratios of --repeats runs that alternate. torchvision
needs a Python of its own (xdc_peers.py). `--videos 12 --long-videos 6 --clips 8 --repeats 1
--kmeans-rows 2000` is a run of two minutes whose figures say nothing. Exit code 1 where a figure is
missed.
"""

import argparse
import os
import platform
import tempfile
from pathlib import Path

import torch
from extract import processor
from figures import Findings, check_known, conclude, say
from measuring import ONE_THREAD
from xdc_kmeans import measure_kmeans
from xdc_peers import measure_peers
from xdc_reading import measure_pass, measure_step
from xdc_sets import SHORT, BenchSet, make_set, settings
from xdc_training import measure_share

from extractors.ffmpeg import ffmpeg_version

PARTS = ("step", "pass", "peers", "share", "kmeans")
SETS = ("digits", "laptop", "paper")
WITHOUT_STEP, WITHOUT_SHARE = "paper", "laptop"


def main() -> None:
    """Measures, writes the JSON as it grows, prints the table."""
    arguments = parse()
    os.environ |= ONE_THREAD
    torch.set_num_threads(1)
    bench = Bench(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench.measure(Path(folder))
    conclude(bench.findings, "XDC")


def parse() -> argparse.Namespace:
    """The arguments; stops where they do not fit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--sets", type=lambda text: text.split(","), default=list(SETS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--videos", type=int, default=200, help="of digits")
    parser.add_argument("--long-videos", type=int, default=12, help="of laptop and paper")
    parser.add_argument("--clips", type=int, default=400, help="that are read in a repeat")
    parser.add_argument("--kmeans-rows", type=int, default=1_000_000)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--set", action="append", default=[], help="of the runs of `share`")
    parser.add_argument("--output", type=Path, default=Path("bench_xdc.json"))
    arguments = parser.parse_args()
    check_known(parser, "--parts", arguments.parts, PARTS)
    check_known(parser, "--sets", arguments.sets, SETS)
    if not Path("/proc").exists():
        parser.error("processes are pinned to a core, which only Linux does")
    return arguments


class Bench:
    """The parts that were asked for, and what they found so far."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._core = max(os.sched_getaffinity(0))
        facts = {
            "ffmpeg": ffmpeg_version(), "torch": torch.__version__,
            "python": platform.python_version(), "processor": processor(),
            "load_at_start": os.getloadavg()[0],
            "arguments": {name: str(value) for name, value in vars(arguments).items()},
        }  # fmt: skip
        self.findings = Findings(arguments.output, facts)

    def measure(self, folder: Path) -> None:
        """Every part, set by set."""
        os.sched_setaffinity(0, {self._core})
        if {"step", "pass", "peers", "share"} & set(self._arguments.parts):
            for name in self._arguments.sets:
                self._measure_set(name, folder)
        if "kmeans" in self._arguments.parts:
            found, ratios = measure_kmeans(folder, self._arguments.kmeans_rows, self._core)
            self.findings.facts["kmeans"] = found
            self.findings.keep({}, ratios)

    def _measure_set(self, name: str, folder: Path) -> None:
        arguments = self._arguments
        short = settings()[name].corpus == SHORT
        count = arguments.videos if short else arguments.long_videos
        say(f"{name}: making {count} videos and their dataset")
        made = make_set(name, count, folder, self._core)
        if "step" in arguments.parts and name != WITHOUT_STEP:
            self.findings.keep(*measure_step(made, arguments.clips, arguments.repeats, say))
        if "pass" in arguments.parts:
            self.findings.keep(*measure_pass(made, arguments.clips, folder, arguments.repeats, say))
        if "peers" in arguments.parts:
            self._peers(made, folder)
        if "share" in arguments.parts and name != WITHOUT_SHARE:
            found, ratios = measure_share(made, folder, self._core, tuple(arguments.set))
            self.findings.facts[f"{name}, training"] = found
            self.findings.keep({}, ratios)

    def _peers(self, made: BenchSet, folder: Path) -> None:
        arguments = self._arguments
        # absolute, but not resolved: an environment's python is a link
        python = arguments.peer_python and arguments.peer_python.absolute()
        found = measure_peers(
            made, arguments.clips, python, folder, self._core, arguments.repeats, say
        )
        self.findings.keep(*found)


if __name__ == "__main__":
    main()
