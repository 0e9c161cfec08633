"""What `pipeline render` prints: the files of docker/deploy/, whose commands exist."""

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml
from typer.testing import CliRunner

from extractors.errors import UsageError
from pipeline.cli import render, run
from tests.docker.deploy_commands import RENDERED

DEPLOY = Path(__file__).parents[3] / "docker" / "deploy"
PLACES = ("--input", "s3://b/videos", "--output", "s3://b/data")


def rendered(*arguments: str) -> str:
    result = CliRunner().invoke(render.app, arguments)
    if isinstance(result.exception, UsageError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def rayjob(*arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    config, job = yaml.safe_load_all(rendered("rayjob", *arguments))
    return config, job


def command_of(script: str) -> list[str]:
    """The arguments of `pipeline run` in a script."""
    start = script.rindex("pipeline run ")  # of an array the job that closes it
    logical = script[start:].replace("\\\n", " ").splitlines()[0]
    return [part for part in shlex.split(logical)[2:] if part not in ("&", "${again[@]}")]


def parsed(arguments: list[str]) -> dict[str, Any]:
    """As the real command line understands them; fails for an option that does not exist."""
    group = typer.main.get_command(run.app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    stage = group.commands[arguments[0]]
    return dict(stage.make_context(arguments[0], arguments[1:]).params)


@pytest.mark.parametrize("name", RENDERED)
def test_the_files_of_deploy(name: str) -> None:
    assert rendered(*RENDERED[name]) == (DEPLOY / name).read_text()


@pytest.mark.parametrize("name", RENDERED)
def test_their_commands_exist(name: str) -> None:
    text = (DEPLOY / name).read_text()
    script = next(yaml.safe_load_all(text))["data"]["run.sh"] if "yaml" in name else text
    params = parsed(command_of(script))
    executor = "local" if "--array" in RENDERED[name] else "ray"
    assert (params["executor"], params["device"], params["preset"]) == (
        executor,
        "cuda",
        "embedded",
    )
    assert params["workers"] == int(RENDERED[name][RENDERED[name].index("--workers") + 1])


def test_every_command_of_an_array_exists() -> None:
    script = rendered("sbatch", "extract", *PLACES, "--array", "7", "--device", "cpu",
                      "--workers", "3", "--set", "extract.threads=2")  # fmt: skip
    assert "#SBATCH --gres" not in script
    assert "#SBATCH --cpus-per-task=7" in script  # two threads a worker, one beside
    logical = script.replace("\\\n", " ").replace('"${again[@]}"', "")
    found = re.findall(r"pipeline run (extract .*)", logical)
    plan, task, close = (parsed(shlex.split(line.rstrip("& "))) for line in found)
    assert plan["plan_only"]
    assert all(params["sets"] == ["extract.threads=2"] for params in (plan, task, close))
    assert [params["source"] for params in (plan, task, close)] == [PLACES[1], None, PLACES[1]]
    assert {params["output"] for params in (plan, task, close)} == {PLACES[3]}
    assert (task["workers"], close["workers"], close["shards"]) == (3, 3, None)
    assert task["shards"] == "$first:$((first + PIPELINE_SHARDS))"


def test_a_configuration_goes_along(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    content = "  # indented first\nextract:\n  threads: 3\n  speech: null\n  text: null\n"
    path.write_text(content)
    config, job = rayjob(
        "extract", *PLACES, "--image", "i", "--config", str(path), "--set", "extract.max_attempts=5"
    )
    assert config["data"]["config.yaml"] == content
    params = parsed(command_of(config["data"]["run.sh"]))
    assert str(params["config"]) == render.MOUNTED_CONFIG
    assert params["sets"] == ["extract.max_attempts=5"]
    assert params["take_over"]
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    # two networks of a quarter of a GPU each share one; three threads and one core beside
    assert container["resources"]["requests"]["cpu"] == "4"
    assert container["resources"]["requests"] == container["resources"]["limits"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {str(Path(render.MOUNTED_CONFIG).parent), "/weights"} == mounts


def test_credentials_come_from_the_secret() -> None:
    _, job = rayjob("extract", *PLACES, "--image", "i", "--secret", "s", "--endpoint", "http://m")
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        environment = {entry["name"]: entry for entry in container["env"]}
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            assert environment[key]["valueFrom"] == {"secretKeyRef": {"name": "s", "key": key}}
        assert environment["AWS_ENDPOINT_URL_S3"]["value"] == "http://m"


def test_a_cpu_job_asks_for_no_gpu() -> None:
    _, job = rayjob("extract", *PLACES, "--image", "i", "--device", "cpu", "--workers", "3")
    assert "entrypointNumGpus" not in job["spec"]
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["maxReplicas"] == 3
    assert "nvidia.com/gpu" not in yaml.safe_dump(group)


def test_a_claim_for_the_weights() -> None:
    _, job = rayjob("extract", *PLACES, "--image", "i", "--weights-claim", "w")
    text = yaml.safe_dump(job)
    assert text.count("claimName: w") == 2
    assert "emptyDir" not in text


def test_the_head_does_no_work_and_a_failed_job_is_tried_again() -> None:
    _, job = rayjob("extract", *PLACES, "--image", "i")
    assert job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert job["spec"]["backoffLimit"] > 0
    assert job["spec"]["ttlSecondsAfterFinished"] > 0
    assert job["spec"]["shutdownAfterJobFinishes"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tran", *PLACES), "tran: no such stage; allowed are extract, train, index"),
        (("train", *PLACES), "train: takes --dataset, --output; given: --input, --output"),
        (("extract", "--input", "v", "--output", "/d"), "--input v: relative to this folder"),
        (("extract", *PLACES, "--device", "auto"), "--device auto: allowed are cuda and cpu"),
        (("extract", *PLACES, "--name", "A b"), "--name A b: lower-case letters"),
        (("extract", *PLACES, "--set", "extract.thread=1"), "thread"),
        (("extract", *PLACES, "--nodes", "2"), "--nodes 2: more than the 1 workers"),
        (
            ("extract", *PLACES, "--array", "9", "--nodes", "2", "--workers", "2"),
            "each task has one",
        ),
        (("train", "--dataset", "/d", "--output", "/r", "--array", "9"), "--array: is of extract"),
        (("extract", *PLACES, "--array", "9", "--workers", "2"), "--workers 2: a task of --array"),
        (("extract", *PLACES, "--time", "1:00\nx"), "--time '1:00.nx': letters"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rendered("sbatch", *arguments)
