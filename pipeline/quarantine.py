"""The quarantine: keys of videos that are not to be opened. Each is a row with that reason."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from extractors.errors import AbortError
from pipeline import storage

Quarantine = dict[str, dict[str, str]]
"""Key to `why` and `since`."""


def quarantine_url(dataset: str) -> str:
    """Where a dataset keeps its quarantine."""
    return storage.join(dataset, "quarantine.json")


def read_quarantine(dataset: str) -> Quarantine:
    """The videos that are put aside; none where there is no file. Raises AbortError for another
    kind of file."""
    url = quarantine_url(dataset)
    try:
        found = storage.read_json(url)
    except FileNotFoundError:
        return {}
    except ValueError as err:
        raise AbortError(f"{url}: not JSON: {err}") from err
    if not isinstance(found, dict):
        raise AbortError(f"{url}: not a quarantine: expected an object of keys")
    return found


def put_aside(dataset: str, reasons: Mapping[str, str]) -> Quarantine:
    """Adds keys, each with why; those that are in it already keep their entry."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    added = {key: {"why": why, "since": now} for key, why in reasons.items()}
    return _write(dataset, added | read_quarantine(dataset))


def release(dataset: str, keys: Iterable[str]) -> Quarantine:
    """Takes keys out: the next run opens them again."""
    freed = set(keys)
    found = {key: entry for key, entry in read_quarantine(dataset).items() if key not in freed}
    return _write(dataset, found)


def _write(dataset: str, quarantine: Quarantine) -> Quarantine:
    storage.publish_json(quarantine_url(dataset), dict(sorted(quarantine.items())))
    return quarantine
