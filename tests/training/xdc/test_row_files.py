"""Rows in files: what was written block by block is a .npy that any reader reads."""

from pathlib import Path

import numpy as np
import pytest

from training.offline_clustering import open_rows
from training.xdc.row_files import read_rows_at, row_width, writing_rows


def test_blocks_make_one_array(tmp_path: Path) -> None:
    rows, path = np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32), tmp_path / "a.npy"
    with writing_rows(path, 7, 3) as write:
        for block in (rows[:4], rows[4:4], rows[4:]):
            write(block)
    np.testing.assert_array_equal(np.load(path), rows)
    np.testing.assert_array_equal(read_rows_at(path, np.array([5, 0])), rows[[5, 0]])
    assert row_width(path) == open_rows([path]).dim == 3


def test_a_wrong_number_of_rows_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="2 rows were written, 7 were announced"),
        writing_rows(tmp_path / "a.npy", 7, 3) as write,
    ):
        write(np.zeros((2, 3), np.float32))
