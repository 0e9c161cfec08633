"""`pipeline demo`: the main job on the videos that come with the package."""

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import evaluation_tables, options, run, search, show

if TYPE_CHECKING:
    import torch

    from index.page import QueryResults
    from index.search import SearchIndex

SETTINGS = ("extract.videos_per_shard=8",)  # small shards: the bar moves, both workers work
QUERIES = (
    "a cat with green eyes looks around",
    "pouring a hot drink into a cup",
    "a rocket lifts off from the launch pad",
)


def demo(
    output: Annotated[str, typer.Option("--output", help="Folder that is written.")] = ".demo",
    executor: options.ExecutorOption = "local",
    workers: options.Workers = 2,
    device: options.Device = "auto",
    config: options.ConfigFile = None,
    sets: options.Sets = None,
    debug: options.Debug = False,
) -> None:
    """Extract, train, index and search the demo corpus; ends in tables and a page to open."""
    from training.evaluation import evaluate_clusters, evaluate_retrieval

    settings = options.load_config("embedded", config, [*SETTINGS, *(sets or [])])
    folder = str(Path(output).absolute())
    source = str(resources.files("pipeline").joinpath("demo_corpus", "labels.csv"))
    run.run_stages(source, folder, settings, executor, workers, device)
    dataset, model, index = (f"{folder}/{name}" for name in ("dataset", "run", "index"))
    chosen = options.choose_device(device)
    retrieval = evaluate_retrieval(model, dataset, device=chosen)
    columns, rows = evaluation_tables.retrieval_table(retrieval)
    show.table("Held-out videos: retrieval (chance in brackets)", columns, rows)
    clusters = evaluation_tables.cluster_table(evaluate_clusters(model, dataset, device=chosen))
    show.table("Held-out videos: clusters against topics", *clusters)
    page = write_demo_page(index, chosen, columns, rows)
    show.out.print(f"Page with thumbnails: {page}", soft_wrap=True)


def write_demo_page(
    index: str, device: "torch.device", columns: tuple[str, ...], rows: list[tuple[Any, ...]]
) -> str:
    """Searches the three queries, prints them, writes the page; gives its path."""
    from index.page import write_page
    from index.search import open_index

    opened = open_index(index)
    results = search_texts(opened, device)
    for result in results:
        search.print_hits(result.query, list(result.hits))
    page = f"{index}/search.html"
    figures = {row[0]: dict(zip(columns[1:], map(str, row[1:]), strict=True)) for row in rows}
    write_page(
        page,
        results,
        opened.card,
        title="Demo: three text queries",
        figures=figures,
        figures_note="On the held-out videos; what chance would give is in brackets.",
        counts={"videos": opened.card.videos, "clips": opened.card.clips},
    )
    return page


def search_texts(opened: "SearchIndex", device: "torch.device") -> "list[QueryResults]":
    """The results of the demo's queries, the models loaded once."""
    from index.embeddings import load_embedder, query_from_text_vectors
    from index.page import QueryResults
    from index.search import search as search_index
    from pipeline.dataset import read_dataset_config
    from pipeline.query import embed_sentences

    embedder = load_embedder(opened.card.model, device)
    sentences = embed_sentences(QUERIES, read_dataset_config(opened.card.dataset), device)
    return [
        QueryResults(
            "text",
            query,
            search_index(opened, query_from_text_vectors(embedder, rows), 5),
        )
        for query, rows in zip(QUERIES, sentences, strict=True)
    ]
