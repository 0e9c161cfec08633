"""Queries: a file or a sentence goes through the same extractors as the dataset's videos."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.errors import UsageError
from extractors.text import SentenceEncoder
from pipeline.config import ExtractConfig
from pipeline.samples import VideoSample
from pipeline.sources import SourceVideo, key_of
from pipeline.worker import Worker


def extract_file(path: str, config: ExtractConfig, device: torch.device) -> VideoSample:
    """The tracks and segments of one file, made as the dataset's were.

    Raises the file's VideoError where it cannot be read.
    """
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
) -> NDArray[np.float32]:
    """(S, D) vectors of the dataset's own sentence encoder."""
    if config.text is None:
        raise UsageError("this dataset was extracted without text (extract.text is null)")
    encoder = SentenceEncoder(config.text)
    encoder.setup(device)
    try:
        return encoder.encode(sentences)
    finally:
        encoder.close()
