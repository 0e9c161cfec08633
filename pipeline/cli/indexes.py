"""`pipeline index append|verify`: looking after indexes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from extractors.errors import AbortError
from pipeline.cli import options, show

if TYPE_CHECKING:
    from pipeline.lease import Holder

app = typer.Typer(no_args_is_help=True)


@contextmanager
def holding_index(index: str, *, take_over: bool) -> "Iterator[Holder]":
    """Holds the lease of an index and removes what killed work on it left; the parts of a build in
    pieces only at a clean end, for they are what it goes on from."""
    from index.leftovers import remove_parts, sweep_temporaries
    from pipeline.lease import holding

    with holding(index, take_over=take_over) as holder:
        sweep_temporaries(index)
        yield holder
        remove_parts(index)


@app.command()
def append(
    index: options.IndexArgument,
    compact: Annotated[
        bool, typer.Option("--compact", help="Build it anew without the vectors that are masked.")
    ] = False,
    executor: options.ExecutorOption = "local",
    workers: options.Workers = 1,
    device: options.Device = "auto",
    take_over: options.TakeOver = False,
    debug: options.Debug = False,
) -> None:
    """The new and changed shards of its dataset, embedded and added; what they replace, masked."""
    from index.append import append_index
    from index.build import BuildProgress
    from index.card import read_card

    execute_on, chosen = options.check_executor(executor), options.choose_device(device)
    read_card(index)  # before anything is written there
    with (
        holding_index(index, take_over=take_over) as holder,
        show.progress("append", 1, "shards") as bar,
    ):

        def on_progress(state: BuildProgress) -> None:
            holder.check()
            bar.reach(state.done, state.total, f"{state.kept} kept")

        card = append_index(
            index,
            chosen,
            on_progress,
            executor=execute_on,
            num_workers=workers,
            compact=compact,
        )
    rows = [
        ("clips", card.count - card.masked),
        ("masked", card.masked),
        ("factory", card.factory),
        *((name, share) for name, share in card.recall.items()),
    ]
    show.table(f"Appended to {index}", ("what", "value"), rows)


@app.command()
def verify(index: options.IndexArgument, debug: options.Debug = False) -> None:
    """Compares ids, embeddings, shards and card, searches a sample; exit code 1 if any differ."""
    from index.verify import verify_index

    problems = verify_index(index)
    for problem in problems:
        show.error(problem)
    if problems:
        raise AbortError(f"{index}: {len(problems)} problems")
    show.note(f"{index}: ids, embeddings, shards and card agree")
