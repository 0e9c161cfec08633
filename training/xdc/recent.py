"""A cache of what was used last, of a bounded number of things."""

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def recent(
    cache: OrderedDict[Key, Value], key: Key, make: Callable[[], Value], size: int
) -> tuple[Value, Value | None]:
    """What the cache has or `make` gives, and what had to leave for it: the longest unused."""
    if key in cache:
        cache.move_to_end(key)
        return cache[key], None
    cache[key] = made = make()
    return made, cache.popitem(last=False)[1] if len(cache) > size else None
