"""The JSON of one seed of a benchmark, written after every row."""

import json
from pathlib import Path
from typing import Any


def save(path: Path, results: dict[str, Any]) -> None:
    """Replaces the file at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(rounded(results), indent=1, sort_keys=True) + "\n")
    partial.replace(path)


def rounded(value: Any) -> Any:
    """The same with numbers of five digits behind the point."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, 5) if isinstance(value, float) else value
