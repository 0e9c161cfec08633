"""What the pages of docs/ hold: blocks, commands, tables; and running a command in this process."""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from extractors.errors import PipelineError, UsageError
from pipeline.cli.app import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
GENERATED = ("reference.md",)

FENCE = re.compile(
    r"^```(?P<kind>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<body>.*?)^```$", re.M | re.S
)
SHELL = ("mkdir", "cp", "printf")
"""Other programs that the tests run."""
CLUSTER = ("serve", "demo", "weights")
"""Commands that need a network, or do not end: understood, not run."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    kind: str
    title: str
    body: str


@dataclass(frozen=True)
class Command:
    """One line of an sh block."""

    page: str
    line: str
    exit_code: int
    """`# exit code 3` at the end of the line; else 0."""

    @property
    def words(self) -> list[str]:
        """As a shell would split it."""
        return shlex.split(self.line, comments=True)

    @property
    def is_run(self) -> bool:
        """Whether it can run here: no cluster, no network, an end, and nothing else in its line."""
        if self.words[0] in SHELL:
            return True
        far = any("://" in word or word in ("ray", "--watch") for word in self.words)
        plain = not any(sign in self.words for sign in ("|", ">", "&&"))
        ours = self.words[0] == "pipeline" and self.words[1] not in CLUSTER
        return ours and plain and not far


def read(page: str) -> str:
    """A page's text."""
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """All fenced blocks in order."""
    return [
        Block(page, found["kind"], found["title"] or "", found["body"])
        for found in FENCE.finditer(read(page))
    ]


def commands(block: Block) -> list[Command]:
    """The lines of an sh block, continued ones joined."""
    lines = block.body.replace("\\\n", " ").splitlines()
    return [_command(block.page, line) for line in lines if line.strip()]


def _command(page: str, line: str) -> Command:
    code = re.search(r"# exit code (\d)$", line)
    return Command(page, line, int(code[1]) if code else 0)


def pipeline_words(line: str) -> Iterator[list[str]]:
    """The words of each call of the pipeline in a line, after `pipeline` or an image of it."""
    for found in re.finditer(r"(?:^|ray |-- +|\s)pipeline(?::\w+)? (?!\.(?:\s|$))([^|>]+)", line):
        yield shlex.split(found[1], comments=True)


def understand(words: Sequence[str]) -> None:
    """Parses a call by the command tree: fails where a command, option or argument is not one."""
    command: Any = typer.main.get_command(app)
    left = list(words)
    while hasattr(command, "commands"):
        command = command.commands[left.pop(0)]
    command.make_context(command.name, left)


def run(command: Command, folder: Path) -> None:
    """Runs it in `folder`; fails where its exit code is another than the page says."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        code, printed = _outcome(command)
    finally:
        os.chdir(before)
    assert code == command.exit_code, f"{command.page}: {command.line}\n{code}\n{printed}"


def _outcome(command: Command) -> tuple[int, str]:
    if command.words[0] != "pipeline":
        done = subprocess.run(
            ["bash", "-ec", command.line], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stderr
    result = CliRunner().invoke(app, command.words[1:])
    if isinstance(result.exception, PipelineError):
        return (2 if isinstance(result.exception, UsageError) else 1), str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def tables(page: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """(heading, rows by column) of each table of a page."""
    heading, lines = "", read(page).splitlines()
    for number, line in enumerate(lines):
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if re.fullmatch(r"\|[-:| ]+\|", line):
            columns = _cells(lines[number - 1])
            rows = []
            for row in lines[number + 1 :]:
                if not row.startswith("|"):
                    break
                rows.append(dict(zip(columns, _cells(row), strict=True)))
            yield heading, rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def code(cell: str) -> str:
    """What stands in backticks."""
    found = re.fullmatch(r"`(.+)`", cell)
    assert found, cell
    return found[1]
