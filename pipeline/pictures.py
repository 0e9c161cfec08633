"""Small pictures of what is in a sample, as data URIs: tracks as heat maps, frames of its video.

T rows, D dimensions.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from extractors.errors import VideoError
from extractors.proxy_reader import ProxyReader
from extractors.thumbnails import Thumbnail, extract_thumbnails

MAX_COLUMNS = 1200
"""Of a heat map: longer tracks are averaged down."""
SIMILAR_ROWS = 128
LINE_POINTS = 400
# from dark to bright, evenly bright to the eye and to one who cannot tell colours: magma
RAMP = np.array(
    [[0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122],
     [229, 80, 100], [251, 135, 97], [254, 194, 135], [252, 253, 191]], np.float64,
)  # fmt: skip


def heat_map(rows: NDArray[np.generic]) -> str:
    """A PNG of (T, D): time to the right, column 0 at the bottom, dark is low."""
    values = _pooled(rows, MAX_COLUMNS).T[::-1]
    low, high = np.percentile(values, [0.5, 99.5])  # one click must not darken the rest
    return _png((values - low) / max(high - low, 1e-9))


def self_similarity(rows: NDArray[np.generic]) -> str | None:
    """A PNG of the cosines of all pairs of rows, once their mean is taken off: where a video comes
    back to something, and where it changes. None where the rows do not differ."""
    pooled = _pooled(rows, SIMILAR_ROWS)
    pooled = pooled - pooled.mean(axis=0)
    lengths = np.linalg.norm(pooled, axis=1, keepdims=True)
    if len(pooled) < 3 or lengths.max() < 1e-6:
        return None
    unit = pooled / np.maximum(lengths, 1e-9)
    return _png((unit @ unit.T + 1) / 2)


def norms(rows: NDArray[np.generic]) -> NDArray[np.float64]:
    """The L2 norm of each row, averaged down to at most LINE_POINTS."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    return _pooled(lengths[:, None], LINE_POINTS)[:, 0]


def contact_sheet(
    proxy: bytes | None, uri: str, times: Sequence[float]
) -> list[tuple[float, Thumbnail]]:
    """The frame shown at each time: of the proxy if there is one, else of the video itself if it
    can be reached; where there is none, why."""
    if not proxy:
        found = extract_thumbnails((uri, time) for time in times)
        return [(time, found[uri, time]) for time in times]
    try:
        frames = ProxyReader(proxy).read(times)
    except VideoError as err:
        return [(time, Thumbnail(reason=f"the proxy {err.message}")) for time in times]
    pictures = (_jpeg(frame) for frame in frames)
    return [(time, Thumbnail(uri)) for time, uri in zip(times, pictures, strict=True)]


def _pooled(rows: NDArray[np.generic], most: int) -> NDArray[np.float64]:
    """At most so many rows, each the mean of neighbours; what is not finite counts as 0."""
    finite = np.nan_to_num(rows.astype(np.float32), posinf=0, neginf=0)
    if len(finite) <= most:
        return finite.astype(np.float64)
    edges = np.linspace(0, len(finite), most + 1).astype(int)
    sums = np.add.reduceat(finite, edges[:-1], axis=0, dtype=np.float64)
    return np.asarray(sums / np.diff(edges)[:, None])


def _png(levels: NDArray[np.float64]) -> str:
    """A picture of values in 0..1."""
    places = np.clip(levels, 0, 1) * (len(RAMP) - 1)
    colours = [np.interp(places, np.arange(len(RAMP)), channel) for channel in RAMP.T]
    pixels = np.stack(colours, axis=-1).round().astype(np.uint8)
    return _data_uri(Image.fromarray(pixels), "png")


def _jpeg(frame: NDArray[np.uint8]) -> str:
    return _data_uri(Image.fromarray(frame), "jpeg")


def _data_uri(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
