"""The window cutter against a plain version that holds everything."""

import numpy as np
import pytest

from extractors.windows import WindowCutter, Windowing


def plain_windows(items, windowing):
    """(data, num_own) of every window, by the definition."""
    found = []
    for first in range(0, len(items), windowing.step):
        data = []
        for i in range(first - windowing.before, first - windowing.before + windowing.size):
            if 0 <= i < len(items):
                data.append(items[i])
            elif i >= len(items) and windowing.tail == "edge":
                data.append(items[-1])
            else:
                data.append(np.zeros_like(items[0]))
        found.append((np.stack(data), min(windowing.step, len(items) - first)))
    return found


def random_windowing(rng):
    step = int(rng.integers(1, 9))
    before = int(rng.integers(0, 6))
    size = int(rng.integers(before + step, before + step + 7))
    return Windowing(size, step, before, "edge" if rng.random() < 0.5 else "zero")


def cut(items, windowing, rng):
    """All windows, the items pushed in chunks of random length."""
    cutter, windows, first = WindowCutter(windowing), [], 0
    while first < len(items):
        length = int(rng.integers(1, 12))
        windows += cutter.push(items[first : first + length])
        first += length
    return windows + list(cutter.finish())


@pytest.mark.parametrize("seed", range(200))
def test_any_chunking_gives_the_windows_of_the_definition(seed):
    rng = np.random.default_rng((seed, 0))
    windowing = random_windowing(rng)
    shape = (int(rng.integers(1, 40)), *((2, 3) if rng.random() < 0.3 else ()))
    items = rng.integers(1, 255, shape, np.uint8)
    expected = plain_windows(items, windowing)
    windows = cut(items, windowing, rng)
    assert len(windows) == len(expected) == -(-len(items) // windowing.step)
    for window, (data, num_own) in zip(windows, expected, strict=True):
        np.testing.assert_array_equal(window.data, data)
        assert window.data.dtype == items.dtype
        assert window.num_own == num_own


def test_nothing_in_nothing_out():
    assert list(WindowCutter(Windowing(4, 4)).finish()) == []


def test_no_more_than_a_window_and_a_chunk_is_held():
    cutter = WindowCutter(Windowing(size=10, step=10))
    for _ in range(100):
        for _ in cutter.push(np.zeros((7, 100), np.uint8)):
            pass
        assert len(cutter._held) < 17
        base = cutter._held if cutter._held.base is None else cutter._held.base
        assert base.nbytes <= 17 * 100  # nor by the array that it is a view of
