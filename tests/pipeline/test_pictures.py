import base64
import io

import numpy as np
import pytest
from PIL import Image

from pipeline.pictures import (
    LINE_POINTS,
    MAX_COLUMNS,
    SIMILAR_ROWS,
    contact_sheet,
    heat_map,
    norms,
    self_similarity,
)


def pixels(uri: str) -> np.ndarray:
    kind, _, content = uri.partition(";base64,")
    assert kind == "data:image/png"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_time_goes_right_and_bands_go_up() -> None:
    rows = np.zeros((50, 8), np.float16)
    rows[40, 6] = 1  # late and high
    picture = pixels(heat_map(rows)).sum(axis=-1)
    assert picture.shape == (8, 50)
    bright = np.unravel_index(picture.argmax(), picture.shape)
    assert bright == (1, 40)


def test_long_tracks_are_averaged_down() -> None:
    rows = np.repeat([0.0, 1.0], 5000)[:, None].astype(np.float16)
    picture = pixels(heat_map(rows)).sum(axis=-1)
    assert picture.shape == (1, MAX_COLUMNS)
    assert (picture[0, : MAX_COLUMNS // 2] < picture[0, -1]).all()
    assert len(norms(rows)) == LINE_POINTS
    np.testing.assert_allclose(norms(rows)[[0, -1]], [0, 1])


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_silence_and_what_is_no_number_make_a_picture(value: float) -> None:
    assert pixels(heat_map(np.full((5, 3), value, np.float32))).shape == (3, 5, 3)


def test_moments_that_are_alike_are_bright() -> None:
    rows = np.repeat(np.array([[1, 0], [0, 1], [1, 0]], np.float32), 20, axis=0)
    uri = self_similarity(rows)
    assert uri is not None
    picture = pixels(uri).sum(axis=-1)
    assert picture.shape == (60, 60)
    assert picture[0, 59] == picture[0, 0] > picture[0, 30]
    long = self_similarity(np.random.default_rng(0).normal(size=(1000, 4)))
    assert long is not None
    assert pixels(long).shape[:2] == (SIMILAR_ROWS, SIMILAR_ROWS)


def test_rows_that_do_not_differ_have_no_likeness() -> None:
    assert self_similarity(np.ones((9, 4), np.float32)) is None
    assert self_similarity(np.eye(2, dtype=np.float32)) is None


def test_norms_are_of_rows() -> None:
    np.testing.assert_allclose(norms(np.array([[3, 4], [0, 2]], np.float16)), [5, 2])


def test_a_damaged_proxy_gives_its_reason() -> None:
    ((time, thumbnail),) = contact_sheet(b"no video", "/x", [0.5])
    assert time == 0.5
    assert thumbnail.data_uri is None
    assert str(thumbnail.reason).startswith("the proxy cannot be read")
