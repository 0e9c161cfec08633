"""The distribution: its four packages are ours, the bare install starts, nothing heavy loads."""

import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipeline", "extractors", "training", "index")


@pytest.mark.parametrize("name", PACKAGES)
def test_package_resolves_inside_this_repository(name: str) -> None:
    file = importlib.import_module(name).__file__
    assert file is not None
    assert Path(file).is_relative_to(ROOT)


@pytest.mark.parametrize("name", PACKAGES)
def test_package_has_one_owner(name: str) -> None:
    """pip overwrites another distribution's files silently: two owners mean a broken install."""
    owners = importlib.metadata.packages_distributions().get(name, [])
    assert set(owners) <= {"multimodal-clustering-pipeline"}


@pytest.mark.parametrize("folder", ["docker", "tests", "benchmarks", "docs"])
def test_folder_is_no_package(folder: str) -> None:
    """An __init__.py in docker/ would shadow the Docker SDK."""
    assert not (ROOT / folder / "__init__.py").exists()


def test_help_loads_nothing_heavy() -> None:
    heavy = ("torch", "ray", "faiss", "pyarrow", "transformers", "sklearn", "numpy")
    code = (
        "import sys; import pipeline.cli.app; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_a_worker_that_fills_an_index_on_ray_loads_no_networks() -> None:
    """torch and Ray Data take each of them longer to import than a shard takes to add."""
    code = (
        "import sys; import index.run_ray, index.partial; "
        "print([name for name in ('torch', 'ray.data', 'pandas') if name in sys.modules])"
    )
    line = [sys.executable, "-c", code]
    result = subprocess.run(line, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_dependency_is_pinned() -> None:
    constraints = (ROOT / "constraints.txt").read_text()
    pinned = {line.partition("==")[0].lower() for line in constraints.splitlines() if "==" in line}
    requires = importlib.metadata.requires("multimodal-clustering-pipeline") or []
    core = [line for line in requires if "extra ==" not in line or 'extra == "dev"' in line]
    for line in core:
        name = line.partition(";")[0]
        for sign in "[>=<~! ":
            name = name.partition(sign)[0]
        assert name.lower() in pinned
