"""docker/check_cpu_recipe.py, as far as no root is needed: what it reads out of the Dockerfile, and
what a step changes. `python docker/check_cpu_recipe.py` itself follows all of it."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.docker.test_images import DOCKER, module

GIVEN = {"TORCH_INDEX": "https://packages.example/simple"}


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return module("check_cpu_recipe")


def followed(recipe: ModuleType, name: str) -> Any:
    """The image after all steps of a stage, its files untouched."""
    stages = recipe.read_stages((DOCKER / "Dockerfile.cpu").read_text(), GIVEN)
    (stage,) = (stage for stage in stages if stage.name == name)
    image = recipe.Image(Path("/nowhere"), ())
    for step in stage.steps:
        image = recipe.decide(image, step, GIVEN)
    return image


def test_stages(recipe: ModuleType) -> None:
    stages = recipe.read_stages((DOCKER / "Dockerfile.cpu").read_text(), {})
    base = "python:3.11-slim-bookworm"
    assert [(stage.name, stage.base) for stage in stages] == [
        ("dependencies", base), ("wheel", "dependencies"), ("2", base),
    ]  # fmt: skip
    other = recipe.read_stages((DOCKER / "Dockerfile.cpu").read_text(), {"PYTHON_IMAGE": "x:y-z"})
    assert other[0].base == "x:y-z"
    mounts = [step.flags["mount"] for stage in stages for step in stage.steps
              if "mount" in step.flags]  # fmt: skip
    assert len(mounts) == 3


def test_what_the_steps_decide(recipe: ModuleType) -> None:
    first = followed(recipe, "dependencies")
    assert first.arguments == GIVEN
    assert first.folder == "/source"
    assert first.environment["PATH"] == f"/opt/venv/bin:{recipe.PATH}"
    last = followed(recipe, "2")
    assert last.user == "10001:10001"
    assert (*last.entrypoint, *last.command) == ("pipeline", "--help")
    assert last.health == ("python", "/opt/healthcheck.py")
    assert last.environment["PIPELINE_WEIGHTS"] == "/weights"


def test_what_is_not_understood_is_refused(recipe: ModuleType) -> None:
    (stage,) = recipe.read_stages("FROM a\nSTOPSIGNAL SIGTERM\n", {})
    with pytest.raises(SystemExit, match="line 2: STOPSIGNAL is not understood here"):
        recipe.decide(recipe.Image(Path("/nowhere"), ()), stage.steps[0], {})


def test_copies_go_through_the_dockerignore(recipe: ModuleType, tmp_path: Path) -> None:
    context = recipe.read_context(DOCKER / "Dockerfile.cpu.dockerignore")
    assert {"constraints.txt", "pipeline/extract.py"} <= set(context)
    assert not [path for path in context if path.startswith(("tests", ".venv", ".git"))]
    image = recipe.Image(tmp_path, (), folder="/source")
    recipe.copy(["constraints.txt", "docker/requirements.py"], "./", image, context)
    recipe.copy(["docker/healthcheck.py"], "/opt/check.py", image, context)
    copied = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert copied == {"source/constraints.txt", "source/requirements.py", "opt/check.py"}
    recipe.copy(["."], ".", image, context)
    assert (tmp_path / "source/pipeline/demo_corpus/videos/cat_01.mp4").is_file()
    assert not (tmp_path / "source/tests").exists()
    with pytest.raises(SystemExit, match="COPY tests: nothing there"):
        recipe.copy(["tests"], ".", image, context)
