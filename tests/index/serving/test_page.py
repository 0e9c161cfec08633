"""The page in a real browser: search, play, map, nothing found, a server that went away."""

import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

from index.serving.service import Service
from tests.index.real_corpus import RealCorpus
from tests.index.serving.conftest import running

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is a dev dependency")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    """The page, ready; a message of the browser's console that is an error fails the test."""
    made = browser.new_page()
    made.set_default_timeout(30_000)
    problems: list[str] = []
    made.on("pageerror", lambda err: problems.append(str(err)))
    made.on("requestfailed", lambda one: problems.append(f"{one.url}: {one.failure}"))
    made.goto(url)
    until(made, "document.getElementById('facts').textContent")
    yield made
    made.close()
    assert [one for one in problems if "ERR_ABORTED" not in one] == []


def until(page: Any, expression: str) -> None:
    """Polls from outside: Playwright's own waiting would need `eval`, which the page's content
    security policy forbids."""
    deadline = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        time.sleep(0.05)


def look_for(page: Any, words: str) -> None:
    page.fill("#words", words)
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit")


def test_words_are_answered_with_pictures(page: Any) -> None:
    look_for(page, "a red fire truck")
    assert page.locator(".hit").count() >= 3
    until(page, "[...document.querySelectorAll('.hit img')].some(i => i.naturalWidth)")
    assert "clips in" in page.inner_text("#status")


def test_a_hit_plays_its_seconds_and_stops(page: Any) -> None:
    look_for(page, "deep blue sea")
    page.fill("#words", "")
    page.uncheck("#merge") if page.is_visible("#merge") else page.evaluate(
        "document.getElementById('merge').click()"
    )
    page.locator(".hit .frame").first.wait_for()
    hit = page.locator(".hit", has_text="blue").first
    hit.locator(".frame").click()
    film = "document.getElementById('film')"
    until(page, f"{film}.readyState >= 2 && {film}.currentTime > 0")
    start, end = map(float, page.evaluate(f"{film}.src").split("#t=")[1].split(","))
    assert page.evaluate(f"{film}.currentTime") >= start
    until(page, f"{film}.paused")
    assert page.evaluate(f"{film}.currentTime") <= end + 0.5
    page.keyboard.press("Escape")
    assert not page.is_visible("#player")


def test_more_like_this_asks_by_the_clip(page: Any) -> None:
    look_for(page, "grass")
    first = page.locator(".hit").nth(1)
    video = first.locator("h3").inner_text()
    first.get_by_text("More like this").click()
    page.wait_for_selector(".terms li")
    until(page, f"document.querySelector('.hit h3').textContent === '{video}'")


def test_a_file_is_chosen_and_found(page: Any, real: RealCorpus) -> None:
    page.set_input_files("#file", real.videos / "white.mp4")
    page.wait_for_selector(".hit")
    assert page.locator(".hit h3").first.inner_text() == "white"
    assert "white.mp4 (video + audio)" in page.inner_text(".terms")


def test_a_file_that_is_no_video_is_answered_in_words(page: Any, real: RealCorpus) -> None:
    page.set_input_files("#file", real.videos / "red.srt")
    until(page, "document.getElementById('status').textContent.includes('cannot be used')")


def test_an_upload_that_failed_is_sent_again(page: Any, real: RealCorpus) -> None:
    refuse = {"status": 503, "json": {"error": "too many files"}}
    page.route("**/api/uploads", lambda route: route.fulfill(**refuse))
    page.set_input_files("#file", real.videos / "white.mp4")
    page.wait_for_selector("#away:not([hidden])")
    page.unroute("**/api/uploads")
    page.click("#again")
    page.wait_for_selector(".hit")
    assert page.locator(".hit h3").first.inner_text() == "white"


def test_nothing_found_says_so(page: Any) -> None:
    look_for(page, "snow")
    page.evaluate("document.querySelector('.filters').open = true")
    page.fill("#video", "nowhere")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('status').textContent.startsWith('Nothing found')")
    assert page.locator(".hit").count() == 0


