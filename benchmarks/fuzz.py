"""Mutated videos through probe and decode: each is a success or a VideoError, in bounded time.

    python benchmarks/fuzz.py [--count 1000] [--seconds 1800] [--processes 2] [--seed 0]
                              [--output bench_fuzz.json]

Case k of a seed is the same file on every run: its fixture, its mutations and their places come
from `default_rng((seed, k))`. Exits with 1 where a case breaks a promise, and keeps its file.
"""

import argparse
import functools
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from extractors import probe as probe_module
from extractors.decode import Chunk, decode
from extractors.decode_config import DecodeConfig
from extractors.errors import VideoError
from extractors.ffmpeg import ffmpeg_binary, ffmpeg_version
from extractors.views import FrameView, SoundView

CONFIG = DecodeConfig(
    deadline_base=8, deadline_factor=0.001, max_seconds=3600, max_pixels=2**21, max_memory_mb=1024
)
PROBE_DEADLINE = 8.0
MARGIN = 4.0  # seconds above the deadlines: to start, kill and reap a child on a busy machine
RSS_GROWTH_MB = 128  # what this process may gain from its first case to its last
VIEWS = (FrameView(4, 32, 32, "crop"), FrameView(1, 48, 48, "whole"), SoundView(16_000))

Rng = np.random.Generator
SOUND = ("-c:a", "aac", "-b:a", "32k")
FIXTURES: dict[str, tuple[str, ...]] = {
    "slow.mp4": ("-c:v", "libx264", "-bf", "2", *SOUND),
    "fast.mp4": ("-c:v", "libx264", *SOUND, "-movflags", "faststart"),
    "fragments.mp4": ("-c:v", "libx264", *SOUND, "-movflags", "frag_keyframe+empty_moov"),
    "film.mkv": ("-c:v", "libx264", "-c:a", "libmp3lame"),
    "web.webm": ("-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus"),
    "broadcast.ts": ("-c:v", "libx264", *SOUND),
    "disc.mpg": ("-c:v", "mpeg2video", "-c:a", "mp2"),
    "old.avi": ("-c:v", "mpeg4", "-bf", "2", "-c:a", "libmp3lame"),
    "flash.flv": ("-c:v", "flv", "-c:a", "libmp3lame", "-ar", "44100"),
    "song.mp3": ("-vn", "-c:a", "libmp3lame"),
    "song.ogg": ("-vn", "-c:a", "libopus"),
    "song.wav": ("-vn", "-ar", "16000"),
}


@dataclass(frozen=True)
class Case:
    """What one mutated file did."""

    number: int
    fixture: str
    mutations: tuple[str, ...]
    reason: str
    """`success`, the VideoError's reason, or the name of what should not have been raised."""
    seconds: float
    broken: str | None
    """The promise that it broke."""


def flip_bits(content: bytes, rng: Rng) -> bytes:
    """1 to 40 single bits."""
    found = bytearray(content)
    for place in rng.integers(0, len(content), rng.integers(1, 41)):
        found[place] ^= 1 << rng.integers(0, 8)
    return bytes(found)


def overwrite(content: bytes, rng: Rng) -> bytes:
    """A block of up to 2 kB with noise or zeros."""
    start, length = _block(content, rng)
    noise = rng.integers(0, 256, length, np.uint8).tobytes()
    block = noise if rng.random() < 0.7 else bytes(length)
    return content[:start] + block + content[start + length :]


def truncate(content: bytes, rng: Rng) -> bytes:
    """At any byte."""
    return content[: rng.integers(0, len(content))]


def cut_out(content: bytes, rng: Rng) -> bytes:
    """A block is missing: all that follows moves."""
    start, length = _block(content, rng)
    return content[:start] + content[start + length :]


def duplicate(content: bytes, rng: Rng) -> bytes:
    """A block comes twice."""
    start, length = _block(content, rng)
    return content[: start + length] + content[start:]


def splice(content: bytes, rng: Rng, others: Sequence[bytes]) -> bytes:
    """The start of this file, then another's from some byte on."""
    other = others[rng.integers(0, len(others))]
    return content[: rng.integers(1, len(content))] + other[rng.integers(0, len(other)) :]


def extreme_numbers(content: bytes, rng: Rng) -> bytes:
    """4-byte fields of the first or last 2 kB, where headers are, set to extremes."""
    found = bytearray(content)
    values = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0", b"\0\0\0\x01")
    for place in rng.integers(0, 2048, rng.integers(1, 9)):
        start = place if rng.random() < 0.6 else max(0, len(found) - 2048) + place
        found[start : start + 4] = values[rng.integers(0, len(values))]
    return bytes(found)


def _block(content: bytes, rng: Rng) -> tuple[int, int]:
    length = int(rng.integers(1, min(2048, len(content)) + 1))
    return int(rng.integers(0, len(content) - length + 1)), length


