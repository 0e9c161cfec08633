"""docs/scale.md says what the code computes, and that is what a reader would compute."""

import subprocess
import sys

import pytest

from tests.docs import pages

HOURS = 134_000


def rows(first_column: str) -> list[dict[str, str]]:
    return next(
        found for _, found in pages.tables("scale.md") if next(iter(found[0])) == first_column
    )


def number(cell: str) -> float:
    return float(cell.split()[0].replace(",", ""))


def test_the_tables_are_up_to_date() -> None:
    script = pages.DOCS / "make_scale.py"
    subprocess.run([sys.executable, script, "--check"], check=True, cwd=pages.ROOT)


def test_core_hours_by_hand() -> None:
    (work,) = (found for _, found in pages.tables("scale.md") if "core-hours" in found[0])
    assert len(work) == 12
    for row in work:
        hours = HOURS * number(row["core-seconds a second of video"])
        assert number(row["core-hours"]) == pytest.approx(hours, rel=1e-3, abs=1)  # 4 digits shown


def test_totals_by_hand() -> None:
    totals = {row["extraction of HowTo100M"]: row for row in rows("extraction of HowTo100M")}
    assert number(totals["shards of 64 videos"]["reference"]) == 1_200_000 / 64
    # 2048 halves a second, 1.5 times 512, a hundred times 40; the rest is about 270 bytes
    tracks = 2 * (2048 + 1.5 * 512 + 100 * 40)
    expected = HOURS * 3600 * (tracks + 270) / 1e12
    assert number(totals["bytes of shards"]["reference"]) == pytest.approx(expected, rel=5e-3)
    # 41.2 GFLOP a picture, 81 a window
    exaflop = HOURS * 3600 * (41.2 + 1.5 * 81) / 1e6
    found = number(totals["operations of the networks"]["reference"])
    assert found == pytest.approx(exaflop, rel=5e-3)


def test_embeddings_by_hand() -> None:
    learning = {row["training and index of HowTo100M"]: row
                for row in rows("training and index of HowTo100M")}  # fmt: skip
    stored = number(learning["index: bytes of embeddings, at most"]["reference"])
    assert stored == pytest.approx(136e6 * 4 * 6144 * 4 / 1e12, rel=5e-3)
    steps = number(learning["training: steps"]["reference"])
    assert steps == 30 * (1_200_000 // 128)
