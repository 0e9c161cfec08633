"""pipeline.spooled_rows: rows come back as they were, however many, and take no memory."""

import resource
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from extractors.errors import AbortError
from pipeline.spooled_rows import BLOCK_BYTES, IN_MEMORY, SpooledRows

WIDTH = 43


@pytest.fixture
def spooled() -> Iterator[SpooledRows]:
    rows = SpooledRows()
    yield rows
    rows.close()


def blocks(rows_of_each: list[int]) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(count, WIDTH)).astype(np.float32) for count in rows_of_each]


@pytest.mark.parametrize("counts", [[1], [3, 1, 5], [1000] * 200])  # the last: 34 MB
def test_rows_come_back_in_blocks_as_often_as_wanted(
    spooled: SpooledRows, counts: list[int]
) -> None:
    given = blocks(counts)
    for block in given:
        spooled.append(block)
    assert len(spooled) == sum(counts)
    for _ in range(2):
        found = list(spooled)
        assert all(block.nbytes <= BLOCK_BYTES for block in found)
        np.testing.assert_array_equal(np.concatenate(found), np.concatenate(given))
    spooled.append(given[0])
    np.testing.assert_array_equal(np.concatenate(list(spooled))[-counts[0] :], given[0])


def test_nothing_was_appended(spooled: SpooledRows) -> None:
    assert not spooled
    assert list(spooled) == []


def test_a_row_may_be_larger_than_a_block(spooled: SpooledRows) -> None:
    wide = np.arange(2 * BLOCK_BYTES // 4, dtype=np.float32)[None]
    spooled.append(wide)
    (found,) = spooled
    np.testing.assert_array_equal(found, wide)


def test_what_is_given_out_cannot_be_overwritten(spooled: SpooledRows) -> None:
    spooled.append(blocks([2])[0])
    (found,) = spooled
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 0


@pytest.mark.parametrize("shape", [(3,), (3, WIDTH + 1), (1, 2, WIDTH)])
def test_rows_of_another_shape_are_refused(spooled: SpooledRows, shape: tuple[int, ...]) -> None:
    spooled.append(blocks([2])[0])
    with pytest.raises(ValueError, match=rf"rows are \(n, {WIDTH}\), got"):
        spooled.append(np.zeros(shape, np.float32))
    assert len(spooled) == 2


def test_many_rows_take_no_memory() -> None:
    """200 MB of rows, in a process of its own: the peak grows by what may lie in memory, its copy
    on the way to disk and a few blocks."""
    code = (
        "import resource, numpy as np\n"
        "from pipeline.spooled_rows import SpooledRows\n"
        "rows, block = SpooledRows(), np.ones((1000, 50), np.float32)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for _ in range(1000): rows.append(block)\n"
        "assert sum(float(found.sum(dtype=float)) for found in rows) == 50e6\n"
        "rows.close()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    line = [sys.executable, "-c", code]
    grown = subprocess.run(line, capture_output=True, text=True, check=True, timeout=60)
    assert int(grown.stdout) * 1024 < 2 * IN_MEMORY + 4 * BLOCK_BYTES


def test_a_full_disk_is_told_with_its_folder(spooled: SpooledRows) -> None:
    """No file of this process may grow beyond 1 MiB, which is the writer's own full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(AbortError, match="TMPDIR"):
            spooled.append(np.zeros((IN_MEMORY, 2), np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
