"""Real clips of a second, a configuration without weights, and runs of the command line."""

import hashlib
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import pipeline.worker
from extractors.config import LogMelConfig, MeanColourConfig
from extractors.ffmpeg import ffmpeg_binary
from pipeline.config import ExtractConfig
from pipeline.extract import plan_extract, run_extract
from pipeline.shards import ShardRecord
from pipeline.verify import verify_dataset

CPU = torch.device("cpu")
Decoded = list[tuple[str, tuple[Any, ...]]]
Copies = Callable[[int], str]

WEIGHTLESS = """
extract:
  videos_per_shard: 2
  extractors:
    visual_2d: null
    visual_3d: null
    colour: {kind: mean_colour, rate: 4}
    audio: {kind: log_mel, bands: 40}
  speech: null
  text: null
"""


def numbered_copies(source: Path, folder: Path, count: int) -> None:
    """Copies of an mp4 that differ in one unused box: other bytes, the same picture and sound.

    Those that are there already stay as they are: a file written anew is a changed video.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = source.read_bytes()
    for number in range(count):
        copy = folder / f"clip{number:03d}.mp4"
        if not copy.exists():
            copy.write_bytes(content + struct.pack(">I4sQ", 16, b"free", number))


def tar_digests(dataset: Path | str) -> dict[str, str]:
    """sha256 of every visible tar of a local dataset."""
    return {
        tar.name: hashlib.sha256(tar.read_bytes()).hexdigest()
        for tar in sorted(Path(dataset, "shards").glob("*.tar"))
    }


@dataclass(frozen=True)
class Clips:
    """Encoded once a session."""

    folder: Path

    def make(self, name: str, colour: str, *, seconds: float = 1.0, tone: int | None = 440) -> Path:
        """A clip of one colour, with a sine tone or without sound."""
        path = self.folder / name
        if path.exists():
            return path
        inputs = ["-f", "lavfi", "-i", f"color=c={colour}:s=64x48:r=8:d={seconds}"]
        if tone is not None:
            inputs += ["-f", "lavfi", "-i", f"sine=f={tone}:r=16000:d={seconds}"]
        codecs = ["-c:v", "mpeg4", "-q:v", "2", "-c:a", "aac"]
        command = [ffmpeg_binary(), "-v", "error", *inputs, *codecs, str(path)]
        subprocess.run(command, check=True, timeout=60)
        return path


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    return Clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def clip(clips: Clips) -> Path:
    """One second of red with a tone."""
    return clips.make("red.mp4", "red")


@pytest.fixture
def copies(clip: Path, tmp_path: Path) -> Callable[[int], str]:
    """Makes a folder of that many clips."""

    def make(count: int) -> str:
        numbered_copies(clip, tmp_path / "videos", count)
        return str(tmp_path / "videos")

    return make


@pytest.fixture(scope="session")
def config() -> ExtractConfig:
    """Two extractors without weights, no speech, two videos a shard."""
    return ExtractConfig(
        videos_per_shard=2,
        extractors={"colour": MeanColourConfig(rate=4), "audio": LogMelConfig()},
        speech=None,
        text=None,
    )


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    """The same as a file for `--config`."""
    path = tmp_path / "weightless.yaml"
    path.write_text(WEIGHTLESS)
    return path


def descendants(pid: int) -> set[int]:
    """The processes that a process started, and theirs (Linux)."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        found = {int(p) for task in tasks for p in (task / "children").read_text().split()}
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return found | {below for child in found for below in descendants(child)}


def command_line(pid: int) -> str:
    """Of a running process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@dataclass
class Running:
    """A `python -m pipeline` in a process group of its own."""

    process: subprocess.Popen[str]

    def wait_until(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        """Polls; fails where the command ends or the time is up first."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline, "nothing happened in time"
            time.sleep(0.002)

    def kill(self) -> None:
        """kill -9 of this process alone, as the kernel does when memory is short."""
        self.process.kill()
        self.process.wait()

    def terminate(self, seconds: float) -> tuple[int, str]:
        """SIGTERM; the exit code and what it said on standard error."""
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=seconds)
        return self.process.returncode, errors


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Starts the command line in a process of its own; what is left of it ends with the test."""
    started: list[Running] = []

    def run(*arguments: object) -> Running:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(Running(process))
        return started[-1]

    yield run
    for running in started:
        if running.process.poll() is None:
            os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()
        if running.process.stderr is not None:
            running.process.stderr.close()


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Outcome]]:
    """Runs the command line in this process."""
    from pipeline.cli import main

    handlers = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["pipeline", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return Outcome(code or 0, captured.out, captured.err)

    yield call
    for name, handler in handlers.items():
        signal.signal(name, handler)


def extract(source: str | None, dataset: str, config: ExtractConfig, **changes: Any) -> list[int]:
    """Runs what is to be done; numbers of the shards that were made."""
    todo = plan_extract(source, dataset, config, **changes)
    made: list[ShardRecord] = []
    run_extract(todo, dataset, config, CPU, executor="local", num_workers=1, on_record=made.append)
    assert verify_dataset(dataset) == []
    return [record.number for record in made]


def changed(config: ExtractConfig, **extractors: Any) -> ExtractConfig:
    return config.model_copy(update={"extractors": config.extractors | extractors})


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Decoded:
    """Every call of the decoder: the file's name and the views that were asked for."""
    calls: Decoded = []
    real = pipeline.worker.decode

    def noted(path: str, probed: Any, views: Any, *rest: Any, **options: Any) -> Any:
        calls.append((Path(path).name, tuple(views)))
        return real(path, probed, views, *rest, **options)

    monkeypatch.setattr(pipeline.worker, "decode", noted)
    return calls
