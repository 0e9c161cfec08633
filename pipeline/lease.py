"""One run a dataset, a run's folder or an index at a time: its `run.json` says who works on it, and
is renewed.

A lease and not a lock, since object stores have none. Two runs that start within the same moment
may both see no lease; then the one that wrote first finds the other's at its next renewal and
stops. Of a dataset both would have made the same shards: what is protected is the plan, and the
work.
"""

import getpass
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import psutil

from extractors.errors import AbortError
from pipeline import storage

RENEW_SECONDS = 30.0
"""From one renewal to the next."""
STALE_SECONDS = 300.0
"""A lease that was not renewed for so long is nobody's. Clocks may differ by less."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lease:
    """What run.json says."""

    run: str
    """Id of the run."""
    host: str
    """Its machine, as `storage.host` names it."""
    pid: int
    process_started: float
    """When the process started, seconds since 1970: a process id is used again."""
    user: str
    started: float
    """When the run started, seconds since 1970."""
    renewed: float
    """When it last said that it is alive, seconds since 1970."""

    @property
    def valid(self) -> bool:
        """Whether its run is taken to be alive."""
        if self.host == storage.host():
            return _started(self.pid) == self.process_started
        return time.time() - self.renewed < STALE_SECONDS

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.started, UTC).isoformat(timespec="seconds")
        return f"process {self.pid} of {self.user} on {self.host}, since {since}"


class Holder:
    """The lease of this run, while it is held."""

    def __init__(self, dataset: str, lease: Lease) -> None:
        self._dataset = dataset
        self._lost_to: Lease | None = None
        self.lease = lease

    def check(self) -> None:
        """To be called now and then. Raises AbortError where another run has taken over."""
        if self._lost_to is not None:
            raise AbortError(
                f"{self._dataset}: taken over by another run ({self._lost_to}); "
                "what was finished is kept"
            )

    def renew(self) -> None:
        """Says that the run is alive, unless the lease is another's by now."""
        try:
            found = read_lease(self._dataset)
            if found is not None and found.run != self.lease.run:
                self._lost_to = found
                return
            self.lease = replace(self.lease, renewed=time.time())
            storage.publish_json(_url(self._dataset), asdict(self.lease))
        except OSError as err:  # a storage that is gone for a moment must not end the run
            _log.warning("%s: the lease was not renewed: %s", self._dataset, err)

    def release(self) -> None:
        """Removes the lease if it is still this run's."""
        found = read_lease(self._dataset)
        if found is not None and found.run == self.lease.run:
            storage.remove(_url(self._dataset))


@contextmanager
def holding(dataset: str, *, take_over: bool = False) -> Iterator[Holder]:
    """Holds the lease of a dataset, a run or an index, renewing it from a thread.

    A lease whose process is gone from this machine, or that was not renewed for STALE_SECONDS, is
    taken over silently; another's only with `take_over`. Raises AbortError that says who holds it,
    OSError where nothing can be written.
    """
    found = read_lease(dataset)
    if found is not None and found.valid and not take_over:
        raise AbortError(
            f"{dataset}: another run works on it ({found}); wait for its end, or take over with "
            "--take-over if it is dead"
        )
    now = time.time()
    started = _started(os.getpid())
    assert started is not None
    folder = storage.local_path(dataset)
    made_here = folder is not None and not folder.exists()
    lease = Lease(
        secrets.token_hex(8), storage.host(), os.getpid(), started, _user(), now, renewed=now
    )
    storage.publish_json(_url(dataset), asdict(lease))
    holder, ended = Holder(dataset, lease), threading.Event()

    def keep() -> None:
        while not ended.wait(RENEW_SECONDS):
            holder.renew()

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield holder
    finally:
        ended.set()
        thread.join()
        holder.release()
        if folder is not None and made_here:
            with suppress(OSError):  # a run that was refused for its input leaves no empty folder
                folder.rmdir()


def read_lease(dataset: str) -> Lease | None:
    """Who works on a dataset, or did when it died (`valid` says which); None for nobody."""
    try:
        fields: dict[str, Any] = storage.read_json(_url(dataset))
        return Lease(**fields)
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _url(dataset: str) -> str:
    return storage.join(dataset, "run.json")


def _started(pid: int) -> float | None:
    """When a running process of this machine started; None where there is none."""
    try:
        process = psutil.Process(pid)
        alive = process.status() != psutil.STATUS_ZOMBIE
        return round(float(process.create_time()), 2) if alive else None
    except psutil.NoSuchProcess:
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return str(os.getuid())
