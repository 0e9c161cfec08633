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
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import psutil
import torch
from figures import check_known, described, say
from measuring import Cost, Ratio, alternate, medians, ratio, timed
from official_mcn import OfficialTraining, official_loader, official_net, use_clone
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from train_data import WordVectors, make_dataset

from pipeline.cli.options import load_config
from training.batches import ClipBatch, TrainBatch
from training.clips import Clip
from training.clustering import kmeans, nearest
from training.config import TrainConfig
from training.model import build_model
from training.official_names import from_official, read_sizes
from training.online_clustering import FUSED, FeatureQueue, OnlineClustering
from training.run_local import train_local
from training.sampling import ClipSampler, open_training_set, read_ahead
from training.steps import Training, start_training, training_step

PARTS = ("rest", "step", "kmeans", "sampling", "waiting", "processes", "queue")
CPU = torch.device("cpu")
D, VIDEOS, CLIPS_PER_VIDEO, CLUSTERS, QUEUE = 1024, 2, 32, 256, 40_960
CLIPS = VIDEOS * CLIPS_PER_VIDEO
ITERATIONS = 20

console = Console()


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
    costs: dict[str, list[Cost]] = {}
    ratios: list[Ratio] = []
    facts: dict[str, Any] = {"torch": torch.__version__, "load_at_start": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for name, measure in parts(arguments, Path(folder), facts).items():
            if name in arguments.parts:
                found, more = measure()
                costs |= found
                ratios += more
                arguments.output.write_text(
                    json.dumps(
                        {
                            "facts": facts,
                            "ratios": described(ratios),
                            "costs": medians(costs),
                        },
                        indent=2,
                    )
                    + "\n"
                )
    show(ratios, facts)
    sys.exit(1 if any(found.holds is False for found in ratios) else 0)


Measured = tuple[dict[str, list[Cost]], list[Ratio]]


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


def measure_step(repeats: int, *, sound: bool, facts: dict[str, Any]) -> Measured:
    """One training step of both, between two refits and with one. Without `sound`, the sound's
    network is replaced by one number a clip on either side."""
    torch.manual_seed(0)
    net = official_net(D)
    ours, config = our_training(net)
    queue_QD = torch.randn(QUEUE, D) * 0.05
    centroids_KD = queue_QD[:CLUSTERS].clone()
    theirs = OfficialTraining(net, CLIPS, CLUSTERS, queue_QD.clone())
    part = ours.clustering.sets[FUSED]
    part.queue.push(queue_QD)
    if not sound:
        frames_BCT = torch.rand(CLIPS, 1024, 8)
        net.DAVEnet = Stub(frames_BCT)
        ours.model.davenet = Stub(frames_BCT.mean(2))
    inputs = random_inputs()
    data = official_batch(inputs)
    batch = TrainBatch(
        inputs,
        keys=tuple(f"v{i // CLIPS_PER_VIDEO}" for i in range(CLIPS)),
        clips=tuple(Clip(10.0 * i, 10.0 * i + 10) for i in range(CLIPS)),
        places=tuple(i // CLIPS_PER_VIDEO for i in range(CLIPS)),
        videos=tuple(f"v{i}" for i in range(VIDEOS)),
    )

    def our_step(step: int) -> Callable[[], Cost]:
        def run() -> Cost:
            part.centroids_KD.copy_(centroids_KD)
            part.started.fill_(True)
            ours.step = step
            return timed(lambda: training_step(ours, batch, config, CPU))

        return run

    def their_step(*, refit: bool) -> Callable[[], Cost]:
        return lambda: timed(lambda: theirs.step(data, centroids_KD.clone(), refit=refit))

    what = "a whole step" if sound else "a step without the sound's network"
    runs = {
        f"released code: {what}": their_step(refit=False),
        f"ours: {what}": our_step(1),
        f"released code: {what}, with k-means": their_step(refit=True),
        f"ours: {what}, with k-means": our_step(0),
    }
    for run in runs.values():
        run()  # the first of its kind allocates
    costs = alternate(runs, repeats, say)
    seconds = {name: [cost.cpu for cost in found] for name, found in costs.items()}
    limits = {"": 1.2 if sound else 1.5, ", with k-means": 1.2 if sound else 2.0}
    if sound:
        facts |= matrix_share(lambda: our_step(1)().wall, lambda: our_step(1)())
    return costs, [
        ratio(
            f"{what}{kind}: released / ours",
            seconds[f"released code: {what}{kind}"],
            seconds[f"ours: {what}{kind}"],
            at_least=limit,
        )
        for kind, limit in limits.items()
    ]


class Stub(nn.Module):
    """Gives the same numbers whatever it is asked."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self._output = output

    def forward(self, *_: Tensor) -> Tensor:
        """As at the start."""
        return self._output


def our_training(net: nn.Module) -> tuple[Training, TrainConfig]:
    """A training of ours with the released network's weights and settings."""
    sets = [f"train.model.embedding_dim={D}", "train.precision=float32"]
    config = load_config("mcn_official", None, sets).train
    state = net.state_dict()
    model = build_model(config, read_sizes(state, "Net").dims)
    model.load_state_dict(from_official(state, "Net"))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    training = Training(
        model=model.train(),
        optimiser=optimiser,
        schedule=LambdaLR(optimiser, lambda step: 1.0),
        clustering=OnlineClustering(config.clustering, model.modalities, CLUSTERS, D),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
    )
    return training, config


def random_inputs() -> ClipBatch:
    """64 clips of ten seconds, 20 words each."""
    rng = np.random.default_rng(0)

    def floats(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

    return ClipBatch(
        visual_BV=normalize(floats(CLIPS, 4096).abs()),
        parts_BP=torch.ones(CLIPS, 2, dtype=torch.bool),
        spectrogram_BMT=(10 * floats(CLIPS, 40, 1000) - 40).clamp(-80, 0),
        frames_B=torch.full((CLIPS,), 1000),
        text_BSE=0.15 * floats(CLIPS, 20, 300),
        rows_B=torch.full((CLIPS,), 20),
        present={name: torch.ones(CLIPS, dtype=torch.bool) for name in ("video", "audio", "text")},
    )


def official_batch(inputs: ClipBatch) -> dict[str, Tensor]:
    """The same as the released loader gives them."""
    shape = (VIDEOS, CLIPS_PER_VIDEO)
    return {
        "video": inputs.visual_BV.view(*shape, -1),
        "audio": inputs.spectrogram_BMT.view(*shape, 40, 1000),
        "nframes": inputs.frames_B.view(*shape).int(),
        "text": inputs.text_BSE.view(*shape, 20, 300),
    }


def matrix_share(seconds: Callable[[], float], step: Callable[[], object]) -> dict[str, float]:
    """Of a whole step: operations, how many a second, and the share of a large matrix product's."""
    with FlopCounterMode(display=False) as counter:
        step()
    rate = counter.get_total_flops() / min(seconds() for _ in range(3)) / 1e9
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    best = min(timed(lambda: a @ b).wall for _ in range(10))
    product = 2 * 2048**3 / best / 1e9
    return {
        "step_gflop": round(counter.get_total_flops() / 1e9, 1),
        "step_gflop_per_second": round(rate, 1),
        "matrix_product_gflop_per_second": round(product, 1),
        "share_of_matrix_product_rate": round(rate / product, 3),
    }


def measure_kmeans(repeats: int) -> Measured:
    """The same number of iterations from the same start; objectives must agree within 0.1 %."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLUSTERS, D))
    rows = centres[rng.integers(CLUSTERS, size=QUEUE + CLIPS)] + 2 * rng.normal(
        size=(QUEUE + CLIPS, D)
    )
    rows_ND = normalize(torch.from_numpy(rows.astype(np.float32)))
    start_KD = rows_ND[:CLUSTERS]
    made: dict[str, Tensor] = {}

    def ours() -> None:
        made["ours"] = kmeans(rows_ND, start_KD, "spherical", "keep", ITERATIONS, -1.0).centroids_KD

    def by_faiss() -> None:
        index = faiss.Kmeans(
            D, CLUSTERS, niter=ITERATIONS, spherical=True, max_points_per_centroid=QUEUE
        )
        index.train(rows_ND.numpy(), init_centroids=start_KD.numpy())
        made["FAISS"] = torch.from_numpy(index.centroids)

    def by_torch() -> None:
        from fast_pytorch_kmeans import KMeans

        theirs = KMeans(CLUSTERS, max_iter=ITERATIONS, tol=-1.0, mode="cosine")
        theirs.fit_predict(rows_ND, start_KD.clone())
        made["fast_pytorch_kmeans"] = theirs.centroids

    runs = {"ours": ours, "FAISS": by_faiss}
    if importable("fast_pytorch_kmeans"):
        runs["fast_pytorch_kmeans"] = by_torch
    costs = alternate({name: partial(timed, run) for name, run in runs.items()}, repeats, say)
    objective = {
        name: float(nearest(rows_ND, found, "spherical")[0].double().mean())
        for name, found in made.items()
    }
    ratios = [
        ratio(
            f"k-means: {name} / ours (mean cosine {objective[name]:.5f}, "
            f"ours {objective['ours']:.5f})",
            [cost.cpu for cost in costs[name]],
            [cost.cpu for cost in costs["ours"]],
            at_least=2.0,
        )
        for name in runs
        if name != "ours"
    ]
    if max(objective.values()) / min(objective.values()) > 1.001:
        raise SystemExit(f"k-means: objectives differ: {objective}")
    return {f"k-means: {name}": found for name, found in costs.items()}, ratios


def measure_sampling(repeats: int, folder: Path, *, official: bool) -> Measured:
    """16 videos of 6.5 minutes, 32 clips of each, nothing kept from one epoch to the next."""
    vectors = WordVectors(300)
    dataset = make_dataset(folder / "sampled", 16, 390.0, vectors)
    config = official_sampling(batch_videos=8, cache=0.0)
    training_set = open_training_set(dataset, config.sampling)
    clips: dict[str, int] = {}

    def ours() -> None:
        sampler = ClipSampler(training_set, config)
        clips["ours"] = sum(len(batch.keys) for batch in sampler.batches(0))

    runs: dict[str, Callable[[], None]] = {"ours": ours}
    if official:
        from pipeline.formats.exporting import export_dataset
        from pipeline.formats.howto100m import HowTo100MExport

        tracks = {"2d": "visual_2d", "3d": "visual_3d", "audio": "audio"}
        export_dataset(dataset, str(folder / "npz"), "howto100m", HowTo100MExport(tracks))
        loader = DataLoader(
            official_loader(folder / "npz", "videos.csv", vectors, CLIPS_PER_VIDEO), batch_size=8
        )

        def theirs() -> None:
            clips["released code"] = sum(batch["nframes"].numel() for batch in loader)

        runs["released code"] = theirs
    costs = alternate({name: partial(timed, run) for name, run in runs.items()}, repeats, say)
    named = {f"sampling: {name}, {clips[name]} clips": found for name, found in costs.items()}
    if not official:
        return named, []
    each = {name: [cost.cpu / clips[name] for cost in found] for name, found in costs.items()}
    what = "clips a CPU second: ours / released loader"
    return named, [ratio(what, each["released code"], each["ours"], at_least=20.0)]


def official_sampling(batch_videos: int, cache: float) -> TrainConfig:
    """The released run's settings for word vectors, with a network for CPUs."""
    sets = [
        f"train.sampling.batch_videos={batch_videos}",
        f"train.sampling.cache_megabytes={cache}",
        f"train.model.embedding_dim={D}",
        "train.precision=float32",
        "train.epochs=2",
    ]
    return load_config("mcn_official", None, sets).train


def measure_waiting(folder: Path, facts: dict[str, Any]) -> Measured:
    """Six steps of 64 clips out of shards, reading ahead, nothing kept."""
    dataset = make_dataset(folder / "waited", 12, 390.0, WordVectors(300))
    config = official_sampling(batch_videos=VIDEOS, cache=0.0)
    training_set = open_training_set(dataset, config.sampling)
    sampler = ClipSampler(training_set, config)
    training = start_training(training_set, sampler, config, CPU)
    waited, started = 0.0, time.perf_counter()
    with closing(read_ahead(sampler.batches(0))) as batches:
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - before
            if batch is None:
                break
            training_step(training, batch, config, CPU)
            training.step += 1
    share = waited / (time.perf_counter() - started)
    facts["share_of_time_waiting_for_clips"] = round(share, 4)
    return {}, []


def measure_processes(repeats: int, folder: Path) -> Measured:
    """Steps of 64 clips by one process on one core, by two on two; the first three not counted."""
    dataset = make_dataset(folder / "shared", 20, 60.0, WordVectors(300))
    config = official_sampling(batch_videos=VIDEOS, cache=1024.0)
    widths = config.model.model_copy(update={"audio_widths": (64, 64, 128, 128)})
    config = config.model_copy(update={"epochs": 1, "model": widths, "checkpoint_steps": 1000})
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        say("processes: left out, this machine gives one core")
        return {}, []
    run = iter(range(1000))

    def steps(workers: int) -> Callable[[], Cost]:
        def train() -> Cost:
            moments: list[float] = []
            os.sched_setaffinity(0, cores[:workers])
            torch.set_num_threads(1)
            output = str(folder / f"run{next(run)}")
            train_local(
                dataset, output, config, CPU, workers,
                lambda _: moments.append(time.perf_counter()),
            )  # fmt: skip
            os.sched_setaffinity(0, cores)
            return Cost(0.0, (moments[-1] - moments[2]) / (len(moments) - 3))

        return train

    costs = alternate({"one process": steps(1), "two processes": steps(2)}, repeats, say)
    wall = {name: [cost.wall for cost in found] for name, found in costs.items()}
    what = "steps a second: two processes / one"
    return costs, [ratio(what, wall["one process"], wall["two processes"], at_least=1.7)]


def measure_queue() -> Measured:
    """Resident memory that a full queue and 100 pushes add."""
    process, batch = psutil.Process(), torch.randn(4096, D)
    before = process.memory_info().rss
    queue = FeatureQueue(QUEUE, D)
    peak = before
    for _ in range(100):
        queue.push(batch)
        peak = max(peak, process.memory_info().rss)
    own = queue.rows_QD.nbytes + batch.nbytes
    return {}, [
        ratio("memory of the queue / its size + a batch", [peak - before], [own], at_most=1.0)
    ]


def importable(name: str) -> bool:
    """Whether a package is installed."""
    import importlib.util

    return importlib.util.find_spec(name) is not None


def show(ratios: list[Ratio], facts: dict[str, Any]) -> None:
    """As a table."""
    table = Table("what", "ratio", "limit", "each")
    for found in ratios:
        sign = "" if found.limit is None else (">= " if found.at_least else "<= ")
        mark = {True: "", False: " missed", None: ""}[found.holds]
        limit = "" if found.limit is None else f"{sign}{found.limit:g}{mark}"
        table.add_row(
            found.what, f"{found.value:.2f}", limit, " ".join(f"{v:.2f}" for v in found.each)
        )
    console.print(table)
    console.print_json(json.dumps(facts))


if __name__ == "__main__":
    main()
