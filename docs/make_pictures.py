"""Makes docs/images: the drawings, and pictures of the program at work on the demo's videos.

    pipeline demo --output build/demo
    PYTHONPATH=. python docs/make_pictures.py build/demo

The second takes a minute or two and needs chromium on PATH for the screenshots. `--drawings` makes
the drawings alone, which need neither.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from PIL import Image
from rich.console import Console

from docs.drawings import shard_drawing, stages_drawing, tracks_drawing
from pipeline.cli import show
from pipeline.cli.app import app
from pipeline.samples import VideoSample, read_dataset

IMAGES = Path(__file__).parent / "images"
TERMINALS = {
    "status": ("pipeline status out/dataset",),
    "plan": ("pipeline plan --output out/dataset --set extract.extractors.audio.bands=64",),
    "demo": (
        'pipeline search out/index --text "a rocket lifts off from the launch pad" -k 3',
        'pipeline search out/index --text "pouring a hot drink into a cup" -k 3',
    ),
}
"""Sessions by the picture's name: commands, one after the other."""
COLUMNS = 96
WIDE, HIGH = 1180, 820


def main() -> None:
    """With a folder that `pipeline demo` or `pipeline run all` wrote."""
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / "stages.svg").write_text(stages_drawing(), encoding="utf-8")
    (IMAGES / "shard.svg").write_text(shard_drawing(), encoding="utf-8")
    if sys.argv[1:] == ["--drawings"]:
        return
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    written = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("out").symlink_to(written)  # so that pictures show no path of this machine
        drawing = tracks_drawing(video_with_words("out/dataset"))
        (IMAGES / "tracks.svg").write_text(drawing, encoding="utf-8")
        for name, commands in TERMINALS.items():
            (IMAGES / f"{name}.svg").write_text(terminal(*commands), encoding="utf-8")
        screenshots()


def video_with_words(dataset: str) -> VideoSample:
    """The first video of which two things are said."""
    return next(sample for sample in read_dataset(dataset) if len(sample.segments) == 2)


def terminal(*commands: str) -> str:
    """What commands print, one after the other, as an SVG that loads no fonts."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False)
    shown, show.out = show.out, console
    try:
        for command in commands:
            console.print(f"[bold]$[/] {command}")
            typer.main.get_command(app).main(shlex.split(command)[1:], standalone_mode=False)
    finally:
        show.out = shown
    drawn = console.export_svg(title="", unique_id="terminal")
    return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.S)


def screenshots() -> None:
    """The search page, its map, and the top of a report."""
    from playwright.sync_api import sync_playwright

    run("report", "out", "--output", "report.html")
    with sync_playwright() as started, serving() as url:
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("chromium-browser"),
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
        )
        page = browser.new_page(viewport={"width": WIDE, "height": HIGH})
        page.goto(Path("report.html").absolute().as_uri())
        save(page, "report")
        page.goto(url)
        page.fill("#words", "a rocket lifts off from the launch pad")
        page.keyboard.press("Enter")
        page.wait_for_selector(".hit")
        wait_for_pictures(page)
        page.locator(".hit").nth(1).locator(".frame").click()
        page.wait_for_selector("#film")
        time.sleep(2)
        save(page, "search")
        page.keyboard.press("Escape")
        page.click("#tab-map")
        page.wait_for_selector(".cluster-head")
        wait_for_pictures(page)
        save(page, "map")
        browser.close()


def wait_for_pictures(page: Any) -> None:
    """Thumbnails come one by one."""
    deadline = time.monotonic() + 60
    while not page.evaluate("[...document.images].every(one => one.complete)"):
        assert time.monotonic() < deadline, "pictures do not come"
        time.sleep(0.1)
    time.sleep(0.5)


def save(page: Any, name: str) -> None:
    """In 128 colours: a third of the bytes."""
    target = IMAGES / f"{name}.png"
    page.screenshot(path=target)
    with Image.open(target) as picture:
        small = picture.convert("RGB").quantize(128)
    small.save(target, optimize=True)


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """A server of the index; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pipeline", "serve", "out/index", "--port", str(port)]
    with subprocess.Popen(command, env=environment()) as server:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while not answers(f"{url}/health"):
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.2)
        yield url
        server.terminate()


def answers(url: str) -> bool:
    """Whether a server is there."""
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310  # http, ours
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def run(*arguments: str) -> None:
    """One command of the pipeline."""
    subprocess.run([sys.executable, "-m", "pipeline", *arguments], check=True, env=environment())


def environment() -> dict[str, str]:
    """The repository importable from any folder."""
    return os.environ | {"PYTHONPATH": str(IMAGES.parent.parent)}


if __name__ == "__main__":
    main()
