"""Which rows belong to an interval."""

import itertools

import numpy as np
import pytest

from extractors.tracks import Track

TRACK = Track(np.arange(10)[:, None], start=0.5, hop=1.0)


@pytest.mark.parametrize(("start", "end", "rows"), [
    (0, 10, range(10)),
    (2, 4, [2, 3]),
    (2.5, 4.5, [2, 3]),      # half open: the centre at 4.5 is not in it
    (-5, 1, [0]),
    (9, 99, [9]),
    (3.6, 3.9, [3]),         # between two centres: the row that owns the middle
    (20, 30, []),
    (-3, -1, []),
])  # fmt: skip
def test_the_rows_whose_centre_lies_in_the_interval(start, end, rows):
    assert TRACK.between(start, end)[:, 0].tolist() == list(rows)


def test_a_partition_of_time_is_a_partition_of_rows():
    rng = np.random.default_rng(0)
    track = Track(np.arange(500)[:, None], start=0.0, hop=0.01)
    edges = np.sort(np.concatenate([[-0.01, 5.0], rng.uniform(0.1, 4.9, 5)]))
    parts = [track.between(a, b) for a, b in itertools.pairwise(edges)]
    assert np.concatenate(parts)[:, 0].tolist() == list(range(500))


def test_a_track_cannot_be_wrong():
    with pytest.raises(ValueError, match=r"rows.shape = \(3,\)"):
        Track(np.zeros(3), 0.0, 1.0)
    with pytest.raises(ValueError, match="hop"):
        Track(np.zeros((3, 1)), 0.0, 0.0)
