"""Writes docs/reference.md: every command and every setting, from the code itself.

Run `python docs/make_reference.py` after changing either; tests/test_docs.py fails until then.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from extractors.config import ExtractorConfig
from pipeline.cli.app import app
from pipeline.cli.config import PipelineConfig

TARGET = Path(__file__).parent / "reference.md"


def main() -> None:
    """Writes the file, or with --check says whether it is up to date."""
    text = reference()
    if "--check" in sys.argv:
        sys.exit(0 if TARGET.read_text(encoding="utf-8") == text else "docs/reference.md is old")
    TARGET.write_text(text, encoding="utf-8")


def reference() -> str:
    """The whole page."""
    return "\n".join(
        [
            "# Reference",
            "",
            "Made by `python docs/make_reference.py`; do not edit.",
            "",
            "## Commands",
            "",
            *commands(typer.main.get_command(app), "pipeline"),
            "## Settings",
            "",
            "Filled by a preset, a `--config` file and `--set KEY=VALUE`, later over earlier.",
            "",
            *settings(),
        ]
    )


def commands(command: Any, path: str) -> Iterator[str]:
    """A section a command, with its arguments and options."""
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from commands(child, f"{path} {name}")
        return
    yield from (f"### `{path}`", "", command.help or "", "")
    for parameter in command.params:
        if parameter.name != "help":
            names = " ".join(getattr(parameter, "opts", [parameter.name]))
            if parameter.param_type_name == "argument":
                names = (parameter.name or "").upper()
            yield f"- `{names}`: {getattr(parameter, 'help', None) or ''}{_shown(parameter)}"
    yield ""


def _shown(parameter: Any) -> str:
    if parameter.required:
        return " Required."
    default = parameter.default
    plain = isinstance(default, str | int | float) and default != ""
    return f" Default: `{default}`." if plain else ""


def settings() -> Iterator[str]:
    """One list a section of the configuration."""
    for name, field in PipelineConfig.model_fields.items():
        yield from (f"### `{name}`", "")
        yield from fields(_model(field.annotation), f"{name}.")
        if name == "extract":
            for kind in get_args(get_args(ExtractorConfig)[0]):
                label = kind.model_fields["kind"].default
                yield from ("", f"#### Extractors with `kind: {label}`", "", kind.__doc__, "")
                yield from fields(kind, "extract.extractors.NAME.")
        yield ""


def fields(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """One line a setting; nested models are walked into."""
    for name, field in model.model_fields.items():
        nested = _model(field.annotation)
        if nested is not None:
            yield from fields(nested, f"{prefix}{name}.")
        else:
            about = " ".join((field.description or "").split())
            default = _default(field.get_default(call_default_factory=True))
            yield f"- `{prefix}{name}`{default}: {about}"


def _default(value: Any) -> str:
    return "" if value is PydanticUndefined else f" = `{value!r}`"


def _model(annotation: Any) -> Any:
    """The settings model that an annotation holds, `X | None` too; None for plain values."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


if __name__ == "__main__":
    main()
