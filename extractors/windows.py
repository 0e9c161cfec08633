"""Windows: the pieces of a view that become rows, cut from the stream of chunks.

view     0 1 2 3 4 5 6 7 8 9            size=4, step=4           size=6, step=4, before=1
windows  [0 1 2 3][4 5 6 7][8 9 + +]    + is padding             [+ 0 1 2 3 4][3 4 5 6 7 8][…]
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Windowing:
    """Window k holds the items from `k * step - before`, `size` of them."""

    size: int
    step: int
    before: int = 0
    """Items of context before the window's own."""
    tail: Literal["zero", "edge"] = "zero"
    """What fills the last windows: zeros, or the last item again."""
    head: Literal["zero", "edge"] = "zero"
    """What stands before the first item: zeros, or the first item again."""


@dataclass(frozen=True)
class Window:
    """What an extractor is given."""

    data: NDArray[np.generic]
    """(size, …) frames or samples."""
    num_own: int
    """How many of the `step` items from `k * step` on are real: `step` but in the last window."""


class WindowCutter:
    """Cuts one view of one video into windows, holding no more than a window and a chunk.

    Window k exists when, and only when, item `k * step` does.
    """

    def __init__(self, windowing: Windowing) -> None:
        self._windowing = windowing
        self._held: NDArray[np.generic] | None = None

    def push(self, items: NDArray[np.generic]) -> Iterator[Window]:
        """Takes consecutive items, gives every window that is complete with them."""
        if self._held is None:
            self._held = np.zeros((self._windowing.before, *items.shape[1:]), items.dtype)
            if self._windowing.head == "edge":
                self._held = np.repeat(items[:1], self._windowing.before, axis=0)
        self._held = np.concatenate([self._held, items])
        while len(self._held) >= self._windowing.size:
            yield Window(self._held[: self._windowing.size], self._windowing.step)
            self._held = self._held[self._windowing.step :]

    def finish(self) -> Iterator[Window]:
        """Gives the windows that are left, padded."""
        if self._held is None:
            return
        while (num_left := len(self._held) - self._windowing.before) > 0:
            missing = self._windowing.size - len(self._held)
            yield Window(self._padded(missing), min(num_left, self._windowing.step))
            self._held = self._held[self._windowing.step :]

    def _padded(self, missing: int) -> NDArray[np.generic]:
        assert self._held is not None
        if self._windowing.tail == "edge":
            padding = np.repeat(self._held[-1:], missing, axis=0)
        else:
            padding = np.zeros((missing, *self._held.shape[1:]), self._held.dtype)
        return np.concatenate([self._held, padding])
