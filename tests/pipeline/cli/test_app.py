import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.conftest import Outcome

COMMANDS = (
    *("", "run", "run extract", "run train", "run index", "run all", "search", "evaluate"),
    *("evaluate retrieval", "evaluate clusters", "status", "verify", "inspect", "weights"),
    *("weights list", "weights fetch", "demo", "extractors", "index append", "index verify"),
    *("evaluate zero-shot", "evaluate neighbours", "evaluate probe", "evaluate youcook2"),
    *("evaluate msrvtt", "evaluate crosstask", "evaluate miningyoutube", "export", "import"),
    *("plan", "retry", "quarantine", "errors", "doctor"),
)
HEAVY = ("torch", "ray", "faiss", "pyarrow", "numpy", "sklearn", "transformers")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run: Callable[..., Outcome], command: str) -> None:
    outcome = run(*command.split(), "--help")
    assert outcome.code == 0
    assert f"Usage: pipeline {command}".strip() in outcome.out
    assert outcome.err == ""


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['pipeline', '--help']\n"
        "from pipeline.cli import main\n"
        "try: main()\n"
        "except SystemExit: print('LOADED', *sorted(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(result.stdout.partition("LOADED")[2].split())
    assert "pipeline.cli.run" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_module_runs() -> None:
    command = [sys.executable, "-m", "pipeline", "run", "extract"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert "--output" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("run", "nonsense"),
        ("run", "extract"),
        ("run", "extract", "--input", "x"),
        ("run", "extract", "--input", "x", "--output", "y", "--workers", "0"),
        ("run", "extract", "--input", "x", "--output", "y", "--workers", "two"),
        ("status", "--nonsense"),
    ],
)
def test_wrong_usage_exits_with_2(run: Callable[..., Outcome], arguments: tuple[str, ...]) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2
    assert "Error" in outcome.err
    assert "Traceback" not in outcome.err


def test_an_error_is_one_line_and_debug_shows_where_it_is_from(
    run: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = run("status", tmp_path / "nothing [1]")
    assert outcome.code == 2
    assert outcome.out == ""
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert "nothing [1]: not a dataset" in line
    command = [sys.executable, "-m", "pipeline", "status", str(tmp_path), "--debug"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert "UsageError" in result.stderr
