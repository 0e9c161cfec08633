"""What XDC's loader costs a clip, against the encoders' step and against one pass of ffmpeg.

Each measurement stands on one core, in CPU seconds. A clip of the loader is the whole of it: frames
at a random time, their square, mirrored or not, the rows of its spectrogram, into a batch.
"""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from measuring import Cost, Ratio, alternate, ratio, timed
from numpy.typing import NDArray
from xdc_sets import BenchSet, write_proxies

from extractors.ffmpeg import ffmpeg_binary
from training.xdc.clips import ClipRef, draw_clips
from training.xdc.pseudo_labels import PseudoLabels
from training.xdc.reading import ClipBatch, ClipLoader, ClipReader
from training.xdc.state import XdcTraining, start_xdc
from training.xdc.steps import Share, training_step
from training.xdc.supervision import label_sets

Say = Callable[[str], None]
Found = tuple[dict[str, list[Cost]], list[Ratio]]
CPU = torch.device("cpu")
LR = 1e-3


def drawn(made: BenchSet, count: int) -> list[ClipRef]:
    """Random clips, as an epoch has them."""
    rng = np.random.default_rng(0)
    return draw_clips(made.videos.seen_N & made.videos.heard_N, {}, count, made.config, rng)


def in_batches(made: BenchSet, clips: Sequence[ClipRef]) -> list[Sequence[ClipRef]]:
    """As large as the settings say."""
    size = made.config.sampling.batch_clips
    return [clips[first : first + size] for first in range(0, len(clips), size)]


def load(made: BenchSet, clips: Sequence[ClipRef]) -> list[ClipBatch]:
    """Batches by the training's loader, in this process."""
    with ClipLoader(made.videos, made.config, CPU) as loader:
        return list(loader.read(in_batches(made, clips)))


# The encoders' step


def measure_step(made: BenchSet, count: int, repeats: int, say: Say) -> Found:
    """The loader / the step on batches that lie ready: at least as many clips a CPU second."""
    clips = drawn(made, count)
    training, batches = ready_training(made), load(made, clips)
    plan = [Share(share) for share in in_batches(made, clips)]

    def train() -> None:
        for share, batch in zip(plan, batches, strict=True):
            training_step(training, share, batch, made.videos, LR, CPU)

    ours, step = f"{made.name}: loader, {count} clips", f"{made.name}: step, {count} clips"
    train()
    costs = alternate(
        {ours: lambda: timed(lambda: load(made, clips)), step: lambda: timed(train)}, repeats, say
    )
    cpu = {part: [cost.cpu for cost in runs] for part, runs in costs.items()}
    what = f"clips per CPU second, loader / step, {made.name}"
    return costs, [ratio(what, cpu[step], cpu[ours], at_least=1.0)]


def ready_training(made: BenchSet) -> XdcTraining:
    """In its first iteration, with random clusters."""
    training, config = start_xdc(made.config, CPU), made.config
    clusters, rng = config.clustering.clusters, np.random.default_rng(1)
    training.begin_iteration(
        {
            name: PseudoLabels(rng.integers(0, clusters, len(made.videos)), clusters)
            for name in label_sets(config.method)
        }
    )
    return training


# One pass of ffmpeg


def measure_pass(made: BenchSet, count: int, folder: Path, repeats: int, say: Say) -> Found:
    """The loader's cost per clip / that of as many frames in one sequential pass.

    The pass: one ffmpeg child on one thread decodes all proxies from start to end, one after the
    other, at the clips' rate and size, to rgb24 on a pipe that is read and thrown away. It is
    taken to hold `frames / frames of a clip` clips, as if clips lay end to end: nothing is decoded
    that no clip has, and the child starts once. The loader reads clips at random times, so it also
    decodes what lies between a key frame and its clip, finds each video anew, cuts the square and
    reads the sound. For information: a child for each file, and all that a pass over a set
    costs if each video gives one clip (what an epoch would cost that decoded its files whole).
    """
    clips = drawn(made, count)
    files = write_proxies(made, folder / f"{made.name}_proxies")
    listed = folder / f"{made.name}_proxies.txt"
    listed.write_text("".join(f"file '{file}'\n" for file in files))
    one = [["-f", "concat", "-safe", "0", "-i", str(listed)]]
    each = [["-i", str(file)] for file in files]
    ours = f"{made.name}: loader, {count} clips of the pass's set"
    names = f"{made.name}: ffmpeg, one child", f"{made.name}: ffmpeg, a child a file"
    parts = {ours: lambda: timed(lambda: load(made, clips)),
             names[0]: lambda: ffmpeg_cost(one), names[1]: lambda: ffmpeg_cost(each)}  # fmt: skip
    costs = alternate(parts, repeats, say)
    held = passed_frames(made, one[0]) / made.config.video.frames
    a_clip = [cost.cpu / count for cost in costs[ours]]
    floors = [[cost.cpu / held for cost in costs[name]] for name in names]
    whole = [cost.cpu / len(files) for cost in costs[names[0]]]
    what = f"CPU a clip, loader / one ffmpeg pass, {made.name}"
    return costs, [
        ratio(what, a_clip, floors[0], at_most=1.5),
        ratio(f"{what}, a child a file", a_clip, floors[1]),
        ratio(f"{what}, one clip of each video", a_clip, whole),
    ]


def ffmpeg_line(source: Sequence[str]) -> list[str]:
    """One thread each for decoding and conversion; frames in whole, the proxies' rate and size."""
    return [ffmpeg_binary(), "-v", "error", "-threads", "1", "-filter_threads", "1", *source,
            "-map", "0:v", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24",
            "pipe:1"]  # fmt: skip


def ffmpeg_cost(sources: Sequence[Sequence[str]]) -> Cost:
    """Of the children alone, not of reading what they write."""
    total = Cost(0.0, 0.0)
    for source in sources:
        started = time.perf_counter()
        process = subprocess.Popen(ffmpeg_line(source), stdout=subprocess.PIPE)
        assert process.stdout is not None
        while process.stdout.read(2**20):
            pass
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        assert process.returncode == 0, f"ffmpeg ended with {process.returncode}"
        total += Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - started)
    return total


def passed_frames(made: BenchSet, source: Sequence[str]) -> int:
    """Frames that a pass gives."""
    done = subprocess.run(ffmpeg_line(source), stdout=subprocess.PIPE, check=True)
    height, width = whole_frames(made, drawn(made, 1)[0]).shape[1:3]
    count, rest = divmod(len(done.stdout), height * width * 3)
    assert rest == 0, f"{len(done.stdout)} bytes are no frames of {width}x{height}"
    return count


def whole_frames(made: BenchSet, clip: ClipRef) -> NDArray[np.uint8]:
    """A clip's frames before its square is cut."""
    reader = ClipReader(made.videos, made.config)
    times = [(i + 0.5) / made.config.video.rate for i in range(made.config.video.frames)]
    return reader._proxy_frames(clip.video, times)
