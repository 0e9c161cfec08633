"""What the pages show works: every command is understood, and run where this machine can; Python is
executed, settings are loaded, tables of names are those of the code."""

import sys
from pathlib import Path

import pytest
import yaml

from pipeline.cli.config import PipelineConfig
from pipeline.cli.options import load_config
from tests.docs import pages
from tests.docs.pages import Block, Command

SHOWN = [(page, blocks) for page in pages.PAGES if (blocks := pages.blocks(page))]
ELSEWHERE = ("running.md",)
"""Its commands run in containers and on clusters; tests/docker/test_running.py has more of it."""
SLOW = ("howto/train_xdc.md", "howto/reports.md")
"""Two extractions and two trainings; plots of everything. Run by `make test-slow`."""


def commands_of(page: str) -> list[Command]:
    return [c for block in pages.blocks(page) if block.kind == "sh" for c in pages.commands(block)]


def runnable() -> list[object]:
    names = [page for page, _ in SHOWN if page not in ELSEWHERE and commands_of(page)]
    marks = {name: [pytest.mark.slow] if name in SLOW else [] for name in names}
    return [pytest.param(name, marks=marks[name], id=name) for name in names]


def test_every_block_says_what_it_is() -> None:
    known = {"sh", "text", "yaml", "csv", "json", "python", "toml"}
    assert {block.kind for _, blocks in SHOWN for block in blocks} <= known
    for page, blocks in SHOWN:
        fences = [line for line in pages.read(page).splitlines() if line.lstrip().startswith("```")]
        assert len(fences) == 2 * len(blocks), f"{page}: a fence that is not understood"


@pytest.mark.parametrize("page", [page for page, _ in SHOWN])
def test_every_command_is_understood(page: str) -> None:
    shown = [b.body for b in pages.blocks(page) if b.kind in ("sh", "text")]
    for line in "\n".join(shown).replace("\\\n", " ").splitlines():
        if line.startswith("error:"):
            continue
        for words in pages.pipeline_words(line):
            pages.understand(words)


def test_commands_are_found() -> None:
    """The two tests around this one would pass on pages without commands."""
    found = [command for page, _ in SHOWN for command in commands_of(page)]
    assert len(found) > 60
    assert sum(command.is_run for command in found) > 45


@pytest.mark.parametrize("page", runnable())
def test_every_command_runs(page: str, work: Path) -> None:
    """In order, among the files that the page shows; from what the quick start leaves."""
    for block in pages.blocks(page):
        if block.title:
            (work / block.title).write_text(block.body, encoding="utf-8")
        for command in pages.commands(block) if block.kind == "sh" else []:
            again = command.words[:3] == ["pipeline", "run", "all"]  # made by the fixture
            if command.is_run and command.words[0] != "mkdir" and not again:
                pages.run(shortened(command), work)


def shortened(command: Command) -> Command:
    """A training goes on only with the settings it began with."""
    if command.line.endswith("--output out/run"):
        return Command(command.page, f"{command.line} --set train.epochs=4", command.exit_code)
    return command


def settings_blocks() -> list[object]:
    found = [b for _, blocks in SHOWN for b in blocks if b.kind == "yaml"]
    return [pytest.param(b, id=b.title or b.page) for b in found]


@pytest.mark.parametrize("block", settings_blocks())
def test_settings_are_settings(block: Block, tmp_path: Path) -> None:
    assert set(yaml.safe_load(block.body)) <= set(PipelineConfig.model_fields)
    file = tmp_path / "settings.yaml"
    file.write_text(block.body, encoding="utf-8")
    load_config("embedded", file, [])


@pytest.mark.parametrize(
    "block",
    [b for _, blocks in SHOWN for b in blocks if b.kind == "python"],
    ids=lambda block: block.page,
)
def test_python_runs(block: Block) -> None:
    result: dict[str, object] = {"__name__": "shown"}
    exec(compile(block.body, block.page, "exec"), result)
    made = [value for value in result.values() if isinstance(value, type)]
    assert made
    assert "shown" not in sys.modules
