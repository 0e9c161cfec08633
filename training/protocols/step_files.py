"""Annotations of steps over time: CrossTask and MiningYouTube, in their own files and in MCN's.

Shapes: T seconds, K steps.
"""

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from extractors.errors import UsageError
from pipeline import storage

BLOCK = 5
"""Lines of a task in CrossTask's task files, before the empty one."""


@dataclass(frozen=True)
class AnnotatedVideo:
    """A video whose steps are annotated."""

    video: str
    """Its YouTube id: the key it has in a dataset."""
    task: str
    """Empty where the dataset has no tasks."""
    steps: tuple[str, ...]
    """Names, in their canonical order."""
    url: str
    """The file of its annotation, `.csv` or `.npy`."""


def read_crosstask(annotations: str, tasks: str) -> list[AnnotatedVideo]:
    """CrossTask: a folder of `<task>_<video>.csv` (its release) or `.npy` (as MCN used it).

    `tasks` is `tasks_primary.txt` of the release, or a JSON of {task: [step, …]}. Videos of other
    tasks are left out; where a video has both files the `.npy` counts. Sorted by task and video.
    Raises UsageError where nothing is left.
    """
    steps = read_step_names(tasks)
    found: dict[tuple[str, str], AnnotatedVideo] = {}
    for name in storage.names(annotations):  # sorted: .csv before .npy
        stem, _, suffix = name.rpartition(".")
        task, _, video = stem.partition("_")
        if suffix in ("csv", "npy") and task in steps and video:
            url = storage.join(annotations, name)
            found[task, video] = AnnotatedVideo(video, task, steps[task], url)
    if not found:
        raise UsageError(
            f"{annotations}: no <task>_<video>.csv or .npy of a task that {tasks} names"
        )
    return [found[key] for key in sorted(found)]


def read_mining_youtube(labels: str, steps: str) -> list[AnnotatedVideo]:
    """MiningYouTube: a folder of `<video>.npy`, (T, K), and a JSON of {video: [step, …]}.

    Sorted by video. Raises UsageError where a video has no steps or the folder no labels.
    """
    names = read_step_names(steps)
    videos = [name[:-4] for name in storage.names(labels) if name.endswith(".npy")]
    if not videos:
        raise UsageError(f"{labels}: no labels <video>.npy")
    unknown = [video for video in videos if video not in names]
    if unknown:
        raise UsageError(f"{steps}: has no steps of video {unknown[0]}, whose labels exist")
    return [
        AnnotatedVideo(video, "", names[video], storage.join(labels, f"{video}.npy"))
        for video in videos
    ]


def read_labels(video: AnnotatedVideo, seconds: int) -> NDArray[np.bool_]:
    """(T, K): which steps happen in which second.

    A `.npy` has its own T. A `.csv` of `step,start,end` lines, steps from 1, gives T = `seconds`
    and marks the seconds floor(start) to ceil(end) (CrossTask released code); what lies beyond is
    cut. Raises UsageError where the file does not fit the steps.
    """
    if video.url.endswith(".npy"):
        return _read_npy(video)
    labels_TK = np.zeros((seconds, len(video.steps)), dtype=bool)
    lines = storage.read_bytes(video.url).decode("utf-8-sig").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            step, start, end = (float(value) for value in line.split(","))
        except ValueError as err:
            raise UsageError(
                f"{video.url}, line {number}: {line!r} is no `step,start,end`"
            ) from err
        if step not in range(1, len(video.steps) + 1) or not 0 <= start <= end < math.inf:
            raise UsageError(
                f"{video.url}, line {number}: {line!r}: steps go from 1 to {len(video.steps)}, "
                "times from 0 up"
            )
        labels_TK[math.floor(start) : math.ceil(end), int(step) - 1] = True
    return labels_TK


def read_step_names(url: str) -> Mapping[str, tuple[str, ...]]:
    """Step names by task, or by video: a JSON of lists, or CrossTask's task file.

    The latter has blocks of five lines, task, title, URL, number of steps, steps joined by
    commas, and an empty line. Raises UsageError where the file is neither.
    """
    try:
        text = storage.read_bytes(url).decode("utf-8-sig")
    except FileNotFoundError as err:
        raise UsageError(f"{url}: no such file") from err
    except UnicodeDecodeError as err:
        raise UsageError(f"{url}: is not UTF-8 text: {err}") from err
    if url.endswith(".json"):
        return _json_steps(url, text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    blocks = [lines[first : first + BLOCK] for first in range(0, len(lines), BLOCK)]
    steps = {}
    for block in blocks:
        names = tuple(name.strip() for name in block[-1].split(","))
        if len(block) != BLOCK or block[3] != str(len(names)):
            raise UsageError(
                f"{url}: at task {block[0]!r}: wanted are task, title, URL, number of steps and "
                "as many steps joined by commas, one a line"
            )
        steps[block[0]] = names
    return steps


def write_probs(folder: str, video: str, scores_TK: NDArray[np.floating]) -> None:
    """Publishes `<video>.probs`: a line a second, the log-softmax over the steps, K numbers.

    The input of MiningYouTube's Viterbi aligner (video_alignment), as MCN wrote it.
    """
    log_TK = log_softmax(scores_TK.astype(np.float64), axis=1)
    lines = [" ".join(f"{value:.6f}" for value in row_K) for row_K in log_TK]
    storage.publish_bytes(storage.join(folder, f"{video}.probs"), "\n".join([*lines, ""]).encode())


def _read_npy(video: AnnotatedVideo) -> NDArray[np.bool_]:
    try:
        array = np.load(io.BytesIO(storage.read_bytes(video.url)), allow_pickle=False)
    except (ValueError, EOFError) as err:
        raise UsageError(f"{video.url}: not an array: {err}") from err
    if array.ndim != 2 or not len(array) or array.shape[1] != len(video.steps):
        raise UsageError(
            f"{video.url}: (seconds, {len(video.steps)}) is wanted, one column a step, "
            f"got {array.shape}"
        )
    labels_TK: NDArray[np.bool_] = array > 0
    return labels_TK


def _json_steps(url: str, text: str) -> dict[str, tuple[str, ...]]:
    try:
        content = json.loads(text)
    except ValueError as err:
        raise UsageError(f"{url}: not JSON: {err}") from err
    if not isinstance(content, dict) or not all(
        isinstance(steps, list) and steps and all(isinstance(step, str) for step in steps)
        for steps in content.values()
    ):
        raise UsageError(f"{url}: wanted is {{task or video: [step, …]}}, lists of texts")
    return {name: tuple(steps) for name, steps in content.items()}
