"""What the quick start leaves, made once, and put back before each page."""

import shutil
from pathlib import Path

import pytest

from tests.docs import pages

SHORT = ("--set", "train.epochs=4")
"""Of the one training that all pages start from: what they show does not hang on its length."""


@pytest.fixture(scope="session")
def quick_start(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(folder, copy of it): the quick start was followed there as far as `run all`."""
    folder = tmp_path_factory.mktemp("docs") / "work"
    folder.mkdir()
    (folder / "pipeline").symlink_to(pages.ROOT / "pipeline")  # the page stands in a clone
    shown = [one for block in _shell("quick_start.md") for one in pages.commands(block)]
    for command in shown:
        if command.words[:3] == ["pipeline", "run", "all"]:
            line = " ".join([command.line, *SHORT])
            pages.run(pages.Command(command.page, line, 0), folder)
            break
        if command.is_run:
            pages.run(command, folder)
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy, symlinks=True)
    return folder, copy


@pytest.fixture
def work(quick_start: tuple[Path, Path]) -> Path:
    """The folder as the quick start left it, at the same place each time."""
    folder, copy = quick_start
    shutil.rmtree(folder)
    shutil.copytree(copy, folder, symlinks=True)
    return folder


def _shell(page: str) -> list[pages.Block]:
    return [block for block in pages.blocks(page) if block.kind == "sh"]