def test_the_map_by_keyboard(page: Any) -> None:
    page.click("#tab-map")
    page.wait_for_selector(".cluster")
    page.focus("#canvas")
    page.keyboard.press("ArrowRight")
    until(page, "document.getElementById('point').textContent.includes('cluster 1')")
    drawn = page.evaluate(
        """(() => { const c = document.getElementById('canvas');
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        return d.some((v, i) => i % 4 === 3 && v > 0); })()"""
    )
    assert drawn
    page.keyboard.press("Enter")
    page.wait_for_selector("#player[open]")
    page.keyboard.press("Escape")
    page.locator(".cluster-head").first.click()
    assert page.locator(".cluster.chosen").count() == 1


def test_the_skip_link_skips_to_the_results(page: Any) -> None:
    look_for(page, "snow")
    for tab, place in (("#tab-search", "hits"), ("#tab-map", "clusters")):
        page.click(tab)
        page.focus("#skip")
        page.keyboard.press("Enter")
        until(page, f"document.activeElement.id === '{place}'")
    assert page.is_visible("#map-view")


def test_a_point_of_the_map_opens_that_clip(page: Any) -> None:
    """By its id: a search by its vector would find another that is as near."""
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    page.click("#tab-map")
    page.wait_for_selector(".cluster")
    page.focus("#canvas")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.wait_for_selector("#player[open]")
        shown = page.evaluate("document.getElementById('player-title').textContent")
        assert page.inner_text("#point").startswith(shown)
        page.keyboard.press("Escape")
    assert not any("/api/search" in url for url in asked)


def test_a_point_that_cannot_be_opened_says_why(page: Any) -> None:
    page.route("**/api/clips/*", lambda route: route.fulfill(status=422, json={"error": "is gone"}))
    page.click("#tab-map")
    page.wait_for_selector(".cluster")
    page.focus("#canvas")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('point').textContent === 'is gone'")


def test_another_layout_that_fails_is_told_and_the_keys_do_not_break(page: Any) -> None:
    page.click("#tab-map")
    page.wait_for_selector(".cluster")
    page.focus("#canvas")
    page.keyboard.press("ArrowRight")
    held: list[Any] = []
    page.route("**/api/map*", lambda route: held.append(route))
    page.evaluate("document.getElementById('method').dispatchEvent(new Event('change'))")
    page.keyboard.press("ArrowRight")  # nothing to go to as yet; an error would fail this test
    page.keyboard.press("Enter")
    while not held:
        page.wait_for_timeout(20)
    held[0].fulfill(status=503, json={"error": "too many maps"})
    page.wait_for_selector("#away:not([hidden])")
    page.unroute("**/api/map*")
    page.click("#again")
    until(page, "document.getElementById('point').textContent.startsWith('Point at a clip')")


def test_a_phone_needs_no_sideways_scrolling(browser: Any, url: str) -> None:
    phone = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme="dark")
    phone.goto(url)
    until(phone, "document.getElementById('facts').textContent")
    look_for(phone, "winter")
    for tab in ("#tab-search", "#tab-map"):
        phone.click(tab)
        assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    dark = phone.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark == "rgb(21, 23, 26)"
    phone.close()


def test_a_server_that_went_away_is_told_and_asked_again(browser: Any, service: Service) -> None:
    with running(service) as url:
        page = browser.new_page()
        page.goto(url)
        until(page, "document.getElementById('facts').textContent")
        look_for(page, "snow")
    page.fill("#words", "sea")
    page.keyboard.press("Enter")
    page.wait_for_selector("#away:not([hidden])")
    assert "does not answer" in page.inner_text("#away")
    page.click("#again")  # still away
    page.wait_for_selector("#away:not([hidden])")
    page.close()


def test_a_token_is_asked_for(browser: Any, service: Service) -> None:
    with running(service, token="s3cret") as url:
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector("#login[open]")
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        until(page, "document.getElementById('login-note').textContent")
        page.fill("#token", "s3cret")
        page.keyboard.press("Enter")
        until(page, "document.getElementById('facts').textContent")
        look_for(page, "snow")
        until(page, "[...document.querySelectorAll('img')].some(i => i.naturalWidth)")
        page.close()
