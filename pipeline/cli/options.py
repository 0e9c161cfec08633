"""Options that several commands share, and the whole configuration."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from extractors.errors import UsageError

if TYPE_CHECKING:
    import torch

    from pipeline.cli.config import PipelineConfig

Dataset = Annotated[str, typer.Option(help="Folder or URL of the dataset.")]
DatasetArgument = Annotated[str, typer.Argument(help="Folder or URL of the dataset.")]
IndexArgument = Annotated[str, typer.Argument(help="The index that `run index` wrote.")]
Model = Annotated[str, typer.Option(help="The run that `run train` wrote.")]
ExecutorOption = Annotated[str, typer.Option("--executor", help="local or ray.")]
Workers = Annotated[int, typer.Option(help="Worker processes, or actors of Ray.", min=1)]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
DropFailed = Annotated[
    bool,
    typer.Option(
        "--drop-failed",
        help="Make a shard again even where a video that it has fails now (its file is out of "
        "reach, damaged …): its features are lost. Otherwise such a shard stays as it was.",
    ),
]
Prune = Annotated[
    bool, typer.Option("--prune", help="Drop videos that the source no longer lists.")
]
TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Work although another run seems to be at it.")
]
MetricsFile = Annotated[
    str | None,
    typer.Option(help="Prometheus metrics go here; by default to metrics.prom of the dataset."),
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", help="A condition, as in reason=timeout or key!=test_*. May repeat."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Preset = Annotated[str, typer.Option(help="embedded, reference, mcn_official or xdc.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file over the preset.", dir_okay=False)
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting over all, as in train.epochs=10. May be repeated."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def check_executor(name: str) -> Literal["local", "ray"]:
    """The executor of that name. Raises UsageError."""
    if name not in ("local", "ray"):
        raise UsageError(f"--executor {name}: allowed are local and ray")
    return cast(Literal["local", "ray"], name)


def pairs(
    option: str, given: Sequence[str] | None, *, may_be_empty: bool = False
) -> dict[str, str]:
    """NAME=VALUE, repeated; the last '=' counts. Raises UsageError for anything else, for a name
    given twice, and for no VALUE but where it `may_be_empty`."""
    found: dict[str, str] = {}
    for pair in given or ():
        name, sign, value = pair.rpartition("=")
        if not sign or not name or name in found or not (value or may_be_empty):
            raise UsageError(f"{option} {pair}: NAME=VALUE is wanted, each name once")
        found[name] = value
    return found


def load_config(preset: str, file: Path | None, sets: list[str] | None) -> "PipelineConfig":
    """The preset, then the file, then each `--set`. Raises UsageError."""
    from pipeline.cli.config import PipelineConfig
    from pipeline.settings import load_settings

    layers = [(f"preset {preset}", preset_text(preset))]
    if file is not None:
        try:
            layers.append((str(file), file.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as err:
            raise UsageError(f"--config {file}: {err}") from err
    return load_settings(PipelineConfig, layers, sets or [])


def preset_names() -> list[str]:
    """The presets that come with the package."""
    folder = resources.files("pipeline").joinpath("presets")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir())


def preset_text(preset: str) -> str:
    """The YAML of a preset. Raises UsageError that lists them."""
    if preset not in preset_names():
        names = ", ".join(preset_names())
        raise UsageError(f"--preset {preset}: no such preset; there are: {names}")
    source = resources.files("pipeline").joinpath("presets", f"{preset}.yaml")
    return source.read_text(encoding="utf-8")


def choose_device(name: str) -> "torch.device":
    """auto: CUDA where there is one. Raises UsageError for CUDA where there is none."""
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {name}: allowed are auto, cpu and cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UsageError("--device cuda: torch finds no CUDA device here; use --device cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")
