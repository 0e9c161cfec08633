"""`pipeline checkpoint import|export`: state dicts of MCN's released code to runs and back."""

from typing import Annotated

import typer

from pipeline.cli import options, show

app = typer.Typer(no_args_is_help=True)


@app.command(name="import")
def import_(
    file: Annotated[str, typer.Argument(help="The released state dict, as e9.pth.")],
    output: Annotated[str, typer.Option(help="Folder or URL of the run to make.")],
    preset: options.Preset = "mcn_official",
    config: options.ConfigFile = None,
    sets: options.Sets = None,
    debug: options.Debug = False,
) -> None:
    """A run of a released checkpoint, to evaluate and index with, or to train on from."""
    from training.official_checkpoints import import_checkpoint

    settings = options.load_config(preset, config, sets)
    card = import_checkpoint(file, output, settings.train)
    rows = [
        ("weights", card["parameters"]),
        ("embedding", card["embedding_dim"]),
        ("visual columns", sum(card["dims"]["visual"])),
        ("text columns", card["dims"]["text"]),
    ]
    show.table(f"Imported to {output}", ("what", "number"), rows)


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="The run that `run train` wrote.")],
    output: Annotated[str, typer.Option(help="File or URL of the state dict to write.")],
    best: Annotated[
        bool, typer.Option("--best", help="The best checkpoint instead of the last.")
    ] = False,
    debug: options.Debug = False,
) -> None:
    """The network of a run as a state dict that the released code loads."""
    from training.official_checkpoints import export_checkpoint

    tensors = export_checkpoint(run, output, "best" if best else "last")
    show.table(f"Exported to {output}", ("what", "number"), [("tensors", tensors)])
