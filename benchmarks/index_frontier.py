"""Recall, memory and time of indexes, and which are on the frontier of the three.

An index of the grid is measured at each setting of its search (a curve), one of 'auto' at the one
setting that it tuned itself, on queries of its own making.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from figures import figure
from measuring import Ratio

SHARES = {4: 0.95, 16: 0.90}
"""Least recall@10 where the index may take this part of the float32 vectors' memory."""
FASTER = 20.0
NOISE = {"recall": 0.005, "p50_ms": 0.05, "bytes_per_vector": 0.02}
"""What two measurements of equal indexes may differ by: recall absolutely (a standard error of
1,000 queries' recall is about 0.003), the others relatively."""


@dataclass(frozen=True)
class Point:
    """One setting of the search."""

    parameters: Mapping[str, int]
    recall: float
    """recall@10."""
    p50_ms: float
    """One query on one thread, for the 10 nearest, and so on."""
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Row:
    """One index."""

    factory: str
    asked: str
    """'grid', or what 'auto' was asked for."""
    bytes_per_vector: float
    """Of the file."""
    train_cpu_seconds: float
    add_cpu_seconds: float
    points: tuple[Point, ...]
    """Of the grid its curve, of 'auto' the one setting that it tuned itself to."""
    reason: str = ""
    curve: tuple[Point, ...] = ()
    """Of 'auto' too."""
    tune_cpu_seconds: float = 0.0
    """What 'auto' takes to find its setting and to measure itself."""

    @property
    def cpu_seconds(self) -> float:
        """Of everything."""
        return self.train_cpu_seconds + self.add_cpu_seconds + self.tune_cpu_seconds


def dominates(a: Row, p: Point, b: Row, q: Point) -> bool:
    """Whether index `a` at `p` is at least as good as `b` at `q` in recall, time and memory, and
    better in one of them by more than measurements differ (`NOISE`)."""
    if p.recall < q.recall or p.p50_ms > q.p50_ms or a.bytes_per_vector > b.bytes_per_vector:
        return False
    return (
        p.recall > q.recall + NOISE["recall"]
        or p.p50_ms < q.p50_ms * (1 - NOISE["p50_ms"])
        or a.bytes_per_vector < b.bytes_per_vector * (1 - NOISE["bytes_per_vector"])
    )


def dominating(row: Row, rows: Iterable[Row]) -> list[str]:
    """Who of the grid is better than an index of one point, at which setting."""
    return [
        f"{other.factory} {dict(point.parameters)}"
        for other in rows
        for point in other.points
        if other.asked == "grid" and dominates(other, point, row, row.points[0])
    ]


def best_within(rows: Sequence[Row], most_bytes: float, most_ms: float) -> tuple[Row, Point]:
    """The index, and the point of its curve, that find most in so many bytes and so much time.

    Where none is as small, the smallest index; where no point is as fast, the fastest.
    """
    small = [row for row in rows if row.bytes_per_vector <= most_bytes]
    small = small or [min(rows, key=lambda row: row.bytes_per_vector)]
    every = [(row, point) for row in small for point in row.curve]
    fast = [(row, point) for row, point in every if point.p50_ms <= most_ms]
    if fast:
        return max(fast, key=lambda pair: pair[1].recall)
    return min(every, key=lambda pair: pair[1].p50_ms)


def judged(set_name: str, raw_bytes: int, rows: Sequence[Row]) -> list[Ratio]:
    """What 'auto' must reach."""
    exact = next(row for row in rows if row.factory == "Flat").points[0].p50_ms
    found = []
    for row in rows:
        if row.asked == "grid":
            continue
        name, point = f"{set_name}, auto for {row.asked}", row.points[0]
        share = row.bytes_per_vector / raw_bytes
        if row.asked.startswith("1/"):
            part = int(row.asked.removeprefix("1/"))
            found += [
                figure(f"{name}: memory / raw", share, 1 / part, at_least=False),
                figure(f"{name}: recall@10", point.recall, SHARES[part], at_least=True),
            ]
        better = float(len(dominating(row, rows)))
        found += [
            figure(f"{name}: exact p50 / p50", exact / point.p50_ms, FASTER, at_least=True),
            figure(f"{name}: better ones in the grid", better, 0.0, at_least=False),
        ]
    return found


def facts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For the JSON."""
    return [asdict(row) | {"dominated_by": dominating(row, rows) if row.asked != "grid" else None}
            for row in rows]  # fmt: skip
