"""What is wrong with a dataset as a whole, what to do about it, and the repairs that are safe."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from extractors.errors import AbortError
from pipeline import storage
from pipeline.dataset import read_dataset_card, with_digests, write_manifest
from pipeline.doctor_checks import CHECKS, Examined, Finding, Severity, missing_sources
from pipeline.lease import read_lease
from pipeline.scan import join_tables, map_shards, read_table
from pipeline.shards import ROW_SCHEMA, ShardRecord, read_record, shard_numbers
from pipeline.verify import manifest_problems


def diagnose(dataset: str, *, check_sources: bool = False) -> list[Finding]:
    """Everything that is wrong, the worst first. Nothing is changed.

    With `check_sources`, every video that was planned is looked for where the plan says it lies.
    Raises UsageError where there is no dataset.
    """
    examined, findings = _examine(dataset)
    for check in CHECKS:
        findings += check(examined)
    findings += _manifest(examined)
    if check_sources:
        findings += missing_sources(examined)
    order: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}
    return sorted(findings, key=lambda finding: order[finding.severity])


def repair(findings: Iterable[Finding]) -> list[Finding]:
    """Does what is safe; the findings with what was done of each. Raises OSError."""
    return [
        finding if finding.fix is None else replace(finding, fixed=finding.fix(), fix=None)
        for finding in findings
    ]


def _examine(dataset: str) -> tuple[Examined, list[Finding]]:
    """What there is, and a finding for each file of ours that cannot be read."""
    findings: list[Finding] = []
    card: dict[str, Any] | None = None
    try:
        card = read_dataset_card(dataset)
    except AbortError as err:
        todo = "read it with the version of this program that made it, or extract anew"
        findings.append(Finding("error", str(err), "its settings cannot be known", todo))
    records: list[ShardRecord] = []

    def readable() -> Iterator[pa.Table]:
        for record, table in map_shards(dataset, partial(_read, dataset), shard_numbers(dataset)):
            if isinstance(record, ShardRecord):
                records.append(record)
            findings.extend(_unreadable(what) for what in (record, table) if isinstance(what, str))
            if isinstance(table, pa.Table) and isinstance(record, ShardRecord):
                yield with_digests(table, [record])

    tables = join_tables(readable())
    num_read = sum(pc.count_distinct(table.column("shard")).as_py() for table in tables)
    files = storage.names(storage.join(dataset, "shards"))
    lease = read_lease(dataset)
    examined = Examined(dataset, card, records, tables, len(records) - num_read, files, lease)
    return examined, findings


def _unreadable(what: str) -> Finding:
    why = "readers stop at it, or leave out its shard"
    todo = "remove the shard's _stats.json and run `pipeline run extract`: it is made again"
    return Finding("error", what, why, todo)


def _read(dataset: str, number: int) -> tuple[ShardRecord | str | None, pa.Table | str | None]:
    """A shard's record and rows, or what is wrong with either; None for what is not there."""
    try:
        record = read_record(dataset, number)
    except FileNotFoundError:  # made again in this moment
        return None, None
    except AbortError as err:
        return str(err), None
    try:
        return record, read_table(dataset, number, ROW_SCHEMA.names)
    except FileNotFoundError:  # told by the check of a record's files
        return record, None
    except pa.ArrowInvalid as err:
        reason = str(err).splitlines()[0]
        return record, f"shards/{record.name}.parquet: cannot be read: {reason}"


def _manifest(examined: Examined) -> list[Finding]:
    """Whether the manifest lists what is there; a run that is at work writes it at its end."""
    problems = manifest_problems(examined.dataset, examined.tables)
    if not problems:
        return []
    why = "a run that was stopped, or shards that were made elsewhere: queries miss their rows"
    if examined.running:
        todo = "wait for the run's end, which writes it"
        return [Finding("note", "manifest.parquet: out of date", why, todo)]
    whole = examined.unread == 0

    def rebuild() -> str:
        write_manifest(examined.dataset, examined.records)
        return f"manifest.parquet written anew, of {len(examined.records)} shards"

    todo = "`--fix` writes it anew" if whole else "mend the shards first, then `--fix`"
    what = f"manifest.parquet{problems[0].partition('manifest.parquet')[2].partition(';')[0]}"
    return [Finding("warning", what, why, todo, fix=rebuild if whole else None)]
