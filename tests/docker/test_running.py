"""docs/running.md: every command of it that is ours is understood by the command line."""

import re
import shlex
from pathlib import Path
from typing import Any

import typer

from pipeline.cli import app, render

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """The words after `pipeline`, or after an image's name, of each line of the sh blocks."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.S)).replace("\\\n", " ")
    found = []
    for line in blocks.splitlines():
        if match := re.search(r"(?:^|ray |-- +|\s)pipeline(?::\w+)? (?!\.$)([^|>]+)", line):
            found.append(shlex.split(match[1]))
    return [words for words in found if words != ["."]]


def test_commands_exist() -> None:
    found = commands()
    assert len(found) >= 14
    for words in found:
        command: Any = typer.main.get_command(app.app)
        if words[0] == "render":
            command, words = typer.main.get_command(render.app), words[1:]
        while hasattr(command, "commands"):
            command, words = command.commands[words[0]], words[1:]
        command.make_context(command.name, words)


def test_files_exist() -> None:
    named = set(re.findall(r"\bdocker/[\w./*-]+\w", PAGE)) - {"docker/.env"}  # the user makes it
    assert named
    for name in named:
        assert list(ROOT.glob(name)), name
