"""The plane that clips are drawn in. The map of a whole index: serving/test_app.py."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.metrics import silhouette_score

from index.space_map import Method, map_methods, project

GROUPS, SIZE, DIMENSION = 6, 25, 32


@pytest.fixture
def groups() -> np.ndarray:
    """Rows around a few centres that no neighbour joins."""
    rng = np.random.default_rng(0)
    centres_CD = 4 * rng.normal(size=(GROUPS, DIMENSION))
    rows_ND = np.repeat(centres_CD, SIZE, axis=0) + rng.normal(size=(GROUPS * SIZE, DIMENSION))
    return rows_ND.astype(np.float32)


def test_both_methods_are_offered_where_umap_is_installed() -> None:
    assert map_methods() == ["pca", "umap"]


@pytest.mark.parametrize(("method", "apart"), [("pca", 0.2), ("umap", 0.8)])
def test_groups_are_apart_in_the_plane(groups: np.ndarray, method: Method, apart: float) -> None:
    drawn = np.arange(len(groups))
    plane_N2 = project(groups, drawn, method)
    assert np.abs(plane_N2).max() == pytest.approx(1.0)
    assert silhouette_score(plane_N2, drawn // SIZE) > apart
    assert_array_equal(project(groups, drawn, method), plane_N2)


@pytest.mark.parametrize("method", ["pca", "umap"])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 6])
def test_few_clips_have_a_place(groups: np.ndarray, method: Method, count: int) -> None:
    plane_N2 = project(groups[:count], np.arange(count), method)
    assert plane_N2.shape == (count, 2)
    assert np.isfinite(plane_N2).all()


@pytest.mark.parametrize("method", ["pca", "umap"])
def test_clips_that_are_all_alike_are_in_the_middle(method: Method) -> None:
    plane_N2 = project(np.ones((20, DIMENSION), np.float32), np.arange(20), method)
    assert_array_equal(plane_N2, np.zeros((20, 2)))
