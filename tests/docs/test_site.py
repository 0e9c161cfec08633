"""The site builds without a warning and loads nothing from elsewhere; GitHub reads the forms."""

import html.parser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.docs import pages

OUTSIDE = re.compile(r"^(?:https?:)?//")
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src"}
FORMS = sorted((pages.ROOT / ".github").rglob("*.yml"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` does; every warning is an error: dead links and anchors are."""
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    result = subprocess.run(
        command, cwd=pages.ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return folder


class Loads(html.parser.HTMLParser):
    """What a page loads by itself, links to follow left out."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        wanted = LOADING.get(tag)
        if tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            wanted = "href"
        if wanted and values.get(wanted):
            self.found.append(str(values[wanted]))


def test_every_page_is_built(site: Path) -> None:
    built = {path.relative_to(site).with_suffix(".md").as_posix() for path in site.rglob("*.html")}
    assert set(pages.PAGES) <= built


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loaded = []
    for path in site.rglob("*.html"):
        found = Loads(path.read_text(encoding="utf-8")).found
        assert found
        loaded += [f"{path.name}: {one}" for one in found if OUTSIDE.match(one)]
    for path in site.rglob("*.css"):
        found = re.findall(r"url\(['\"]?([^)'\"]+)", path.read_text(encoding="utf-8"))
        loaded += [f"{path.name}: {one}" for one in found if OUTSIDE.match(one)]
    assert loaded == []


def test_search_finds_pages(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    assert "crashed_worker" in index


def test_scripts_stay_outside_of_the_site(site: Path) -> None:
    assert list(site.rglob("*.py")) == []


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms(path: Path) -> None:
    """GitHub shows no form at all where one of these is missing."""
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.name == "config.yml":
        assert form == {"blank_issues_enabled": False}
        return
    assert {"name", "description", "body"} <= set(form)
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))
    for field in form["body"]:
        assert field["type"] in ("textarea", "input")
        assert field["attributes"]["label"]
