"""Our reader's frames of random clips against PyAV's and torchvision's.

Pictures alone, on one core. The peers read files that hold no sound, opened for each clip: seek,
decode, rgb24, the same square. All must give the same frames, else the benchmark stops. PyAV is of
our own environment; `torchvision.io.read_video` is no longer in the torchvision that we use, so it
needs an environment of its own:

    python3.11 -m venv PEER_VENV
    PEER_VENV/bin/pip install torch==2.1.2 torchvision==0.16.2 av==12.3.0 'numpy<2'
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from measuring import Command, Cost, alternate, ratio, run, timed
from numpy.typing import NDArray
from xdc_reading import Found, Say, drawn
from xdc_sets import BenchSet, write_proxies

from training.xdc.clips import ClipRef, clip_start
from training.xdc.reading import ClipReader, cut_square


@dataclass(frozen=True)
class FileClip:
    """A clip as a peer is told of it."""

    clip: ClipRef
    path: str
    first: int
    """Number of its first frame."""


PEER = """
import json, os, sys, time
import numpy as np, torch
from torchvision.io import read_video
torch.set_num_threads(1)
task = json.load(open(sys.argv[1]))
rate, frames, size = task["rate"], task["frames"], task["size"]
def read(clip):
    # a start between two frames would give the earlier one as well
    start, end = clip["first"] / rate + 1e-6, (clip["first"] + frames - 0.75) / rate
    found = read_video(clip["path"], start, end, pts_unit="sec")[0]
    height, width = found.shape[1:3]
    top = min(int(clip["top"] * (height - size + 1)), height - size)
    left = min(int(clip["left"] * (width - size + 1)), width - size)
    found = found[:, top:top + size, left:left + size]
    return (found.flip(2) if clip["flip"] else found).contiguous()
read(task["clips"][0])
before, started = os.times(), time.perf_counter()
found = [read(clip) for clip in task["clips"]]
after = os.times()
cpu = sum(after[:4]) - sum(before[:4])
np.save(sys.argv[2], torch.stack(found).numpy())
json.dump({"cpu": cpu, "wall": time.perf_counter() - started}, open(sys.argv[3], "w"))
"""


def measure_peers(
    made: BenchSet, count: int, python: Path | None, folder: Path, core: int, repeats: int, say: Say
) -> Found:
    """Our reader's frames / the same frames by PyAV and by torchvision: clips per CPU second."""
    files = write_proxies(made, folder / f"{made.name}_peers")
    told = [file_clip(made, clip, files[clip.video]) for clip in drawn(made, count)]
    reader = ClipReader(made.videos, made.config)

    def ours() -> NDArray[np.uint8]:
        return np.stack([np.ascontiguousarray(reader.frames(each.clip)) for each in told])

    def pyav() -> NDArray[np.uint8]:
        return np.stack([pyav_frames(made, each) for each in told])

    names = [
        f"{made.name}: {who}, {count} clips' frames" for who in ("ours", "PyAV", "torchvision")
    ]
    parts: dict[str, Callable[[], Cost]] = {
        names[0]: lambda: timed(ours),
        names[1]: lambda: timed(pyav),
    }
    if python is None:
        say("torchvision: skipped, for want of --peer-python PYTHON")
    else:
        parts[names[2]] = lambda: torchvision_cost(made, told, python, folder, core)
    costs = alternate(parts, repeats, say)
    check_same(ours(), pyav(), 0, "PyAV")
    if python is not None:
        # an older libswscale may round another way
        check_same(ours(), np.load(folder / "torchvision.npy"), 2, "torchvision")
    cpu = {part: [cost.cpu for cost in runs] for part, runs in costs.items()}
    return costs, [
        ratio(f"clips per CPU second, ours / {name.partition(': ')[2].partition(',')[0]}, "
              f"{made.name}", cpu[name], cpu[names[0]], at_least=2.0)
        for name in list(parts)[1:]
    ]  # fmt: skip


def file_clip(made: BenchSet, clip: ClipRef, path: Path) -> FileClip:
    """The frame that is shown half a frame after the clip's start."""
    video = made.config.video
    start = clip_start(clip.time, float(made.videos.duration_N[clip.video]), video.seconds)
    first = int(np.floor(start * video.rate + 0.5 + 1e-6))
    with av.open(str(path)) as container:
        held = container.streams.video[0].frames
    return FileClip(clip, str(path), max(0, min(first, held - video.frames)))


def pyav_frames(made: BenchSet, told: FileClip) -> NDArray[np.uint8]:
    """(T, size, size, 3) by PyAV as its documentation has it: open, seek, decode."""
    video = made.config.video
    found = np.stack(list(seek_and_decode(told.path, told.first, video.frames, video.rate)))
    return np.ascontiguousarray(cut_square(found, told.clip, video.short_side, video.size))


def seek_and_decode(path: str, first: int, count: int, rate: float) -> Iterator[NDArray[np.uint8]]:
    """(height, width, 3) each."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        base = float(stream.time_base or 0)
        container.seek(round(first / rate / base), stream=stream)
        for frame in container.decode(stream):
            number = round((frame.pts or 0) * base * rate)
            if number >= first + count:
                return
            if number >= first:
                yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def torchvision_cost(
    made: BenchSet, told: Sequence[FileClip], python: Path, folder: Path, core: int
) -> Cost:
    """Of reading, not of starting and of loading libraries."""
    video = made.config.video
    clips = [
        {"path": each.path, "first": each.first, "top": each.clip.top, "left": each.clip.left,
         "flip": each.clip.flip}
        for each in told
    ]  # fmt: skip
    task, frames, result = (folder / f"torchvision.{kind}" for kind in ("task", "npy", "json"))
    asked = {"rate": video.rate, "frames": video.frames, "size": video.size, "clips": clips}
    task.write_text(json.dumps(asked))
    # a video that is shorter than a clip would give fewer frames: our corpora have none
    line = [str(python), "-W", "ignore", "-c", PEER, str(task), str(frames), str(result)]
    run(Command(line, {core}), folder / "torchvision.log")
    return Cost(**json.loads(result.read_text()))


def check_same(ours: NDArray[np.uint8], theirs: NDArray[np.uint8], most: int, who: str) -> None:
    """Stops where a reader gives other frames."""
    assert ours.shape == theirs.shape, f"{who}: {theirs.shape}, ours {ours.shape}"
    apart = int(np.abs(ours.astype(np.int16) - theirs).max())
    assert apart <= most, f"{who}: frames differ by {apart}"
