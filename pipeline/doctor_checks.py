"""What `pipeline doctor` looks for, one function a kind of fault."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.dataset import read_provenance
from pipeline.jobs import planned_jobs
from pipeline.lease import Lease
from pipeline.plan import read_plan
from pipeline.provenance import changes
from pipeline.published import withdrawn_shards
from pipeline.shards import ShardRecord, shard_name

Severity = Literal["error", "warning", "note"]
OURS = re.compile(r"(?P<number>\d{6,})(\.tar|\.parquet|_stats\.json)")
MOST_NAMED = 5
NUM_REQUESTS = 32
FOLDERS = ("", "shards", "provenance")
EXTRACT = "run `pipeline run extract` again, to its end"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    severity: Severity
    """error: readers get wrong data or none. warning: it costs something. note: good to know."""
    what: str
    why: str
    """What has led to it, or what follows from it."""
    todo: str
    """What to do."""
    fixed: str = ""
    """What `repair` did; empty where it did nothing."""
    fix: Callable[[], str] | None = field(default=None, compare=False, repr=False)
    """The repair, where one is safe; it says what it did."""

    def as_json(self) -> dict[str, Any]:
        """For programs; `fixable` says whether `--fix` would do something."""
        names = ("severity", "what", "why", "todo", "fixed")
        return {name: getattr(self, name) for name in names} | {"fixable": self.fix is not None}


@dataclass(frozen=True)
class Examined:
    """A dataset as the checks see it."""

    dataset: str
    card: dict[str, Any] | None
    """dataset.json; None where it cannot be read."""
    records: Sequence[ShardRecord]
    tables: Sequence[pa.Table]
    """The rows of all shards in order, `tar_sha256` with them."""
    unread: Sequence[int]
    """Numbers of shards whose rows are not among them: record or parquet cannot be read."""
    files: Sequence[str]
    """Names in shards/."""
    lease: Lease | None

    @property
    def running(self) -> bool:
        """Whether a run is at work: what is half done is its business."""
        return self.lease is not None and self.lease.valid


def _against_the_plan(examined: Examined) -> Iterator[Finding]:
    """Shards planned and never made, made of other videos or settings, or of no plan."""
    made = {record.number: record for record in examined.records}
    fingerprint = str(examined.card["fingerprint"]) if examined.card else ""
    missing, stale = [], []
    for job in planned_jobs(examined.dataset, fingerprint):
        record = made.pop(job.number, None)
        if record is None:
            missing.append(job.number)
        elif record.job != job.digest and record.made_by in ("", fingerprint):
            stale.append(job.number)  # those of other settings are told by their settings
    if missing:
        what = f"{len(missing)} shards were planned and never made: {named(missing)}"
        if examined.running:
            yield Finding("note", what, "a run is at work", "wait for its end")
        else:
            yield Finding("error", what, "a run was stopped before its end", EXTRACT)
    if stale and examined.card:
        what = f"{len(stale)} shards are of other videos than the plan says: {named(stale)}"
        why = "a video, its captions, its label or the quarantine has changed since"
        yield Finding("error", what, why, f"{EXTRACT}; `pipeline plan` says what it would make")
    if made:
        what = f"{len(made)} shards are of no plan: {named(made)}"
        why = "their videos were pruned, or the shards were copied here; readers read them"
        yield Finding("error", what, why, "remove their files, or `pipeline run extract --prune`")


def _settings(examined: Examined) -> Iterator[Finding]:
    """Shards whose tracks were made by other settings, weights or versions than dataset.json's."""
    if examined.card is None:
        return
    current = str(examined.card["fingerprint"])
    others: dict[str, list[int]] = defaultdict(list)
    for record in examined.records:
        if record.made_by not in ("", current):
            others[record.made_by].append(record.number)
    new = read_provenance(examined.dataset, current)
    for fingerprint, numbers in sorted(others.items()):
        old = read_provenance(examined.dataset, fingerprint)
        known = old is not None and new is not None
        why = "; ".join(changes(old, new)) if old is not None and new is not None else ""
        what = f"{len(numbers)} shards were made by other settings: {named(numbers)}"
        yield Finding(
            "error",
            what,
            why if known else f"by {fingerprint}, of which provenance/ keeps nothing",
            f"{EXTRACT}: it makes again what differs, and copies the rest",
        )


def _files(examined: Examined) -> Iterator[Finding]:
    """Records without their files, files without a record, files that are not ours."""
    found = set(examined.files)
    lost, parts, foreign = [], [], []
    numbers = {record.number for record in examined.records} | set(examined.unread)
    for record in examined.records:
        lost += [record.number] if record.name + ".tar" not in found else []
    for name in examined.files:
        match = OURS.fullmatch(name)
        if match is None:
            foreign += [] if name.endswith(".partial") else [name]
        elif int(match["number"]) not in numbers and not name.endswith("_stats.json"):
            parts.append(int(match["number"]))
    if lost:
        what = f"{len(lost)} records are there without their tar: {named(lost)}"
        why = "it was removed by hand: readers stop at it"
        yield Finding("error", what, why, f"{EXTRACT}: they are made again")
    withdrawn = set(withdrawn_shards(examined.dataset))
    parts = [number for number in parts if number not in withdrawn]
    if withdrawn:
        what = f"{len(withdrawn)} shards are withdrawn: {named(withdrawn)}"
        why = "`verify --fix` found damage, or a run died while it replaced them; no reader looks"
        todo = f"keep their files and {EXTRACT}: what is whole is carried over"
        yield Finding("note" if examined.running else "warning", what, why, todo)
    if parts:
        what = f"{len(set(parts))} shards have files but no record: {named(set(parts))}"
        why = "a run was stopped between a shard's files; no reader looks at them"
        todo = f"{EXTRACT}: planned ones are made again; else remove the files"
        yield Finding("note" if examined.running else "warning", what, why, todo)
    if foreign:
        what = f"{len(foreign)} files in shards/ are not of a shard: {_some(foreign)}"
        yield Finding("note", what, "somebody put them there; no reader looks", "move them away")


