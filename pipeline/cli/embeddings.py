"""`pipeline embeddings export|import`: vectors in the layouts of other programs."""

from typing import Annotated

import typer

from pipeline.cli import options, show
from pipeline.cli.extraction import refuse_foreign
from pipeline.cli.indexes import holding_index

app = typer.Typer(no_args_is_help=True)

FormatOption = Annotated[
    str, typer.Option("--format", help="clip-retrieval, parquet or huggingface.")
]


@app.command(name="export")
def export(
    index: Annotated[str, typer.Argument(help="The index that `run index` wrote.")],
    output: Annotated[str, typer.Argument(help="Folder or URL that is written.")],
    fmt: FormatOption,
    debug: options.Debug = False,
) -> None:
    """The embeddings of an index's clips in the layout of another program. Run again, it writes
    only what is missing."""
    from index.formats.exporting import export_embeddings
    from index.formats.layouts import check_format

    chosen = check_format(fmt)
    with show.progress("export", 1, "shards") as bar:

        def on_part(done: int, total: int) -> None:
            bar.reach(done, total, "")

        made = export_embeddings(index, output, chosen, on_part)
    rows = [
        ("clips", made.clips),
        ("shards kept from before", made.kept),
        ("files", made.files),
        ("megabytes", round(made.size_bytes / 2**20, 3)),
    ]
    show.table(f"Exported to {output} as {chosen}", ("what", "number"), rows)


@app.command(name="import")
def import_vectors(
    source: Annotated[str, typer.Argument(help="Folder, URL or file of the vectors.")],
    output: Annotated[str, typer.Option("--output", help="Folder or URL of the index.")],
    fmt: FormatOption,
    vectors: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=MODALITY: the folder or column NAME holds vectors of video, audio or text, "
            "as in img_emb=video. May be repeated; the usual names need none."
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FIELD: the column NAME says a clip's key, uri, start, end, text, label, "
            "split or language, as in title=text. May be repeated."
        ),
    ] = None,
    made_by: Annotated[str, typer.Option(help="What made the vectors, for the card.")] = "",
    executor: options.ExecutorOption = "local",
    workers: options.Workers = 1,
    take_over: options.TakeOver = False,
    preset: options.Preset = "embedded",
    config: options.ConfigFile = None,
    sets: options.Sets = None,
    debug: options.Debug = False,
) -> None:
    """Vectors of other programs to an index, which is asked by its own clips and by vectors. Run
    again, it reads only what has changed. Of the configuration it uses index."""
    import torch

    from index.build import ray_executor
    from index.formats.importing import ImportOptions, ImportProgress, import_embeddings
    from index.formats.layouts import check_format

    given = ImportOptions(
        check_format(fmt),
        options.pairs("--vectors", vectors),
        options.pairs("--column", column),
        made_by,
    )
    settings = options.load_config(preset, config, sets).index
    on_ray = options.check_executor(executor) == "ray"
    execute = ray_executor(settings, torch.device("cpu"), workers) if on_ray else None
    refuse_foreign(output, "index_infos.json")
    with (
        holding_index(output, take_over=take_over) as holder,
        show.progress("import", 1, "parts") as bar,
    ):

        def on_progress(state: ImportProgress) -> None:
            holder.check()
            bar.reach(state.done, state.total, f"{state.kept} kept")

        card = import_embeddings(source, output, given, settings, on_progress, execute=execute)
    rows = [
        ("clips", card.count),
        ("dimension", card.dimension),
        *((f"{name} vectors", count) for name, count in card.embeddings.items()),
        ("indexed", " + ".join(card.target_modalities)),
        ("factory", f"{card.factory} ({card.reason})"),
        *((name, share) for name, share in card.recall.items()),
    ]
    show.table(f"Imported to {output} from {given.fmt}", ("what", "value"), rows)
