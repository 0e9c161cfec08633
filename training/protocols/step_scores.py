"""A run on CrossTask and MiningYouTube: where the steps of a task are in a video.

Shapes: T seconds, K steps, D embedding.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax

from extractors.errors import UsageError
from pipeline.samples import VideoSample, read_dataset
from training.checkpoints import Run, load_run
from training.clips import Clip, ClipInputs, Float32, clip_inputs
from training.embedding import EMBED_CLIPS, embed_clips
from training.evaluation import embed_captions, tracks_of
from training.localisation_metrics import (
    FoundSteps,
    Overlap,
    covering_path,
    exactly_one_path,
    found_steps,
    macro_recall,
    mean_overlap,
    micro_recall,
    segment_overlap,
)
from training.protocols.step_files import AnnotatedVideo, read_labels, write_probs


@dataclass(frozen=True)
class ScoringConfig:
    """How a second is scored against a step."""

    target: str = "video+audio"
    """Modalities of the second, joined by '+'."""
    visual_seconds: float = 1.0
    """Length of the window of the picture (official: 1, the features of that second)."""
    audio_seconds: float = 8.0
    """Length of the window of the sound (official: 8), of which the run's `audio_frames` count.
    For both see `window_around`."""
    log_softmax: bool = False
    """Decode log-softmax values over the steps of each second, not the scores themselves: a
    second that fits no step better than another then weighs little. Official: false for
    CrossTask, true for MiningYouTube."""


@dataclass(frozen=True)
class Localisation:
    """What was measured on annotated videos."""

    videos: int
    """Evaluated: in the dataset, with at least one step that occurs."""
    absent: int
    """Annotated videos that the dataset does not hold; left out."""
    too_short: int
    """Evaluated videos with fewer seconds than steps; all their steps count as missed."""
    steps: int
    """Steps that occur, over all evaluated videos."""
    recall_per_video: float
    """macro: hits / steps of a video, mean over a task's videos, mean over tasks (MCN)."""
    recall_per_task: float
    """micro: hits / steps summed over a task's videos, mean over tasks (CrossTask's authors)."""
    chance_per_video: float
    chance_per_task: float
    """Of a random placement in the right order."""
    tasks: dict[str, float]
    """recall_per_video of each task."""
    one_second: Overlap
    """IoU and IoD of the one second of each step."""
    covering: Overlap
    """IoU and IoD where every second belongs to a step (no background, no length model)."""


@dataclass(frozen=True)
class _VideoResult:
    found: FoundSteps
    one_second: Overlap
    covering: Overlap
    too_short: bool


def evaluate_localisation(
    run: str,
    dataset: str,
    annotated: Sequence[AnnotatedVideo],
    scoring: ScoringConfig | None = None,
    probs: str | None = None,
    device: torch.device | None = None,
) -> Localisation:
    """Zero-shot localisation of ordered steps in the videos of a dataset, by key.

    Step names go through the dataset's own sentence encoder. Scores (`score_seconds`) are decoded
    to exactly one second a step. `probs` is a folder in which `<video>.probs` are
    published, for MiningYouTube's own aligner. Raises UsageError where the dataset holds none of
    the annotated videos, or none of their steps occurs.
    """
    device = device or torch.device("cpu")
    scoring = scoring or ScoringConfig()
    loaded = load_run(run, device)
    by_video: dict[str, list[AnnotatedVideo]] = {}
    for video in annotated:
        by_video.setdefault(video.video, []).append(video)
    names = list(dict.fromkeys(name for video in annotated for name in video.steps))
    steps = dict(zip(names, embed_captions(loaded, names, device, dataset), strict=True))
    present, results = 0, []
    for sample in read_dataset(dataset, tracks_of(loaded.config)):
        for video in by_video.get(sample.key, ()):
            present += 1
            labels_TK = read_labels(video, math.ceil(sample.duration))
            steps_KD = np.stack([steps[name] for name in video.steps])
            scores_TK = score_seconds(loaded, sample, steps_KD, len(labels_TK), scoring, device)
            if probs is not None:
                write_probs(probs, video.video, scores_TK)
            decoded_TK = log_softmax(scores_TK, axis=1) if scoring.log_softmax else scores_TK
            results.append(_evaluate_video(video, labels_TK, decoded_TK))
    measured = [result for result in results if result is not None]
    if not measured:
        raise UsageError(
            f"{dataset}: holds {present} of the {len(annotated)} annotated videos, and no step "
            "occurs in them; a video's key must be its YouTube id"
        )
    return _summary(measured, absent=len(annotated) - present)


