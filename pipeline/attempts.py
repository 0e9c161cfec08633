"""Jobs whose worker dies: how often a shard was begun, and which video it died at.

A worker that is killed (out of memory) or crashes (in a codec, in a network) can say nothing, so
its job says beforehand, in `<dataset>/attempts/000012.json`: one small write a shard, removed at
the end. The first attempts at a shard are all alike, since a machine that went down or a burst of
memory may be nobody's fault, and the same batches give the same last bits. The last one, and those
after it, take the videos one by one and write which one they are at: the video at which such an
attempt dies is left out from then on, with a row of its own (`crashed_worker`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from extractors.errors import AbortError, Reason
from pipeline import storage
from pipeline.shards import shard_name
from pipeline.sources import SourceVideo


@dataclass(frozen=True)
class Attempts:
    """What the file says: the attempts of one run at one shard."""

    run: str
    """The run that made them: another run begins anew."""
    job: str
    """Digest of the job."""
    attempts: int = 0
    """How often the shard was begun."""
    at: str = ""
    """Key of the video that the last attempt is at; empty between videos, and in attempts that do
    not look for one."""
    crashed: tuple[str, ...] = ()
    """Keys of the videos at which an attempt died."""
    unexplained: int = 0
    """Attempts that looked for a video and died at none."""


@dataclass
class Watch:
    """What one attempt at a shard knows of those before it, and what it tells those after it."""

    url: str = ""
    state: Attempts = field(default_factory=lambda: Attempts("", ""))
    isolated: bool = False
    """Work on the videos one by one, no batch across two: attempts before this one died."""

    @property
    def suspects(self) -> tuple[str, ...]:
        """Keys of the videos that killed an attempt, which are not to be opened again."""
        return self.state.crashed

    def start(self, key: str) -> None:
        """To be called before any work on a video, and with an empty key when the last is done.

        Writes in an isolated attempt only, and costs nothing otherwise.
        """
        if self.isolated:
            self._write(replace(self.state, at=key))

    def blame(self, video: SourceVideo) -> dict[str, str]:
        """What the row of a suspect says: reason, stage and message."""
        message = (
            f"{video.uri}: its worker process died at it (out of memory, or a crash in a codec or "
            f"a network); found in {self.state.attempts - 1} attempts at its shard"
        )
        return {
            "reason": str(Reason.CRASHED_WORKER),
            "stage": "worker",
            "error_message": message,
        }

    def _write(self, state: Attempts) -> None:
        self.state = state
        storage.publish_json(self.url, asdict(state))


UNWATCHED = Watch()
"""For work outside of any run."""


@contextmanager
def watching(dataset: str, number: int, job: str, run: str, limit: int) -> Iterator[Watch]:
    """Around one attempt of a run at a shard. The file is there while it lasts, and after its
    process died; not after an exception, which the process survives (a SIGTERM is one).

    From the `limit`-th attempt on the watch is isolated. Raises AbortError after `limit` isolated
    attempts that died at no video: then it is not a video that kills.
    """
    url = _url(dataset, number)
    before = _read(url)
    if (before.run, before.job) != (run, job):
        before = Attempts(run, job)
    state = _next(before, limit)
    if state.unexplained >= limit:
        storage.remove(url)
        raise AbortError(
            f"shard {shard_name(number)}: its worker process died {before.attempts} times, "
            f"{state.unexplained} of them at no video (out of memory, or killed); finished shards "
            "are kept: run the same command again, with fewer --workers if memory is short"
        )
    watch = Watch(url, isolated=state.attempts >= limit)
    watch._write(state)
    try:
        yield watch
    finally:
        storage.remove(url)


def _next(before: Attempts, limit: int) -> Attempts:
    """The state at the start of an attempt, given how the one before it ended: it died."""
    crashed = before.crashed + ((before.at,) if before.at else ())
    in_vain = before.attempts >= limit and not before.at
    return replace(
        before,
        attempts=before.attempts + 1,
        at="",
        crashed=crashed,
        unexplained=before.unexplained + in_vain,
    )


def left_behind(dataset: str) -> list[int]:
    """Numbers of the shards at which a process died that nobody has gone on with."""
    names = storage.names(storage.join(dataset, "attempts"))
    stems = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    return [int(stem) for stem in stems if stem.isdigit()]


def forget(dataset: str) -> None:
    """Removes what processes that died left behind; for the end of a run that made every shard."""
    for number in left_behind(dataset):
        storage.remove(_url(dataset, number))


def _url(dataset: str, number: int) -> str:
    return storage.join(dataset, "attempts", f"{shard_name(number)}.json")


def _read(url: str) -> Attempts:
    """Of a file that is missing or damaged: no attempts."""
    try:
        fields: dict[str, Any] = storage.read_json(url)
        return Attempts(**fields | {"crashed": tuple(fields["crashed"])})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return Attempts("", "")
