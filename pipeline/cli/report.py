"""`pipeline report`: a dataset, a run or an index as one HTML file."""

from typing import TYPE_CHECKING, Annotated

import typer

from extractors.errors import UsageError
from pipeline.cli import options, show

if TYPE_CHECKING:
    from pipeline.report_page import Section

CARDS = {"dataset.json": "dataset", "card.json": "run", "index_infos.json": "index"}


def report(
    target: Annotated[
        str, typer.Argument(help="A dataset, a run, an index, or what `run all` wrote.")
    ],
    output: Annotated[
        str,
        typer.Option("--output", help="The HTML file; an earlier report there is replaced."),
    ] = "report.html",
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite a file that is no report.")
    ] = False,
    debug: options.Debug = False,
) -> None:
    """A dataset, a run or an index as one HTML file with plots, that needs no server and loads
    nothing: to keep, to send, to read on a phone."""
    from pipeline.report_page import check_target, write_report

    check_target(output, force=force)
    found = _found(target)
    sections = [section for kind, url in found for section in _sections(kind, url)]
    title = f"Report: {', '.join(kind for kind, _ in found)}"
    size = write_report(output, target, title, sections)
    show.note(f"{output}: {len(sections)} sections, {size / 1e6:.1f} MB")


def _found(target: str) -> list[tuple[str, str]]:
    """What a folder is, or holds: kinds and URLs. Raises UsageError for neither."""
    from pipeline import storage

    for card, kind in CARDS.items():
        if storage.exists(storage.join(target, card)):
            return [(kind, target)]
    below = [(kind, card, storage.join(target, kind)) for card, kind in CARDS.items()]
    found = [(kind, url) for kind, card, url in below if storage.exists(storage.join(url, card))]
    if not found:
        names = ", ".join(f"{card} ({kind})" for card, kind in CARDS.items())
        raise UsageError(f"{target}: nothing to report: it holds none of {names}")
    return found


def _sections(kind: str, url: str) -> "list[Section]":
    if kind == "dataset":
        from pipeline.report import report_dataset

        return report_dataset(url)
    if kind == "run":
        from training.report import report_run

        return report_run(url)
    from index.report import report_index

    return report_index(url)
