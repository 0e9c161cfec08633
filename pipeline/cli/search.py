"""`pipeline search`."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from extractors.errors import PipelineError, UsageError
from pipeline.cli import options, show

if TYPE_CHECKING:
    import torch

    from index.hits import Hit
    from index.queries import Term
    from index.search import SearchIndex

Terms = list[str] | None
KIND_HELP = (
    "A text, or text:…, audio:FILE, video:FILE, video@12.5:FILE, media:FILE, clip:ID, vector:FILE"
)


def search(
    index: options.IndexArgument,
    text: Annotated[str | None, typer.Option(help="Words to look for.")] = None,
    audio: Annotated[str | None, typer.Option(help="A file, by its sound.")] = None,
    video: Annotated[str | None, typer.Option(help="A file, by its picture.")] = None,
    media: Annotated[
        str | None, typer.Option(help="A file, by its picture and its sound, what it has.")
    ] = None,
    clip: Annotated[
        str | None, typer.Option(help="A clip of the index, by its id KEY@start-end.")
    ] = None,
    vector: Annotated[
        str | None, typer.Option(help="A vector of the index's dimension, as an .npy.")
    ] = None,
    at: Annotated[
        float | None, typer.Option(help="Only this second of the file, and what is around it.")
    ] = None,
    window: Annotated[float, typer.Option(help="Seconds around --at.", min=0.1)] = 10.0,
    plus: Annotated[Terms, typer.Option(help=f"{KIND_HELP}; added. May be repeated.")] = None,
    minus: Annotated[Terms, typer.Option(help="Likewise, taken away.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Compare with clips' video, audio or text alone. May be repeated."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Number of results.", min=1)] = 5,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="Only clips with video=KEY, label=…, split=…, language=… or time=START-END. "
            "May be repeated."
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Join overlapping results of one video.")
    ] = False,
    as_json: options.Json = False,
    queries: Annotated[
        str | None, typer.Option(help="A csv, parquet or jsonl of queries, one a row.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="With --queries: the parquet of hits.")] = None,
    device: options.Device = "auto",
    debug: options.Debug = False,
) -> None:
    """The clips nearest to a text, a sound, a video, a clip, or sums and differences of these."""
    from index.search import open_index

    given = {"text": text, "audio": audio, "video": video, "media": media, "clip": clip}
    given["vector"] = vector
    chosen = options.choose_device(device)
    if queries is not None:
        if any(given.values()) or plus or minus or where or at is not None or as_json:
            raise UsageError("--queries: what is looked for and where stands in its rows")
        _search_file(open_index(index), queries, output, chosen, window, k, target, merge)
        return
    if output is not None:
        raise UsageError("--output: goes with --queries; --json prints one query's results")
    terms = query_terms(given, at, plus or [], minus or [])
    hits = _search_one(open_index(index), terms, chosen, window, k, target, where, merge)
    if where and not hits:
        show.note(f"{index}: no clip meets --where {' '.join(where)}")
    if as_json:
        show.out.print_json(json.dumps([asdict(hit) for hit in hits]))
    else:
        print_hits(" ".join(_words(term) for term in terms), hits)


def query_terms(
    given: dict[str, str | None], at: float | None, plus: list[str], minus: list[str]
) -> "list[Term]":
    """What is looked for. Raises UsageError for nothing, and for two things without --plus."""
    from index.queries import KINDS, Term, parse_term

    named = [(kind, value) for kind in KINDS if (value := given[kind]) is not None]
    if len(named) > 1 or not (named or plus):
        kinds = ", ".join(f"--{kind}" for kind in KINDS)
        raise UsageError(f"give exactly one of {kinds}; further ones with --plus and --minus")
    if at is not None and not named:
        raise UsageError("--at: a moment of a file; of those in --plus as in video@12.5:FILE")
    terms = [Term(kind, value, 1.0, at) for kind, value in named]
    terms += [parse_term(term, 1.0) for term in plus]
    return terms + [parse_term(term, -1.0) for term in minus]


def _search_one(
    opened: "SearchIndex",
    terms: "list[Term]",
    device: "torch.device",
    window: float,
    k: int,
    targets: Terms,
    where: Terms,
    merge: bool,
) -> "list[Hit]":
    from index.encoding import QueryEncoder
    from index.filters import parse_where
    from index.search import search as search_index

    conditions = parse_where(where or [])
    with QueryEncoder(opened, device, window=window) as encoder:
        (query,) = encoder.encode([terms])
    if isinstance(query, PipelineError):
        raise query
    return search_index(opened, query, k, conditions, targets=targets or None, merge=merge)


def _search_file(
    opened: "SearchIndex",
    queries: str,
    output: str | None,
    device: "torch.device",
    window: float,
    k: int,
    targets: Terms,
    merge: bool,
) -> None:
    from index.batch_search import read_queries, search_queries
    from index.encoding import QueryEncoder

    if output is None:
        raise UsageError("--queries: say with --output where the parquet of hits goes")
    named = read_queries(queries)
    with QueryEncoder(opened, device, window=window) as encoder:
        failed = search_queries(
            opened, encoder, named, output, k, targets=targets or None, merge=merge
        )
    show.note(f"{output}: {len(named)} queries, {failed} failed")
    if failed:
        raise typer.Exit(3)


def _words(term: "Term") -> str:
    sign = "− " if term.weight < 0 else ""
    return f"{sign}{term.value}" + (f" at {term.at:g} s" if term.at is not None else "")


def print_hits(query: str, hits: "list[Hit]") -> None:
    """The results of one query as a table."""
    rows = [
        (h.rank, h.video, f"{h.start:.1f}-{h.end:.1f} s", round(h.score, 3), h.text or "")
        for h in hits
    ]
    show.table(f"“{query}”", ("rank", "video", "time", "score", "transcript"), rows)
