"""A run on YouCook2 and MSR-VTT: captions against clips, and against whole videos.

Shapes: N clips, D embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from training.checkpoints import Run, load_run
from training.embedding import ClipEmbeddings, embed_clips
from training.evaluation import caption_rows
from training.protocols.caption_sets import (
    CaptionedClip,
    caption_clip_inputs,
    read_captioned_clips,
)
from training.retrieval import RetrievalRow, check_any_row, retrieval_rows
from training.retrieval_metrics import Recall, full_video_retrieval

YOUCOOK2_FRAMES, MSRVTT_FRAMES = 5 * 1024, 3 * 1024
"""Rows of spectrogram that count in evaluation, 10 ms each (MCN released code)."""
PAIRS = (("text", "video"), ("text", "audio"), ("text", "video+audio"), ("video+audio", "text"))


@dataclass(frozen=True)
class CaptionRetrieval:
    """What was measured on a set of captioned clips."""

    clips: int
    with_audio: int
    rows: list[RetrievalRow]
    videos: dict[str, Recall]
    """Retrieval of whole videos by form, see `full_video_retrieval`; empty for MSR-VTT."""


def evaluate_youcook2(
    run: str,
    data: str,
    trust_pickle: bool,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    target: str = "video+audio",
    dataset: str | None = None,
    device: torch.device | None = None,
    complete: bool = False,
    count_missing: bool = False,
    total: int | None = None,
) -> CaptionRetrieval:
    """Zero-shot retrieval on YouCook2's validation clips, and of its full videos by `target`.

    Captions go through the sentence encoder of the run's dataset. `dataset`, `complete` and
    `total` (officially 3350) as in `caption_rows` and `retrieval_rows`; `count_missing` is a
    `total` of the clips in the file. Raises UsageError where widths do not agree with the run's.
    """
    device = device or torch.device("cpu")
    loaded = load_run(run, device)
    clips = read_captioned_clips(data, trust_pickle)
    embedded = embed_captioned_clips(loaded, clips, YOUCOOK2_FRAMES, device, dataset)
    denominator = len(clips) if count_missing and total is None else total
    scores_NN = embedded.joined(["text"]) @ embedded.joined(target.split("+")).T
    rows = retrieval_rows(embedded, pairs, complete, denominator)
    check_any_row(rows, pairs)
    return CaptionRetrieval(
        clips=len(clips),
        with_audio=int(embedded.present["audio"].sum()),
        rows=rows,
        videos=full_video_retrieval(scores_NN, [clip.video for clip in clips]),
    )


def evaluate_msrvtt(
    run: str,
    data: str,
    trust_pickle: bool,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    dataset: str | None = None,
    device: torch.device | None = None,
    complete: bool = False,
    count_missing: bool = False,
    total: int | None = None,
) -> CaptionRetrieval:
    """Zero-shot retrieval on MSR-VTT's test clips (1000, of which 968 have sound).

    The official numbers leave the clips without sound out of the candidates (`complete`) and
    count them as misses (`total` = 1000); MedR is over the others. Whether the target is video
    or video+audio differs between the released scripts: name it by `pairs`. Otherwise as
    `evaluate_youcook2`.
    """
    device = device or torch.device("cpu")
    loaded = load_run(run, device)
    clips = read_captioned_clips(data, trust_pickle)
    embedded = embed_captioned_clips(loaded, clips, MSRVTT_FRAMES, device, dataset)
    denominator = len(clips) if count_missing and total is None else total
    rows = retrieval_rows(embedded, pairs, complete, denominator)
    check_any_row(rows, pairs)
    return CaptionRetrieval(len(clips), int(embedded.present["audio"].sum()), rows, {})


def embed_captioned_clips(
    run: Run,
    clips: Sequence[CaptionedClip],
    frames: int,
    device: torch.device,
    dataset: str | None = None,
) -> ClipEmbeddings:
    """Embeds clips and captions; `frames` rows of spectrogram count, whatever training took."""
    captions = caption_rows(run, [clip.caption for clip in clips], device, dataset)
    most = run.config.sampling.max_text_rows
    inputs = [
        caption_clip_inputs(clip, caption_RE[:most], run.model.dims, frames)
        for clip, caption_RE in zip(clips, captions, strict=True)
    ]
    sampling = run.config.sampling.model_copy(update={"audio_frames": frames})
    config = run.config.model_copy(update={"sampling": sampling})
    return embed_clips(run.model, inputs, config, device)
