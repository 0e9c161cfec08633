"""The docs say what the program does: the reference is made from it, what README shows runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_reference_is_up_to_date() -> None:
    script = ROOT / "docs" / "make_reference.py"
    subprocess.run([sys.executable, script, "--check"], check=True, cwd=ROOT)


def test_every_setting_is_documented() -> None:
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    settings = re.findall(r"^- `((?:extract|train|index)\.\S+)`.*?: ?(.*)$", reference, re.M)
    undocumented = [key for key, about in settings if not about and not key.endswith(".kind")]
    assert settings
    assert undocumented == []


def test_every_command_has_a_help_text() -> None:
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    commands = re.findall(r"^### `(pipeline [^`]+)`\n\n(.*)$", reference, re.M)
    assert len(commands) >= 12
    assert [name for name, about in commands if not about] == []


PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", ["README.md", *PAGES])
def test_paths_named_in_the_docs_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"\b((?:pipeline|extractors|training|index|docs|tests|benchmarks)"
                           r"/[\w/]+\.\w+)\b", text))  # fmt: skip
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def commands() -> list[str]:
    """The `pipeline …` lines of README's sh blocks, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("pipeline ")]


@pytest.mark.timeout(900)  # all of them in one go, the demo first; a busy machine takes 300 s
def test_every_command_of_the_readme_runs(tmp_path: Path) -> None:
    """In order, in one folder, on six of the demo's videos: a new user's first hour."""
    corpus = ROOT / "pipeline" / "demo_corpus" / "videos"
    videos = tmp_path / "my_videos"
    videos.mkdir()
    for source in sorted(corpus.glob("*.mp4"))[::20][:6]:
        shutil.copy(source, videos)
    shutil.copy(next(iter(videos.glob("*.mp4"))), tmp_path / "clip.mp4")
    shutil.copy(next(iter(videos.glob("*.mp4"))), tmp_path / "sound.wav")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    shown = commands()
    assert len(shown) >= 8
    for command in shown:
        result = subprocess.run(
            shlex.split(command),
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
