"""`pipeline errors`: which videos failed, and why."""

import json
from typing import Annotated

import typer

from extractors.errors import UsageError
from pipeline.cli import options, show

MOST_LISTED = 20


def errors(
    dataset: options.DatasetArgument,
    by: Annotated[
        str, typer.Option(help="Count by: reason, stage, extractor, split or shard.")
    ] = "reason",
    where: options.Where = None,
    limit: Annotated[
        int | None,
        typer.Option(help="List at most so many; by default 20, with --json all.", min=0),
    ] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """The failed videos, counted and listed. Works while a run goes on."""
    from pipeline.dataset import read_dataset_card
    from pipeline.failures import GROUPS, count_failed, failed_videos, parse_where

    wheres = parse_where(where or [])
    if by not in GROUPS:
        raise UsageError(f"--by {by}: allowed are {', '.join(GROUPS)}")
    read_dataset_card(dataset)
    failed = failed_videos(dataset, wheres)
    counts = count_failed(failed, by)
    if as_json:
        facts = {"dataset": dataset, "failed": len(failed), "by": by}
        listed = {"counts": [{by: value, "videos": count} for value, count in counts]}
        videos = {"videos": failed.slice(0, limit).to_pylist()}
        typer.echo(json.dumps(facts | listed | videos, indent=2))
        return
    if not len(failed):
        show.note(f"{dataset}: no failed videos" + (" meet these conditions" if wheres else ""))
        return
    limit = MOST_LISTED if limit is None else limit
    counted = [("(none)" if value is None else value, count) for value, count in counts]
    show.table(f"{show.count(len(failed), 'failed video')} of {dataset}", (by, "videos"), counted)
    rows = failed.slice(0, limit).to_pylist()
    if rows:
        columns = ("key", "reason", "uri", "error_message")
        listed_rows = [[row[name] for name in columns] for row in rows]
        show.table("Failed videos", ("key", "reason", "uri", "message"), listed_rows)
    if len(failed) > limit:
        show.note(f"and {len(failed) - limit} more: --limit {len(failed)} lists all")
