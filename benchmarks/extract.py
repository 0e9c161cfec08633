"""What extraction costs, as ratios, all measured in one run.

    python benchmarks/extract.py [--seconds 120] [--clips 100] [--repeats 3]
        [--parts decode,extraction,workers,memory,peer] [--memory-hours 3]
        [--peer CLONE --peer-python PYTHON] [--peer-seconds 120] [--peer-pairings resnet,r21d,…]
        [--output bench_extract.json]

    decode        all views of the reference preset / `ffmpeg -i FILE -f null -`     at most 1.3
    extraction    embedded preset / (that decoding + models on ready batches)        at most 1.15
    workers       two workers on two cores / one on one                              at least 1.8
    memory        peak of a 3-hour video / 10 minutes; MiB                 at most 1.15; 2000
    peer          videos per CPU second / v-iashin/video_features' (extract_peer.py)  at least 2.5

On one 720p video of --seconds and on --clips copies of one of two seconds, both with speech. CPU
seconds, children included, decide (the workers' figure: the clock's); each figure is the median of
the ratios of --repeats runs that alternate, so that what else the machine does meets both sides.
Exit code 1 where a figure is missed. A part whose repeats are cut says so in its JSON.
"""

import argparse
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from extract_floors import measure_decode, measure_extraction
from extract_media import make_copies, make_video
from extract_memory import measure_memory
from extract_peer import NAMES, Peer, measure_peer
from extract_workers import measure_workers
from figures import Findings, check_known, conclude, say
from measuring import ONE_THREAD

from extractors.ffmpeg import ffmpeg_version

PARTS = ("decode", "extraction", "workers", "memory", "peer")
CLIP_SECONDS = 2
PIECE_SECONDS = 5


def main() -> None:
    """Measures, writes the JSON as it grows, prints the tables."""
    arguments = parse()
    os.environ |= ONE_THREAD
    torch.set_num_threads(1)
    facts = {
        "ffmpeg": ffmpeg_version(), "torch": torch.__version__, "python": platform.python_version(),
        "processor": processor(), "cores": len(os.sched_getaffinity(0)),
        "load_at_start": os.getloadavg()[0],
        "arguments": {name: str(value) for name, value in vars(arguments).items()},
    }  # fmt: skip
    bench = Bench(arguments, facts)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench.measure(Path(folder))
    conclude(bench.findings, "Extraction")


def parse() -> argparse.Namespace:
    """The arguments; stops where they do not fit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--memory-hours", type=float, default=3.0)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--peer-seconds", type=int, default=120)
    parser.add_argument("--peer-pairings", type=lambda text: text.split(","), default=list(NAMES))
    parser.add_argument("--output", type=Path, default=Path("bench_extract.json"))
    arguments = parser.parse_args()
    check_known(parser, "--parts", arguments.parts, PARTS)
    check_known(parser, "--peer-pairings", arguments.peer_pairings, NAMES)
    if (arguments.peer is None) != (arguments.peer_python is None):
        parser.error("--peer and --peer-python go together")
    return arguments


class Bench:
    """The parts that were asked for, and what they found so far."""

    def __init__(self, arguments: argparse.Namespace, facts: dict[str, object]) -> None:
        self._arguments = arguments
        self.findings = Findings(arguments.output, facts)
        self._cores = sorted(os.sched_getaffinity(0))

    def measure(self, folder: Path) -> None:
        """Every part, on one core each but for the workers'."""
        arguments, repeats = self._arguments, self._arguments.repeats
        os.sched_setaffinity(0, {self._cores[-1]})
        long = make_video(folder / "long.mp4", arguments.seconds)
        clip = make_video(folder / "clip.mp4", CLIP_SECONDS, "640x360")
        clips = make_copies(clip, folder / "clips", arguments.clips)
        sets = {f"{arguments.seconds} s of 720p": [long], f"{arguments.clips} clips": clips}
        for part, measure in (("decode", measure_decode), ("extraction", measure_extraction)):
            for name, videos in sets.items() if part in arguments.parts else ():
                self.findings.keep(*measure(name, videos, repeats, say))
        if "workers" in arguments.parts:
            self._workers(clips, folder)
        if "memory" in arguments.parts:
            core = {self._cores[-1]}
            self.findings.facts["memory"], ratios = measure_memory(
                folder, arguments.memory_hours, core
            )
            self.findings.keep({}, ratios)
        if "peer" in arguments.parts:
            self._peer(folder)

    def _workers(self, clips: Sequence[Path], folder: Path) -> None:
        if len(self._cores) < 2:
            say("workers: skipped, this machine gives one core")
            return
        os.sched_setaffinity(0, set(self._cores))  # a child cannot have more than this
        self.findings.keep(
            *measure_workers(clips, folder, self._cores[-2:], self._arguments.repeats, say)
        )
        os.sched_setaffinity(0, {self._cores[-1]})

    def _peer(self, folder: Path) -> None:
        arguments = self._arguments
        if arguments.peer is None:
            say("peer: skipped, for want of --peer CLONE --peer-python PYTHON (extract_peer.py)")
            return
        # its r21d holds a video's every frame as float32: two minutes would take 30 GB
        piece = make_video(folder / "piece.mp4", PIECE_SECONDS)
        number = -(-arguments.peer_seconds // PIECE_SECONDS)
        pieces = make_copies(piece, folder / "pieces", number)
        # absolute, but not resolved: an environment's python is a link
        paths = arguments.peer.absolute(), arguments.peer_python.absolute()
        peer = Peer(*paths, tuple(arguments.peer_pairings))
        core = self._cores[-1]
        self.findings.keep(*measure_peer(peer, pieces, folder, core, arguments.repeats, say))


def processor() -> str:
    """Its name, where Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
