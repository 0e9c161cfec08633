"""Pickles too large for memory, written an item at a time.

A pickle is a program; those of a list and of a dict are an opcode, the program of each item, an
opcode that adds it. Items are pickled apart (protocol 3: without frames), so nothing is held.
"""

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PROTOCOL = 3
HEAD = pickle.PROTO + bytes([PROTOCOL])


def write_dict(path: Path, items: Iterable[tuple[str, Any]]) -> None:
    """A pickled dict of the (key, value) pairs."""
    with path.open("wb") as file:
        file.write(HEAD + pickle.EMPTY_DICT)
        for key, value in items:
            file.write(_program(key) + _program(value) + pickle.SETITEM)
        file.write(pickle.STOP)


def list_item(value: Any) -> bytes:
    """The part of a pickled list that adds `value`; see `write_list`."""
    return _program(value) + pickle.APPEND


def write_list(path: Path, parts: Iterable[bytes]) -> None:
    """A pickled list of what `list_item` made, in any pieces."""
    with path.open("wb") as file:
        file.write(HEAD + pickle.EMPTY_LIST)
        for part in parts:
            file.write(part)
        file.write(pickle.STOP)


def _program(value: Any) -> bytes:
    """What pickles `value`, without head and stop. Its memo starts anew with each item."""
    return pickle.dumps(value, protocol=PROTOCOL)[len(HEAD) : -len(pickle.STOP)]
