import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def frontier() -> ModuleType:
    """The scripts import one another from their own folder, which is not on the path of tests."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("f", BENCHMARKS / "index_frontier.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["f"] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BENCHMARKS))


def row(frontier: ModuleType, name: str, asked: str, size: float, *points: tuple[float, float]):
    found = tuple(frontier.Point({"nprobe": i}, r, ms, ms, ms) for i, (r, ms) in enumerate(points))
    return frontier.Row(name, asked, size, 1.0, 1.0, found)


def test_better_is_not_worse_in_anything_and_better_by_more_than_noise(frontier) -> None:
    auto = row(frontier, "auto", "1/4", 100.0, (0.95, 1.0))
    others = [
        row(frontier, "equal", "grid", 100.0, (0.95, 1.0)),
        row(frontier, "noise", "grid", 99.0, (0.953, 0.97)),
        row(frontier, "faster but larger", "grid", 101.0, (0.95, 0.1)),
        row(frontier, "smaller but finds less", "grid", 10.0, (0.949, 0.1)),
        row(frontier, "smaller", "grid", 90.0, (0.90, 0.1), (0.95, 1.0)),
        row(frontier, "faster", "grid", 100.0, (0.95, 0.9)),
        row(frontier, "finds more", "grid", 100.0, (0.96, 1.0)),
    ]
    names = [found.partition(" {")[0] for found in frontier.dominating(auto, [auto, *others])]
    assert names == ["smaller", "faster", "finds more"]


def test_the_best_in_a_memory_and_a_time(frontier) -> None:
    small = row(frontier, "small", "1/16", 60.0)
    large = row(frontier, "large", "1/4", 250.0)
    point = frontier.Point
    curve_of_small = (point({}, 0.8, 0.1, 0.1, 0.1), point({}, 0.9, 1.0, 1.0, 1.0))
    curve_of_large = (point({}, 0.85, 0.2, 0.2, 0.2), point({}, 0.95, 2.0, 2.0, 2.0))
    rows = [replace(small, curve=curve_of_small), replace(large, curve=curve_of_large)]

    def best(most_bytes: float, most_ms: float) -> tuple[str, float]:
        found, at = frontier.best_within(rows, most_bytes, most_ms)
        return found.factory, at.recall

    assert best(300, 3.0) == ("large", 0.95)
    assert best(300, 1.0) == ("small", 0.9)
    assert best(100, 3.0) == ("small", 0.9)
    assert best(10, 3.0) == ("small", 0.9)
    assert best(300, 0.01) == ("small", 0.8)


def test_what_misses_a_limit_is_told(frontier) -> None:
    rows = [
        row(frontier, "Flat", "grid", 1024.0, (1.0, 100.0)),
        row(frontier, "a", "1/4", 250.0, (0.96, 4.0)),
        row(frontier, "b", "1/16", 70.0, (0.89, 6.0)),
    ]
    told = {ratio.what: ratio.holds for ratio in frontier.judged("set", 1024, rows)}
    assert told == {
        "set, auto for 1/4: memory / raw": True,
        "set, auto for 1/4: recall@10": True,
        "set, auto for 1/4: exact p50 / p50": True,
        "set, auto for 1/4: better ones in the grid": True,
        "set, auto for 1/16: memory / raw": False,
        "set, auto for 1/16: recall@10": False,
        "set, auto for 1/16: exact p50 / p50": False,
        "set, auto for 1/16: better ones in the grid": True,
    }
