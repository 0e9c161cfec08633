"""docs/howto/cluster_walkthrough.md: its calls of Ray are those that tests/pipeline/test_hosts.py
makes on three hosts, and Ray understands them."""

import shlex

import pytest
import ray.scripts.scripts
from ray.dashboard.modules.job import cli

from tests.docs import pages

PAGE = "howto/cluster_walkthrough.md"
HOSTS = (pages.ROOT / "tests" / "pipeline" / "test_hosts.py").read_text(encoding="utf-8")


def calls(words: str) -> list[list[str]]:
    """The words after `words` of each line that begins so."""
    shown = [c.line for b in pages.blocks(PAGE) if b.kind == "sh" for c in pages.commands(b)]
    return [shlex.split(line)[len(words.split()) :] for line in shown if line.startswith(words)]


@pytest.mark.parametrize("words", calls("ray start"), ids=" ".join)
def test_ray_is_started_as_on_the_hosts_of_the_test(words: list[str]) -> None:
    ray.scripts.scripts.start.make_context("start", list(words))
    for option in (word.partition("=")[0] for word in words):
        assert option in HOSTS, f"tests/pipeline/test_hosts.py starts Ray without {option}"


@pytest.mark.parametrize("words", calls("ray job submit"), ids=" ".join)
def test_jobs_are_submitted_as_on_the_hosts_of_the_test(words: list[str]) -> None:
    params = cli.submit.make_context("submit", list(words)).params
    assert params["address"] == "http://10.77.0.1:8265"
    entrypoint = list(params["entrypoint"])
    assert entrypoint[:2] == ["pipeline", "run"]
    assert entrypoint[-4:-2] == ["--executor", "ray"]
    assert entrypoint[-2] == "--workers"
    stage = entrypoint[2]
    assert f'"run", "{stage}"' in HOSTS
    for option in (word for word in entrypoint if word.startswith("--")):
        assert f'"{option}"' in HOSTS, f"tests/pipeline/test_hosts.py runs {stage} without {option}"


def test_all_stages_are_submitted() -> None:
    assert len(calls("ray start")) == 2
    assert [words[words.index("run") + 1] for words in calls("ray job submit")] == [
        "extract", "train", "index",
    ]  # fmt: skip
