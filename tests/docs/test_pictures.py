"""Pictures are small, shown, load nothing, and can be made again from a run."""

import re
import shlex
import shutil
import xml.etree.ElementTree
from pathlib import Path

import pytest

from docs.drawings import shard_drawing, stages_drawing, tracks_drawing
from docs.make_pictures import TERMINALS, terminal, video_with_words
from tests.docs import pages
from tests.index.real_corpus import RealCorpus

IMAGES = pages.DOCS / "images"
ALLOWED_BYTES = 200_000
ALLOWED_BYTES_IN_ALL = 1_500_000


def check_drawing(drawn: str) -> str:
    """Fails where an SVG is broken or loads anything; gives its words."""
    assert "url(" not in drawn.replace("url(#", "")
    assert "@import" not in drawn
    assert "<script" not in drawn
    assert "href" not in drawn
    return "".join(xml.etree.ElementTree.fromstring(drawn).itertext()).replace("\xa0", " ")


def test_pictures_are_small_and_shown() -> None:
    sizes = {path.name: path.stat().st_size for path in IMAGES.iterdir()}
    assert sizes
    assert {name: size for name, size in sizes.items() if size > ALLOWED_BYTES} == {}
    assert sum(sizes.values()) < ALLOWED_BYTES_IN_ALL
    text = "".join(pages.read(page) for page in pages.PAGES)
    assert [name for name in sizes if name not in text] == []


@pytest.mark.parametrize("path", sorted(IMAGES.glob("*.svg")), ids=lambda path: path.name)
def test_drawings_load_nothing(path: Path) -> None:
    assert check_drawing(path.read_text(encoding="utf-8"))


def test_drawings_without_a_run_are_up_to_date() -> None:
    """What `python docs/make_pictures.py --drawings` writes."""
    assert (IMAGES / "stages.svg").read_text(encoding="utf-8") == stages_drawing()
    assert (IMAGES / "shard.svg").read_text(encoding="utf-8") == shard_drawing()


def test_tracks_are_drawn_of_a_real_video(real: RealCorpus) -> None:
    sample = video_with_words(real.dataset)
    words = check_drawing(tracks_drawing(sample))
    first = sample.segments[0]
    assert f"a clip: [{first.start:g}, {first.end:g})" in words
    assert all(name in words for name in sample.tracks)


def test_terminals_show_what_commands_print(
    real: RealCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another dataset than the docs' own; the commands are those of the docs."""
    shutil.copytree(real.dataset, tmp_path / "out" / "dataset")
    for name in ("run", "index"):
        shutil.copytree(Path(real.index).parent / name, tmp_path / "out" / name)
    monkeypatch.chdir(tmp_path)
    printed = {name: check_drawing(terminal(*commands)) for name, commands in TERMINALS.items()}
    assert "6 of 6" in printed["status"]
    assert "audio: bands changed from 40 to 64" in printed["plan"]
    hits = re.findall(r"│(red|green|blue|white|quiet) *│", printed["demo"])
    assert len(hits) == 6  # three of each search
    for name, command in [(n, one) for n, commands in TERMINALS.items() for one in commands]:
        pages.understand(shlex.split(command)[1:])
        assert f"$ {command}" in printed[name]
