"""Which clips may answer a query, by what is known of them."""

import difflib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from extractors.errors import UsageError

COLUMNS = {"video": "key", "label": "label", "split": "split", "language": "language"}
KEYS = (*COLUMNS, "time")


def parse_where(conditions: Sequence[str]) -> dict[str, str]:
    """`["label=cat", "time=10-60"]` to a mapping. Raises UsageError, naming the allowed keys."""
    where: dict[str, str] = {}
    for condition in conditions:
        key, separator, value = condition.partition("=")
        if not separator or not value:
            raise UsageError(f"--where {condition}: expected KEY=VALUE, as in label=cat")
        if key in where:
            raise UsageError(f"--where {condition}: {key} is given twice; all conditions must hold")
        where[key] = value
    _check_keys(where)
    return where


def allowed_rows(ids: pa.Table, where: Mapping[str, str]) -> NDArray[np.bool_]:
    """Which rows of ids.parquet meet every condition: (N,).

    'video', 'label', 'split' and 'language' are compared as they are; 'time' is START-END in
    seconds, half open, either may be left out, and a clip that overlaps it is in. Raises
    UsageError for another key or a time that is none.
    """
    _check_keys(where)
    allowed_N = np.ones(ids.num_rows, bool)
    for key, value in where.items():
        if key == "time":
            begin, end = _time_range(value)
            allowed_N &= ids.column("start").to_numpy() < end
            allowed_N &= ids.column("end").to_numpy() > begin
        else:
            equal = pc.fill_null(pc.equal(ids.column(COLUMNS[key]), value), False)
            allowed_N &= equal.to_numpy()
    return allowed_N


def _check_keys(where: Mapping[str, str]) -> None:
    for key in where:
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, n=1)
            hint = f", did you mean {close[0]}?" if close else f"; there are {', '.join(KEYS)}"
            raise UsageError(f"where {key}: no such condition{hint}")


def _time_range(value: str) -> tuple[float, float]:
    first, separator, last = value.partition("-")
    try:
        begin, end = float(first or 0), float(last or math.inf)
    except ValueError:
        begin, end = math.nan, math.nan
    if not separator or not begin < end:
        raise UsageError(f"where time={value}: expected START-END in seconds, as in 10-60 or 10-")
    return begin, end
