"""What is wrong with a dataset as a whole, what to do about it, and the repairs that are safe."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from extractors.errors import AbortError, DamagedError
from pipeline import storage
from pipeline.dataset import read_dataset_card, with_digests, write_manifest
from pipeline.doctor_checks import (
    CHECKS,
    EXTRACT,
    Examined,
    Finding,
    Severity,
    missing_sources,
)
from pipeline.lease import read_lease
from pipeline.recovery import recover_rows, restore_parquet
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
        try:
            findings += check(examined)
        except DamagedError as err:
            findings.append(_damaged_plan(str(err)))
    findings = list(dict.fromkeys(findings))
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
    unread: list[int] = []

    def readable() -> Iterator[pa.Table]:
        numbers = shard_numbers(dataset)
        for number, (record, table, found) in zip(
            numbers, map_shards(dataset, partial(_read, dataset), numbers), strict=True
        ):
            findings.extend(found)
            if record is not None:
                records.append(record)
            if table is not None:
                yield table
            elif found:
                unread.append(number)

    tables = join_tables(readable())
    files = storage.names(storage.join(dataset, "shards"))
    lease = read_lease(dataset)
    return Examined(dataset, card, records, tables, unread, files, lease), findings


def _read(dataset: str, number: int) -> tuple[ShardRecord | None, pa.Table | None, list[Finding]]:
    """A shard's record and rows, None for what cannot be had, and what is wrong with them."""
    try:
        record = read_record(dataset, number)
    except FileNotFoundError:  # made again in this moment
        return None, None, []
    except AbortError as err:
        why = "its shard counts as not made"
        return None, None, [Finding("error", str(err), why, f"{EXTRACT}: it is made again")]
    try:
        table = read_table(dataset, number, ROW_SCHEMA.names)
        return record, with_digests(table, [record]), []
    except FileNotFoundError:
        what = f"shards/{record.name}.parquet: missing"
    except DamagedError as err:
        what = str(err)
    return record, None, [_lost_rows(dataset, record, what)]


def _damaged_plan(what: str) -> Finding:
    todo = "restore it from a copy, or extract into a new folder"
    return Finding("error", what, "which video is in which shard cannot be known", todo)


def _lost_rows(dataset: str, record: ShardRecord, what: str) -> Finding:
    """A parquet that is lost; the manifest may have its rows."""
    why = "readers stop at it, or leave out its shard"
    if recover_rows(dataset, record) is None:
        return Finding("error", what, why, f"{EXTRACT}: the shard is made again")

    def restore() -> str:
        if read_record(dataset, record.number) != record:
            return "left alone: the shard has been made again meanwhile"
        restore_parquet(dataset, record)
        return "written anew out of the manifest"

    return Finding("error", what, why, "`--fix` writes it anew out of the manifest", fix=restore)


def _manifest(examined: Examined) -> list[Finding]:
    """Whether the manifest lists what is there; a run that is at work writes it at its end."""
    problems = manifest_problems(examined.dataset, examined.tables)
    if not problems:
        return []
    why = "a run that was stopped, or shards that were made elsewhere: queries miss their rows"
    if examined.running:
        todo = "wait for the run's end, which writes it"
        return [Finding("note", "manifest.parquet: out of date", why, todo)]
    whole = not examined.unread

    def rebuild() -> str:
        write_manifest(examined.dataset, examined.records, always=True)
        return f"manifest.parquet written anew, of {len(examined.records)} shards"

    todo = "`--fix` writes it anew" if whole else "mend the shards first, then `--fix`"
    what = f"manifest.parquet{problems[0].partition('manifest.parquet')[2].partition(';')[0]}"
    return [Finding("warning", what, why, todo, fix=rebuild if whole else None)]