def mutate(fixtures: dict[str, bytes], rng: Rng) -> tuple[str, tuple[str, ...], bytes]:
    """(name of the fixture, names of the one to three mutations, the file)."""
    name = sorted(fixtures)[rng.integers(0, len(fixtures))]
    others = list(fixtures.values())
    ways: list[Callable[[bytes, Rng], bytes]] = [
        flip_bits, overwrite, truncate, cut_out, duplicate, extreme_numbers,
        lambda content, rng: splice(content, rng, others),
    ]  # fmt: skip
    content, done = fixtures[name], []
    for _ in range(rng.integers(1, 4)):
        way = ways[rng.integers(0, len(ways))]
        if content:
            content = way(content, rng)
            done.append("splice" if way.__name__ == "<lambda>" else way.__name__)
    return name, tuple(done), content


def make_fixtures() -> dict[str, bytes]:
    """Two seconds each, a few kB: most of a file is then structure, where decoders break."""
    with tempfile.TemporaryDirectory() as folder:
        for name, options in FIXTURES.items():
            subprocess.run(
                [ffmpeg_binary(), "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=96x64:r=12:d=2",
                 "-f", "lavfi", "-i", "sine=440:d=2", "-pix_fmt", "yuv420p", *options,
                 f"{folder}/{name}"],
                check=True, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        return {name: (Path(folder) / name).read_bytes() for name in FIXTURES}


def run_case(number: int, seed: int, fixtures: dict[str, bytes], kept: Path) -> Case:
    """Probes and decodes one mutated file."""
    probe_module.PROBE_DEADLINE = PROBE_DEADLINE
    name, mutations, content = mutate(fixtures, np.random.default_rng((seed, number)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        started = time.monotonic()
        broken, reason = None, "success"
        try:
            read_all(str(path))
        except VideoError as err:
            reason = str(err.reason)
        except Exception as err:  # noqa: BLE001  # that there is none is what is tested
            reason, broken = type(err).__name__, f"raised {err!r}"
        seconds = time.monotonic() - started
        broken = broken or late(seconds) or left_behind() or grown()
        if [entry.name for entry in Path(folder).iterdir()] != [name]:
            broken = broken or "wrote beside the video"
    if broken is not None:
        kept.mkdir(exist_ok=True)
        (kept / f"{seed}_{number}_{name}").write_bytes(content)
    return Case(number, name, mutations, reason, round(seconds, 3), broken)


def read_all(path: str) -> None:
    """Everything of a file, chunk by chunk, as a worker does."""
    probed = probe_module.probe(path, CONFIG)
    for chunk in decode(path, probed, VIEWS, CONFIG):
        assert not isinstance(chunk, Chunk) or len(chunk.data)


def late(seconds: float) -> str | None:
    """Whether a case took longer than its deadlines allow."""
    longest = PROBE_DEADLINE + CONFIG.deadline_base + CONFIG.deadline_factor * CONFIG.max_seconds
    return f"took {seconds:.1f} s" if seconds > longest + MARGIN else None


def left_behind() -> str | None:
    """Whether a child of this process, running or not reaped, is there."""
    children = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/children")]
    return f"left the children {children}" if any(children) else None


@functools.cache
def first_peak() -> float:
    """Peak memory of this process when its first case had ended."""
    return peak_mb()


def peak_mb() -> float:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def grown() -> str | None:
    """Whether this process has taken more memory than a handful of chunks."""
    gain = peak_mb() - first_peak()
    return f"memory grew by {gain:.0f} MB" if gain > RSS_GROWTH_MB else None


def main() -> None:
    """Runs the cases, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=1800, help="no case begins after this")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("bench_fuzz.json"))
    arguments = parser.parse_args()
    kept = arguments.output.with_suffix(".broken")
    run = functools.partial(run_case, seed=arguments.seed, fixtures=make_fixtures(), kept=kept)
    started, cases = time.monotonic(), []
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for case in pool.imap(run, range(arguments.count)):
            cases.append(case)
            if time.monotonic() - started > arguments.seconds:
                break
        pool.terminate()
    seconds = time.monotonic() - started
    broken = [case for case in cases if case.broken]
    figures = {
        "cases": len(cases),
        "seed": arguments.seed,
        "ffmpeg": ffmpeg_version(),
        "seconds": round(seconds, 1),
        "slowest": max(case.seconds for case in cases),
        "by_reason": dict(Counter(case.reason for case in cases).most_common()),
        "by_fixture": {
            name: dict(Counter(c.reason for c in cases if c.fixture == name).most_common())
            for name in FIXTURES
        },
        "broken": [asdict(case) for case in broken],
    }
    arguments.output.write_text(json.dumps(figures, indent=2) + "\n")
    show(cases, seconds, kept)
    sys.exit(1 if broken else 0)


def show(cases: Sequence[Case], seconds: float, kept: Path) -> None:
    """A row a reason, then what broke."""
    table = Table("outcome", "files", "median s", "slowest s", title=f"{len(cases)} mutated videos")
    for reason, number in Counter(case.reason for case in cases).most_common():
        times = [case.seconds for case in cases if case.reason == reason]
        table.add_row(reason, str(number), f"{np.median(times):.2f}", f"{max(times):.2f}")
    console = Console()
    console.print(table)
    broken = [case for case in cases if case.broken]
    console.print(f"{len(broken)} broke a promise; {seconds:.0f} s in all")
    for case in broken:
        console.print(f"case {case.number} ({case.fixture}): {case.broken}; kept in {kept}")


if __name__ == "__main__":
    main()