def _temporaries(examined: Examined) -> Iterator[Finding]:
    """What a killed run left half written; on a bucket nothing is ever half written."""
    root = storage.local_path(examined.dataset)
    if root is None:
        return
    found = [path for folder in FOLDERS for path in sorted((root / folder).glob(".*.partial"))]
    dead = [path for path in found if storage.is_left(path)]
    if dead:

        def remove() -> str:
            swept = [storage.sweep(str(root / folder)) for folder in FOLDERS]
            return f"{sum(map(len, swept))} removed"

        what = f"{len(dead)} half-written files of dead runs: {_some([p.name for p in dead])}"
        why = "runs that were killed; they take space, no reader looks at them"
        yield Finding("warning", what, why, "`--fix` removes them", fix=remove)
    if other := [path.name for path in found if path not in dead]:
        what = f"{len(other)} half-written files: {_some(other)}"
        why = "being written now, or left by another machine less than a day ago"
        yield Finding("note", what, why, "wait for the run's end, or a day")


def _lease(examined: Examined) -> Iterator[Finding]:
    """A lease whose run has died."""
    url = storage.join(examined.dataset, "run.json")
    if examined.lease is None:
        if storage.exists(url):
            why = "edited by hand, or of another version"
            yield Finding("warning", "run.json: not a run's lease", why, "remove it")
        return
    if examined.running:
        yield Finding("note", f"a run is at work: {examined.lease}", "its lease is kept", "wait")
        return

    def remove() -> str:
        storage.remove(url)
        return "run.json removed"

    what = f"run.json: the lease of a dead run ({examined.lease})"
    why = "it was killed before it could give the lease back; the next run takes it over"
    yield Finding("warning", what, why, "`--fix` removes it", fix=remove)


def _duplicates(examined: Examined) -> Iterator[Finding]:
    """A key twice, which readers cannot tell apart; a file twice, which counts double."""
    if not examined.tables:
        return
    rows = pa.concat_tables(
        table.select(["key", "content_id", "split", "status"]) for table in examined.tables
    )
    if keys := _twice(rows.column("key")):
        what = f"{len(keys)} keys are there twice: {_some(keys)}"
        why = "two runs with different plans, or shards that were copied here"
        yield Finding("error", what, why, "see which shard is of the plan; remove the other")
    succeeded = rows.filter(pc.equal(rows.column("status"), "success"))
    if same := _twice(succeeded.column("content_id")):
        copies = succeeded.filter(pc.is_in(succeeded.column("content_id"), pa.array(same)))
        splits = copies.group_by("content_id").aggregate([("split", "count_distinct")])
        mixed = pc.sum(pc.greater(splits.column("split_count_distinct"), 1)).as_py()
        what = f"{len(same)} files are there under several keys: {_some(_groups(copies))}"
        why = "copies in the source; they weigh double in training"
        leak = f", and {mixed} of them lie in several splits: held-out data is known from training"
        todo = "list each once, or `pipeline quarantine` the others"
        yield Finding("warning", what, why + (leak if mixed else ""), todo)


def _twice(column: pa.ChunkedArray) -> list[str]:
    counts = pc.value_counts(column.drop_null())
    values, times = counts.field("values"), counts.field("counts")
    found: list[str] = values.filter(pc.greater(times, 1)).to_pylist()
    return found


def _groups(copies: pa.Table) -> list[str]:
    """The keys of each file, joined by `=`."""
    groups: dict[str, list[str]] = defaultdict(list)
    columns = (copies.column(name).to_pylist() for name in ("content_id", "key"))
    for content, key in zip(*columns, strict=True):
        groups[content].append(key)
    return [" = ".join(keys) for keys in groups.values()]


def _planned_twice(examined: Examined) -> Iterator[Finding]:
    """Keys that the plan holds twice."""
    counts = Counter(planned.video.key for planned in read_plan(examined.dataset))
    if keys := [key for key, count in counts.items() if count > 1]:
        what = f"plan.parquet: {len(keys)} keys are planned twice: {_some(keys)}"
        why = "two runs wrote the plan at once, or it was edited"
        yield Finding("error", what, why, "restore it from a copy, or extract into a new folder")


def missing_sources(examined: Examined) -> Iterator[Finding]:
    """Videos that are no longer where the plan says."""
    videos = [planned.video for planned in read_plan(examined.dataset)]
    with ThreadPoolExecutor(NUM_REQUESTS) as pool:
        there = pool.map(storage.exists, (video.uri for video in videos))
        gone = [video.key for video, found in zip(videos, there, strict=True) if not found]
    if gone:
        what = f"{len(gone)} of {len(videos)} videos are gone from their place: {_some(gone)}"
        why = "moved or deleted: what is extracted stays, but cannot be made again"
        yield Finding("warning", what, why, "bring them back, or drop them by `--prune`")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def named(numbers: Iterable[int]) -> str:
    """`000001, 000002 and 7 more`."""
    listed = sorted(numbers)
    shown = ", ".join(shard_name(number) for number in listed[:MOST_NAMED])
    return shown + (f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else "")


CHECKS: tuple[Callable[[Examined], Iterator[Finding]], ...] = (
    _against_the_plan,
    _settings,
    _files,
    _temporaries,
    _lease,
    _duplicates,
    _planned_twice,
)
