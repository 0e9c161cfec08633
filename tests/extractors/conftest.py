"""Decoding a whole file at once, and the encodings that the tests share."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from extractors.decode import Chunk, Decoded, decode
from extractors.decode_config import DecodeConfig
from extractors.probe import Probe, probe
from extractors.views import View


class Everything(NamedTuple):
    views: dict[View, NDArray[np.generic]]
    """All of each view; a view that the file cannot give is absent."""
    decoded: Decoded
    probed: Probe


def decode_whole(path: str, *views: View, **settings: object) -> Everything:
    """Probes and decodes a file, checking that every view's chunks come in order, gapless."""
    config = DecodeConfig(**settings)
    probed = probe(path, config)
    parts: dict[View, list[NDArray[np.generic]]] = {}
    decoded = None
    for chunk in decode(path, probed, views, config):
        assert decoded is None, "Decoded comes last"
        if isinstance(chunk, Decoded):
            decoded = chunk
            continue
        assert isinstance(chunk, Chunk)
        known = parts.setdefault(chunk.view, [])
        assert chunk.first == sum(map(len, known))
        known.append(chunk.data)
    assert decoded is not None
    whole = {view: np.concatenate(pieces) for view, pieces in parts.items()}
    return Everything(whole, decoded, probed)


@pytest.fixture(scope="session")
def decode_all() -> Callable[..., Everything]:
    """`decode_all(path, *views, **decode_settings)`: everything of a file."""
    return decode_whole


@pytest.fixture(scope="session")
def h264() -> list[str]:
    """H.264 with three B-frames between references and a key frame every two seconds."""
    return ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "3", "-pix_fmt", "yuv420p",
            "-x264-params", "b-adapt=0:keyint=50:min-keyint=50:scenecut=0"]  # fmt: skip
