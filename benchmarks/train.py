"""What training costs, as ratios, all measured in one run.

    python benchmarks/train.py [--official CLONE] [--repeats 3] [--threads 1]
        [--parts rest,step,kmeans,sampling,waiting,processes,queue] [--output bench_train.json]

    rest        a step without the sound's network / the released one's            at least 1.5
                the same on steps with k-means                                     at least 2.0
    step        a whole step, 64 clips, embedding 1,024                            at least 1.2
    kmeans      20 iterations, 41,024 x 1,024 rows, 256 clusters, same start:
                fast_pytorch_kmeans / ours, FAISS / ours                           at least 2.0
    sampling    clips a CPU second out of shards / by the released npz loader      at least 20
    waiting     share of a training's time in which the step waits for clips
    processes   steps a second of two processes / one on the same batch            at least 1.7
                the same of two that share nothing, with half of the batch each: the machine's best
    queue       memory of the queue / its own size plus one batch                  at most 1.0

--official is a clone of brian7685/Multimodal-Clustering-Network (no part of this project), run with
the packages fast_pytorch_kmeans, librosa and pandas; without it the parts `rest` and `step` and the
loader's side of `sampling` are left out. Both sides have the same weights, features, threads and
settings (preset mcn_official, float32, on the CPU). CPU seconds decide, but for `processes`; each
figure is the median of the ratios of --repeats alternating runs. Exit code 1 where one is missed.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import torch
from figures import Findings, check_known, conclude, say
from official_mcn import use_clone
from train_clustering import measure_kmeans, measure_queue
from train_data import Measured
from train_sampling import measure_processes, measure_sampling, measure_waiting
from train_step import measure_step

PARTS = ("rest", "step", "kmeans", "sampling", "waiting", "processes", "queue")


def main() -> None:
    """Measures, writes the JSON, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--official", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--output", type=Path, default=Path("bench_train.json"))
    arguments = parser.parse_args()
    check_known(parser, "--parts", arguments.parts, PARTS)
    torch.set_num_threads(arguments.threads)
    faiss.omp_set_num_threads(arguments.threads)
    if arguments.official is not None:
        use_clone(arguments.official)
    facts: dict[str, Any] = {"torch": torch.__version__, "load_at_start": os.getloadavg()[0]}
    findings = Findings(arguments.output, facts)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for name, measure in parts(arguments, Path(folder), facts).items():
            if name in arguments.parts:
                findings.keep(*measure())
    say(json.dumps(facts))
    conclude(findings, "Training")


def parts(
    arguments: argparse.Namespace, folder: Path, facts: dict[str, Any]
) -> dict[str, Callable[[], Measured]]:
    """What measures each part, in order."""
    repeats, official = arguments.repeats, arguments.official
    against = {
        "rest": lambda: measure_step(repeats, sound=False, facts=facts),
        "step": lambda: measure_step(repeats, sound=True, facts=facts),
    }
    alone: dict[str, Callable[[], Measured]] = {
        "kmeans": lambda: measure_kmeans(repeats),
        "sampling": lambda: measure_sampling(repeats, folder, official=official is not None),
        "waiting": lambda: measure_waiting(folder, facts),
        "processes": lambda: measure_processes(repeats, folder),
        "queue": measure_queue,
    }
    return (against if official is not None else {}) | alone


if __name__ == "__main__":
    main()
