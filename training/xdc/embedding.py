"""One vector a video and modality by the current encoders, streamed to files.

Shapes: N videos, B videos of a block, C clips of a block, D columns.
"""

from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training import distributed
from training.xdc.clips import uniform_clips
from training.xdc.model import XdcModel, taken
from training.xdc.reading import ClipBatch, ClipLoader
from training.xdc.row_files import Float32, writing_rows
from training.xdc.supervision import MODALITIES, Modality
from training.xdc.video_set import Flags, VideoSet

AT_ONCE = 4
"""Batches of training whose clips are embedded at once: without gradients they take no more memory
than one, and small networks a quarter less time."""


@dataclass(frozen=True)
class Features:
    """What `embed_set` found."""

    files: dict[Modality, Path]
    """(N, D) float32 of each modality that this rank was to write."""
    seen_N: Flags
    """Videos whose picture there is, one clip of it read at least."""


def embed_set(
    model: XdcModel,
    videos: VideoSet,
    loader: ClipLoader,
    clips: int,
    device: torch.device,
    folder: Path,
    written: Collection[Modality] = MODALITIES,
) -> Features:
    """Files of (N, D) float32, the mean over `clips` uniformly spaced clips, of pictures those that
    could be read; zero where a video lacks the modality. Written as the blocks come, so memory is
    that of one block.

    All ranks call it together, each embeds its share of every block and writes all rows of the
    modalities that it names in `written` to its `folder`. The encoders are in evaluation mode
    meanwhile, and left as they were.
    """
    size = max(1, AT_ONCE * model.config.sampling.batch_clips // clips)
    bounds = [*range(0, len(videos), size), len(videos)]
    blocks = [range(first, last) for first, last in pairwise(bounds)]
    shares = [block[distributed.own_share(len(block))] for block in blocks]
    plan = ([clip for video in share for clip in uniform_clips(video, clips)] for share in shares)
    was_training = model.training
    model.eval()
    files = {modality: folder / f"{modality}.npy" for modality in written}
    with ExitStack() as stack, torch.no_grad():
        stack.callback(model.train, was_training)
        writers: dict[Modality, Callable[[Float32], None]] = {}
        for modality, path in files.items():
            writing = writing_rows(path, len(videos), model.dim(modality))
            writers[modality] = stack.enter_context(writing)
        seen_N = [np.empty(0, np.bool_)]
        for share, batch in zip(shares, loader.read(plan), strict=True):
            has_C = _clips_with(videos, share, batch, clips)
            rows = _embed_share(model, has_C, batch, clips, device)
            seen_B = torch.from_numpy(has_C["video"].reshape(-1, clips).any(axis=1))
            seen_N.append(distributed.gather_rows(seen_B.to(device))[0].cpu().numpy())
            for modality in MODALITIES:
                whole_BD, _ = distributed.gather_rows(rows[modality])
                if modality in writers:
                    writers[modality](whole_BD.cpu().numpy())
    return Features(files, np.concatenate(seen_N))


def _clips_with(
    videos: VideoSet, share: range, batch: ClipBatch, clips: int
) -> dict[Modality, Flags]:
    """(C,) for each modality, which clips of this rank's videos of a block have it."""
    found: dict[Modality, Flags] = {
        modality: videos.has(modality)[share.start : share.stop].repeat(clips)
        for modality in MODALITIES
    }
    found["video"][batch.unread_places] = False
    return found


def _embed_share(
    model: XdcModel,
    has: dict[Modality, Flags],
    batch: ClipBatch,
    clips: int,
    device: torch.device,
) -> dict[Modality, Tensor]:
    """(B, D) for each modality, of this rank's videos of a block."""
    batch = to_device(batch, device)
    rows = {}
    for modality in MODALITIES:
        has_C = torch.from_numpy(has[modality]).to(device)
        vectors_CD = torch.zeros(len(has_C), model.dim(modality), device=device)
        if has_C.any():
            index_C = torch.nonzero(has_C)[:, 0]
            vectors_CD[index_C] = model.encode(modality, taken(batch, index_C)).float()
        count_B = has_C.view(-1, clips).sum(dim=1).clamp(min=1)
        vectors_BCD = vectors_CD.view(len(count_B), clips, vectors_CD.shape[1])
        rows[modality] = vectors_BCD.sum(dim=1) / count_B[:, None]
    return rows


def to_device(batch: ClipBatch, device: torch.device) -> ClipBatch:
    """The clips where the encoders are."""
    return batch._replace(
        frames_BTHWC=batch.frames_BTHWC.to(device, non_blocking=True),
        mel_BMR=batch.mel_BMR.to(device, non_blocking=True),
    )
