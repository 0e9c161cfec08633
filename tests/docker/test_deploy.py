"""The scripts of docker/deploy/, run with programs that write down how they were called."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray.scripts.scripts
import yaml
from torch.distributed.run import get_args_parser

from pipeline.verify import verify_dataset

DEPLOY = Path(__file__).parents[2] / "docker" / "deploy"
SCRIPTS = ("extract.sbatch", "train.sbatch", "index.sbatch")
ARRAY = "extract-array.sbatch"

SLURM = {
    # one host a line; `requeue` is only written down
    "scontrol": '[ "$1" != show ] || printf "node1\\nnode2\\n"',
    "hostname": "echo 127.0.0.1",
    # runs the command as often as there are tasks
    "srun": """
        tasks=1
        while [ "${1#--}" != "$1" ]; do
            case $1 in --ntasks=*) tasks=${1#--ntasks=} ;; esac
            shift
        done
        [ "$tasks" -eq 1 ] || exit 9
        exec "$@"
    """,
    "ray": """
        case $1 in
            status)
                echo Active:
                grep '^ray start' "$CALLS" | awk '{print " 1 node_" NR}'
                ;;
            start) exec sleep 60 ;;
        esac
    """,
    # as `pipeline` ends: 1 when told to stop
    "pipeline": """
        trap 'echo "pipeline TERM" >> "$CALLS"; exit 1' TERM
        case "$*" in *--plan-only*) echo 250; exit "$ENDS" ;; esac
        [ "$ENDS" = never ] || exit "$ENDS"
        for _ in $(seq 300); do sleep 0.1; done
    """,
    "torchrun": "true",
    # tasks of an array one after the other, in order of submission; a job's number a call
    "sbatch": """
        array=none
        while [ "${1#--}" != "$1" ]; do
            case $1 in --array=0-*) array=${1#--array=0-} ;; esac
            shift
        done
        if [ "$array" = none ]; then
            SLURM_JOB_ID=900 bash "$1" || true
        else
            for task in $(seq 0 "$array"); do
                SLURM_JOB_ID=$((700 + task)) SLURM_ARRAY_TASK_ID=$task bash "$1" || true
            done
        fi >&2
        echo "$((800 + $(grep -c ^sbatch "$CALLS")));cluster"
    """,
}


@dataclass(frozen=True)
class Calls:
    file: Path

    def starting(self, words: str) -> list[str]:
        if not self.file.exists():
            return []
        return [line for line in self.file.read_text().splitlines() if line.startswith(words)]

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + 30
        while not self.starting(words):
            assert time.monotonic() < deadline, f"no call of {words}"
            time.sleep(0.05)


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return Calls(tmp_path / "calls")


@pytest.fixture
def start(tmp_path: Path, calls: Calls) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a script with the programs above; the setup line's file is there too."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in SLURM.items():
        program = programs / name
        program.write_text(f'#!/bin/bash\necho "{name} $*" >> "$CALLS"\n{body}\n')
        program.chmod(0o755)
    (tmp_path / "activate").touch()
    started: list[subprocess.Popen[str]] = []

    def run(script: str, *arguments: str, ends: str = "0", **more: str) -> subprocess.Popen[str]:
        text = (DEPLOY / script).read_text()
        copy = tmp_path / script
        copy.write_text(text.replace("/shared/venv/bin/activate", str(tmp_path / "activate")))
        process = subprocess.Popen(
            ["bash", str(copy), *arguments],
            env=os.environ
            | {"PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(calls.file), "ENDS": ends}
            | {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_ID": "123456"}
            | {"SLURM_JOB_NUM_NODES": "2"}
            | more,
            text=True,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_shellcheck_has_nothing_to_say(tmp_path: Path) -> None:
    scripts = [*(DEPLOY / name for name in (*SCRIPTS, ARRAY)), DEPLOY / "torchrun.sh"]
    for manifest in DEPLOY.glob("rayjob-*.yaml"):
        script = tmp_path / f"{manifest.stem}.sh"
        script.write_text(next(yaml.safe_load_all(manifest.read_text()))["data"]["run.sh"])
        scripts.append(script)
    shellcheck = Path(sys.executable).parent / "shellcheck"
    result = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, check=False)
    assert len(scripts) == 8
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_job_starts_ray_then_the_driver(
    script: str, start: Callable[..., subprocess.Popen[str]], calls: Calls
) -> None:
    process = start(script)
    assert process.wait(timeout=60) == 0, process.communicate()[1]
    lines = calls.file.read_text().splitlines()
    order = [line.split()[0] for line in lines if line.split()[:2] != ["ray", "status"]]
    assert order == ["scontrol", "hostname", "srun", "ray", "srun", "ray", "pipeline"]
    head, worker = calls.starting("srun")
    assert "--nodelist=node1" in head
    assert "--exclude=node1" in worker
    for line in calls.starting("ray start"):
        params = ray.scripts.scripts.start.make_context("start", shlex.split(line)[2:]).params
        assert params["num_gpus"] > 0
        assert params["head"] or params["address"] == "127.0.0.1:23456"
    (driver,) = calls.starting("pipeline")
    assert driver.startswith(f"pipeline run {script.removesuffix('.sbatch')} --")
    assert "--take-over" not in driver
    assert not calls.starting("scontrol requeue")


def test_rays_processes_end_with_the_job(
    start: Callable[..., subprocess.Popen[str]], calls: Calls
) -> None:
    process = start("extract.sbatch")
    process.wait(timeout=60)
    deadline = time.monotonic() + 10
    while True:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.05)


def test_failed_videos_are_the_jobs_exit_code(
    start: Callable[..., subprocess.Popen[str]], calls: Calls
) -> None:
    assert start("extract.sbatch", ends="3").wait(timeout=60) == 3
    assert not calls.starting("scontrol requeue")


def test_a_job_that_slurm_starts_again_takes_over(
    start: Callable[..., subprocess.Popen[str]], calls: Calls
) -> None:
    assert start("extract.sbatch", SLURM_RESTART_COUNT="1").wait(timeout=60) == 0
    assert calls.starting("pipeline run")[0].endswith(" --take-over")


@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGUSR1, 1), (signal.SIGTERM, 0)])
def test_a_job_that_is_told_to_stop(
    number: signal.Signals,
    requeued: int,
    start: Callable[..., subprocess.Popen[str]],
    calls: Calls,
) -> None:
    """The driver ends in its own way; out of time, the job is queued again."""
    process = start("extract.sbatch", ends="never")
    calls.wait_for("pipeline run")
    time.sleep(0.3)  # the traps are set right after the driver is started
    process.send_signal(number)
    assert process.wait(timeout=30) == 1
    assert calls.starting("pipeline TERM") == ["pipeline TERM"]
    assert calls.starting("scontrol requeue") == ["scontrol requeue 123456"] * requeued


def ranges(calls: Calls) -> list[str]:
    """What --shards was given, in order."""
    lines = [shlex.split(line) for line in calls.starting("pipeline run extract")]
    return [words[words.index("--shards") + 1] for words in lines if "--shards" in words]


def test_an_array_covers_the_plan_and_is_closed(
    start: Callable[..., subprocess.Popen[str]], calls: Calls
) -> None:
    """250 shards on at most 100 tasks: three each, and a last one with one."""
    process = start(ARRAY)
    assert process.wait(timeout=60) == 0, process.communicate()[1]
    tasks, close = calls.starting("sbatch")
    assert "--array=0-83" in tasks
    assert "--dependency=afterany:801 " in close
    plan, *extractions = calls.starting("pipeline run extract")
    assert plan.endswith("--plan-only")
    assert ranges(calls) == [f"{first}:{first + 3}" for first in range(0, 250, 3)]
    assert all("--input" not in line for line in extractions[:-1])
    assert all("--executor local" in line for line in extractions)
    assert not any(line.endswith("--take-over") for line in extractions[:-1])
    assert extractions[-1].endswith("--take-over")
    assert "--input /shared/videos" in extractions[-1]
    assert "--shards" not in extractions[-1]


def test_an_array_is_not_submitted_without_a_plan(
    start: Callable[..., subprocess.Popen[str]], calls: Calls
) -> None:
    assert start(ARRAY, ends="2").wait(timeout=60) == 2
    assert calls.starting("sbatch") == []


TASK = {"PIPELINE_STEP": "extract", "PIPELINE_SHARDS": "3", "SLURM_ARRAY_TASK_ID": "2"}


def test_a_task_that_slurm_starts_again_takes_over_its_range(
    start: Callable[..., subprocess.Popen[str]], calls: Calls
) -> None:
    assert start(ARRAY, ends="3", SLURM_RESTART_COUNT="1", **TASK).wait(timeout=60) == 3
    (line,) = calls.starting("pipeline run extract")
    assert line.endswith("--shards 6:9 --take-over")


def test_a_task_that_is_out_of_time_is_queued_again(
    start: Callable[..., subprocess.Popen[str]], calls: Calls
) -> None:
    process = start(ARRAY, ends="never", **TASK)
    calls.wait_for("pipeline run")
    time.sleep(0.3)  # the traps are set right after the driver is started
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=30) == 1
    assert calls.starting("scontrol requeue") == ["scontrol requeue 123456"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_array_makes_a_dataset(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """The real `pipeline`, tasks one after the other."""
    videos = Path(__file__).parents[2] / "pipeline" / "demo_corpus" / "videos"
    places = ["--input", f"{videos}/c*_01.mp4", "--output", str(tmp_path / "data")]
    means = ["--array", "3", "--device", "cpu", "--set", "extract.videos_per_shard=1"]
    parts = ("speech", "text", "extractors.visual_2d", "extractors.visual_3d")
    less = [word for part in parts for word in ("--set", f"extract.{part}=null")]
    command = [sys.executable, "-m", "pipeline", "render", "sbatch", "extract"]
    script = subprocess.run(
        [*command, *places, *means, *less], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    assert start("torchrun.sh").wait(timeout=30) == 0  # the programs are in place
    (tmp_path / "bin" / "pipeline").unlink()
    path = tmp_path / "array.sbatch"
    path.write_text(script)
    bin_folder = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{bin_folder}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
    }
    done = subprocess.run(
        ["bash", str(path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 shards, 1 a task: array 801, closed by job 802")
    assert "3 shards (3 videos) are up to date and kept" in done.stderr  # nothing left to close
    assert verify_dataset(str(tmp_path / "data")) == []


def test_torchrun(start: Callable[..., subprocess.Popen[str]], calls: Calls) -> None:
    arguments = ("--dataset", "/shared/data", "--output", "/shared/run")
    process = start("torchrun.sh", *arguments, NODES="2", RANK="1", HEAD="node1", GPUS="4")
    assert process.wait(timeout=30) == 0
    (line,) = calls.starting("torchrun")
    options = get_args_parser().parse_args(shlex.split(line)[1:])
    assert (options.nnodes, options.node_rank, options.nproc_per_node) == ("2", 1, "4")
    assert (options.master_addr, options.master_port) == ("node1", 29500)
    assert options.module
    assert [options.training_script, *options.training_script_args] == [
        "pipeline", "run", "train", *arguments,
    ]  # fmt: skip


@pytest.mark.parametrize(("ends", "code"), [("0", 0), ("3", 0), ("1", 1), ("2", 2)])
def test_failed_videos_do_not_repeat_a_rayjob(
    ends: str, code: int, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    text = (DEPLOY / "rayjob-extract.yaml").read_text()
    start("torchrun.sh").wait(timeout=30)  # the programs are in place
    script = next(yaml.safe_load_all(text))["data"]["run.sh"]
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "ENDS": ends,
    }
    assert subprocess.run(["bash", "-c", script], env=environment, check=False).returncode == code
