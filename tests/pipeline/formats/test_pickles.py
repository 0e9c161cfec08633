import pickle
import tracemalloc
from pathlib import Path

import numpy as np

from pipeline.formats.pickles import list_item, write_dict, write_list


def test_what_is_written_is_a_plain_pickle(tmp_path: Path) -> None:
    shared = ["a", "a"]
    items = [("x", {"k": shared, "l": shared}), ("ü", [1.5, None]), ("z", b"\x00")]
    write_dict(tmp_path / "d", items)
    assert pickle.loads((tmp_path / "d").read_bytes()) == dict(items)
    write_list(tmp_path / "l", [list_item(1), list_item("b") + list_item(items)])
    assert pickle.loads((tmp_path / "l").read_bytes()) == [1, "b", items]
    write_dict(tmp_path / "e", [])
    assert pickle.loads((tmp_path / "e").read_bytes()) == {}


def test_items_are_not_held(tmp_path: Path) -> None:
    """40 items of a megabyte: at most a few of them are in memory."""
    tracemalloc.start()
    write_list(tmp_path / "l", (list_item(np.full(2**20, n, np.uint8)) for n in range(40)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20
    assert len(pickle.loads((tmp_path / "l").read_bytes())) == 40
