"""Clips out of shards: how many a second, how long a step waits for them, and two processes."""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from figures import say
from measuring import Cost, alternate, ratio, timed
from official_mcn import official_loader
from torch.utils.data import DataLoader
from train_data import CLIPS_PER_VIDEO, CPU, VIDEOS, D, Measured, WordVectors, make_dataset

from pipeline.cli.options import load_config
from training.config import TrainConfig
from training.run_local import train_local
from training.sampling import ClipSampler, open_training_set, read_ahead
from training.steps import start_training, training_step


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
    """Steps of 64 clips by one process on one core, by two on two; the first two not counted.

    Beside them two processes that know nothing of each other, each with half of the clips: no
    training by two could be faster on this machine.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        say("processes: left out, this machine gives one core")
        return {}, []
    whole = make_dataset(folder / "whole", 12, 150.0, WordVectors(300))
    half = make_dataset(folder / "half", 6, 150.0, WordVectors(300))

    def steps(workers: int) -> Cost:
        os.sched_setaffinity(0, cores[:workers])
        seconds = step_seconds(whole, VIDEOS, workers)
        os.sched_setaffinity(0, cores)
        return Cost(0.0, seconds)

    def unrelated() -> Cost:
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            found = pool.map(step_seconds, [half] * 2, [VIDEOS // 2] * 2, [1] * 2)
            return Cost(0.0, max(found))

    runs = {
        "one process": partial(steps, 1),
        "two processes": partial(steps, 2),
        "two unrelated": unrelated,
    }
    costs = alternate(runs, repeats, say)
    wall = {name: [cost.wall for cost in found] for name, found in costs.items()}
    one, two, unrelated_two = wall.values()
    return costs, [
        ratio("steps a second: two processes / one", one, two, at_least=1.7),
        ratio("steps a second: two unrelated ones of half a batch / one", one, unrelated_two),
    ]


def step_seconds(dataset: str, videos: int, workers: int) -> float:
    """Of a training step with the released sizes, the first two not counted."""
    torch.set_num_threads(1)
    config = official_sampling(batch_videos=videos, cache=1024.0)
    config = config.model_copy(update={"epochs": 1, "checkpoint_steps": 1000})
    moments: list[float] = []
    with tempfile.TemporaryDirectory(prefix="bench-run-") as run:
        train_local(
            dataset, run, config, CPU, workers, lambda _: moments.append(time.perf_counter())
        )
    return (moments[-1] - moments[1]) / (len(moments) - 2)