def score_seconds(
    run: Run,
    sample: VideoSample,
    steps_KD: Float32,
    seconds: int,
    scoring: ScoringConfig,
    device: torch.device,
) -> NDArray[np.float32]:
    """(T, K): each second of a video against each step, as the logits of training: dot products
    in the joint space, divided by the model's temperature.

    The picture of a second is cut from its own short window, its sound from a long one, both
    moved inside the video at the borders (MCN released code: 8 s of sound). A second without any
    of the target's modalities scores 0.
    """
    modalities = scoring.target.split("+")
    inputs = second_inputs(run, sample, seconds, scoring)
    with torch.inference_mode():
        scaled_KD = steps_KD * np.float32(run.model.scale().item())
    return np.concatenate(
        [
            embed_clips(run.model, block, run.config, device).joined(modalities) @ scaled_KD.T
            for block in _in_blocks(inputs, EMBED_CLIPS)
        ]
    )


def second_inputs(
    run: Run, sample: VideoSample, seconds: int, scoring: ScoringConfig
) -> Iterator[ClipInputs]:
    """What the model takes of each second; transcripts are left out."""
    sampling, dims = run.config.sampling, run.model.dims
    silent = replace(sample, segments=(), text=None)
    for second in range(seconds):
        seen = window_around(second, scoring.visual_seconds, sample.duration)
        heard = window_around(second, scoring.audio_seconds, sample.duration)
        visual = clip_inputs(silent, seen, sampling, dims)
        yield replace(visual, spectrogram=clip_inputs(silent, heard, sampling, dims).spectrogram)


def window_around(second: int, length: float, duration: float) -> Clip:
    """`length` seconds around the middle of a second, from a whole second on, in [0, duration).

    For 8 it is [second - 4, second + 4), for 1 the second itself. At the borders it is moved
    inside; it is the whole video where that is shorter.
    """
    start = max(0.0, min(math.floor(second + 0.5 - length / 2), duration - length))
    return Clip(start, min(start + length, duration))


def _evaluate_video(
    video: AnnotatedVideo, labels_TK: NDArray[np.bool_], scores_TK: NDArray[np.floating]
) -> _VideoResult | None:
    """None where no step occurs."""
    T, K = scores_TK.shape
    one_TK, all_TK = np.zeros((T, K), dtype=bool), np.zeros((T, K), dtype=bool)
    seconds_K = None
    if T >= K:  # else neither decoding exists, and nothing is found
        seconds_K = exactly_one_path(scores_TK)
        one_TK[seconds_K, np.arange(K)] = True
        all_TK[np.arange(T), covering_path(scores_TK)] = True
    found = found_steps(labels_TK, seconds_K, video.video, video.task)
    one_second, covering = segment_overlap(labels_TK, one_TK), segment_overlap(labels_TK, all_TK)
    if found is None or one_second is None or covering is None:
        return None
    return _VideoResult(found, one_second, covering, too_short=seconds_K is None)


def _summary(results: Sequence[_VideoResult], absent: int) -> Localisation:
    found = [result.found for result in results]
    tasks = sorted({video.task for video in found} - {""})
    return Localisation(
        videos=len(found),
        absent=absent,
        too_short=sum(result.too_short for result in results),
        steps=sum(video.steps for video in found),
        recall_per_video=macro_recall(found),
        recall_per_task=micro_recall(found),
        chance_per_video=macro_recall(found, chance=True),
        chance_per_task=micro_recall(found, chance=True),
        tasks={task: macro_recall([v for v in found if v.task == task]) for task in tasks},
        one_second=mean_overlap([result.one_second for result in results]),
        covering=mean_overlap([result.covering for result in results]),
    )


def _in_blocks(items: Iterable[ClipInputs], size: int) -> Iterator[list[ClipInputs]]:
    block: list[ClipInputs] = []
    for item in items:
        block.append(item)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
