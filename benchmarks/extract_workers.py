"""Two workers on two cores against one worker on one core: whole commands."""

import sys
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from measuring import Command, Cost, Ratio, alternate, ratio, run

PER_SHARD = 5


def measure_workers(
    videos: Sequence[Path], folder: Path, cores: Sequence[int], repeats: int,
    say: Callable[[str], None],
) -> tuple[dict[str, list[Cost]], list[Ratio]]:  # fmt: skip
    """`pipeline run extract`, embedded preset. Throughput counts from when the models are loaded:
    what a run of no video takes is subtracted (the figure with it stands beside, without limit)."""
    numbers = count()

    def extract(workers: int, source: Path) -> Cost:
        dataset = folder / f"workers_{next(numbers)}"
        line = [*extract_command(source, dataset), "--workers", str(workers),
                "--set", f"extract.videos_per_shard={PER_SHARD}"]  # fmt: skip
        command = Command(line, cores[:workers], allowed_codes=(0, 3))
        return run(command, folder / "workers.log")

    some, none = video_list(folder / "some.csv", videos), no_videos(folder, 2 * PER_SHARD)
    names = {
        (number, source): f"{number} worker(s), {what}"
        for number in (1, 2)
        for what, source in (("videos", some), ("no video", none))
    }
    parts = {name: lambda key=key: extract(*key) for key, name in names.items()}
    costs = alternate(parts, repeats, say)
    total = {n: costs[names[n, some]] for n in (1, 2)}
    net = {n: [a - b for a, b in zip(total[n], costs[names[n, none]], strict=True)] for n in (1, 2)}
    wall = {n: [cost.wall for cost in net[n]] for n in (1, 2)}
    return costs, [
        ratio("throughput of 2 workers / 1", wall[1], wall[2], at_least=1.8),
        ratio("the same, loading included", [c.wall for c in total[1]], [c.wall for c in total[2]]),
        ratio("the same, if CPU seconds were all", [2 * c.cpu for c in net[1]],
              [c.cpu for c in net[2]]),
    ]  # fmt: skip


def extract_command(source: Path, dataset: Path) -> list[str]:
    """The command line, to be added to."""
    return [sys.executable, "-m", "pipeline", "run", "extract", "--input", str(source),
            "--output", str(dataset), "--device", "cpu"]  # fmt: skip


def video_list(path: Path, videos: Sequence[Path]) -> Path:
    """A csv list of videos."""
    rows = [f"{video},{video.stem}" for video in videos]
    path.write_text("\n".join(["path,key", *rows]) + "\n")
    return path


def no_videos(folder: Path, number: int) -> Path:
    """A list of files that are not there: each is a failed row, after all models were loaded."""
    return video_list(folder / "none.csv", [folder / f"no_{k}.mp4" for k in range(number)])
