"""Queries: a file or a sentence goes through the same extractors as the dataset's videos."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.errors import UsageError
from extractors.text import build_text_encoder
from pipeline.config import ExtractConfig
from pipeline.samples import VideoSample
from pipeline.sources import SourceVideo, key_of
from pipeline.worker import Worker


def extract_file(path: str, config: ExtractConfig, device: torch.device) -> VideoSample:
    """The tracks and segments of one file, made as the dataset's were.

    Raises the file's VideoError where it cannot be read, UsageError for a dataset whose tracks were
    imported.
    """
    if not config.wanted and config.speech is None:
        raise UsageError(
            f"{path}: this dataset was imported without the extractors of its tracks, so no file "
            "can be held against it; search by text, or by a clip of its own"
        )
    name = Path(path).name
    video = SourceVideo(key=key_of(name), uri=path, path=name)
    with Worker(config, device) as worker:
        ((progress, sample),) = worker.extract([video])
    if sample is None:
        assert progress.failure is not None
        raise progress.failure
    return sample


def embed_sentences(
    sentences: Sequence[str], config: ExtractConfig, device: torch.device
) -> list[NDArray[np.float32]]:
    """For each sentence its (R, D) rows by the dataset's own text encoder: one, or one a word."""
    if config.text is None:
        raise UsageError("this dataset was extracted without text (extract.text is null)")
    encoder = build_text_encoder(config.text)
    encoder.setup(device)
    try:
        found = encoder.encode_rows(sentences)
        return np.split(found.rows, found.offsets[1:-1]) if sentences else []
    finally:
        encoder.close()
