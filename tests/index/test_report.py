import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from extractors.errors import AbortError, UsageError
from index.card import read_card, write_card
from index.factory import Candidate
from index.report import report_index
from pipeline.cli.report import report
from pipeline.report_page import Section
from tests.index.real_corpus import RealCorpus

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is a dev dependency")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def by_title(sections: list[Section]) -> dict[str, Section]:
    return {section.title: section for section in sections}


def test_what_an_index_is(real: RealCorpus) -> None:
    found = by_title(report_index(real.index))
    assert list(found) == ["Index", "Recall and latency", "Map", "Clusters"]
    card = read_card(real.index)
    facts = dict(found["Index"].facts)
    assert (facts["clips"], facts["index"]) == (str(card.count), card.factory)
    recall, latency, candidates = found["Recall and latency"].tables
    assert recall.rows == tuple((n, f"{100 * r:.2f} %") for n, r in card.recall.items())
    assert latency.rows[0][1] == f"{card.single_ms.p50:.3g}"
    assert len(candidates.rows) == len(card.candidates)


def test_what_was_weighed_has_its_recall(build_from: Any) -> None:
    card = read_card(build_from())
    weighed = (Candidate("Flat", 1000, 0.5), Candidate("IVF4,SQ4", 100, 0.1, recall=0.8123))
    write_card(url := build_from(), dataclasses.replace(card, candidates=weighed))
    table = by_title(report_index(url))["Recall and latency"].tables[2]
    assert table.columns[3] == "recall@10 of its codes"
    assert [row[3] for row in table.rows] == ["not measured", "81.23 %"]


def test_clusters_are_shown_by_their_clips(real: RealCorpus) -> None:
    found = by_title(report_index(real.index))
    (chart,) = found["Map"].charts
    sizes = [int(number) for _, number in chart.rows]
    assert sum(sizes) == read_card(real.index).count
    sheets = found["Clusters"].sheets
    assert [sheet.title.partition(":")[2].split()[0] for sheet in sheets] == [str(n) for n in sizes]
    pictures = [picture for sheet in sheets for picture in sheet.pictures]
    assert {p.thumbnail.reason for p in pictures if not p.thumbnail.data_uri} <= {"sound only"}
    assert any("fire truck" in picture.text for picture in pictures)
    assert any(picture.thumbnail.data_uri for picture in pictures)
    assert "r " in " ".join(sheet.note for sheet in sheets)  # shares of the labels


def test_an_index_of_foreign_vectors_is_told_too(corpus: Any, tmp_path: Path) -> None:
    from index.config import IndexConfig
    from index.formats.exporting import export_embeddings
    from index.formats.importing import ImportOptions, import_embeddings

    corpus.build(IndexConfig())
    export_embeddings(corpus.output, str(tmp_path / "out"), "parquet")
    output = str(tmp_path / "back")
    import_embeddings(str(tmp_path / "out"), output, ImportOptions("parquet"), IndexConfig())
    found = by_title(report_index(output))
    assert dict(found["Index"].facts)["model"].startswith("(foreign vectors")
    reasons = {p.thumbnail.reason for s in found["Clusters"].sheets for p in s.pictures}
    assert reasons == {"file not found"}


def test_a_damaged_index_is_refused(build_from: Any, tmp_path: Path) -> None:
    url = build_from()
    Path(url, "knn.index").write_bytes(b"nothing")
    with pytest.raises(AbortError, match=r"knn\.index: sha256"):
        report_index(url)


def test_nothing_to_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds none of dataset\.json \(dataset\)"):
        report(str(tmp_path), str(tmp_path / "r.html"))


@pytest.fixture(scope="module")
def page_file(real: RealCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three stages of one folder."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    report(str(real.folder / "out"), str(path))
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_it_reads_in_a_browser(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    """Nothing is asked for, nothing complains, nothing is wider than the window."""
    size = {"width": width, "height": 800}
    context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda err: problems.append(str(err)))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_file.as_uri())
    assert [one for one in requests if not one.startswith("data:")] == [page_file.as_uri()]
    assert problems == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    titles = page.locator("h2").all_inner_texts()
    assert titles[:1] + titles[-1:] == ["Dataset", "Clusters"]
    assert "Learning curves" in titles
    for chart in page.locator(".plot svg").all():
        box = chart.bounding_box()
        assert box is not None
        assert 200 < box["width"] <= width
    # text of a plot has the page's colours, and is large enough to read
    text = page.locator(".plot svg text").first
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert text.evaluate("node => getComputedStyle(node).fill") == ink
    sizes = page.locator(".plot svg text").evaluate_all(
        """texts => texts.map(text => {
            const {a, b} = text.getScreenCTM();
            return Math.hypot(a, b) * parseFloat(getComputedStyle(text).fontSize);
        })"""
    )
    assert min(sizes) > 8.5
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    context.close()


def test_the_keyboard_opens_the_numbers(browser: Any, page_file: Path) -> None:
    page = browser.new_page()
    page.goto(page_file.as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#section-1"
    first = page.locator("figure details summary").first
    first.focus()
    page.keyboard.press("Enter")
    assert page.locator("figure details[open] table").first.is_visible()
    page.close()
