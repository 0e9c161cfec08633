"""One vector a video and modality by the current encoders, streamed to files.

Shapes: N videos, B videos of a block, C clips of a block, D columns.
"""

from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from training import distributed
from training.xdc.clips import uniform_clips
from training.xdc.model import XdcModel, taken
from training.xdc.reading import ClipBatch, ClipLoader
from training.xdc.row_files import Float32, writing_rows
from training.xdc.supervision import MODALITIES, Modality
from training.xdc.video_set import VideoSet


def embed_set(
    model: XdcModel,
    videos: VideoSet,
    loader: ClipLoader,
    clips: int,
    device: torch.device,
    folder: Path,
) -> dict[Modality, Path]:
    """Files of (N, D) float32, the mean over `clips` uniformly spaced clips; zero where a video
    lacks the modality. Written by rank 0 as the blocks come, so memory is that of one block.

    All ranks call it together, each embeds its share of every block. The encoders are in
    evaluation mode meanwhile, and left as they were.
    """
    size = max(1, model.config.sampling.batch_clips // clips)
    bounds = [*range(0, len(videos), size), len(videos)]
    blocks = [range(first, last) for first, last in pairwise(bounds)]
    shares = [block[distributed.own_share(len(block))] for block in blocks]
    plan = ([clip for video in share for clip in uniform_clips(video, clips)] for share in shares)
    was_training = model.training
    model.eval()
    files = {modality: folder / f"{modality}.npy" for modality in MODALITIES}
    with ExitStack() as stack, torch.no_grad():
        stack.callback(model.train, was_training)
        writers: dict[Modality, Callable[[Float32], None]] = {}
        if distributed.world()[0] == 0:
            for modality, path in files.items():
                writing = writing_rows(path, len(videos), model.dim(modality))
                writers[modality] = stack.enter_context(writing)
        for share, batch in zip(shares, loader.read(plan), strict=True):
            rows = _embed_share(model, videos, share, batch, clips, device)
            for modality in MODALITIES:
                whole_BD, _ = distributed.gather_rows(rows[modality])
                if writers:
                    writers[modality](whole_BD.cpu().numpy())
    return files


def _embed_share(
    model: XdcModel,
    videos: VideoSet,
    share: range,
    batch: ClipBatch,
    clips: int,
    device: torch.device,
) -> dict[Modality, Tensor]:
    """(B, D) for each modality, of this rank's videos of a block."""
    batch = to_device(batch, device)
    rows = {}
    for modality in MODALITIES:
        has_B = torch.from_numpy(videos.has(modality)[share.start : share.stop]).to(device)
        has_C = has_B.repeat_interleave(clips)
        vectors_CD = torch.zeros(len(has_C), model.dim(modality), device=device)
        if has_C.any():
            index_C = torch.nonzero(has_C)[:, 0]
            vectors_CD[index_C] = model.encode(modality, taken(batch, index_C)).float()
        rows[modality] = vectors_CD.view(len(share), clips, -1).mean(dim=1)
    return rows


def to_device(batch: ClipBatch, device: torch.device) -> ClipBatch:
    """The clips where the encoders are."""
    return ClipBatch(
        batch.frames_BTHWC.to(device, non_blocking=True),
        batch.mel_BMR.to(device, non_blocking=True),
    )
