import subprocess
from pathlib import Path

import pytest

from extractors.ffmpeg import ffmpeg_binary
from index.card import IndexCard
from index.held_out import Latency
from index.page import QueryResults, clock, write_page
from index.search import Hit
from tests.html_pages import HOSTILE, Page


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("media") / "test.mp4"
    source = "testsrc=s=160x120:r=5:d=4"
    command = [ffmpeg_binary(), "-v", "error", "-f", "lavfi", "-i", source, str(path)]
    subprocess.run(command, check=True, timeout=60)
    return str(path)


def card(metric: str = "cosine") -> IndexCard:
    return IndexCard(
        factory="Flat",
        asked_factory="auto",
        reason="few",
        candidates=(),
        metric=metric,
        normalisation="l2",
        dimension=4096,
        count=1234,
        masked=0,
        blocks=(),
        target_modalities=("video", "audio"),
        size_bytes=1,
        memory_bytes=1,
        compression_ratio=1.0,
        search_parameters={},
        recall={},
        search_ms=0.123,
        p99_ms=0.2,
        single_ms=Latency(0.1, 0.2, 0.2),
        batch_ms=Latency(0.1, 0.2, 0.2),
        build_seconds=1.0,
        dataset="/d",
        dataset_digest="d" * 64,
        model="/m",
        model_digest="e" * 64,
        videos=77,
        clips=1300,
        embeddings={},
        index_sha256="f" * 64,
        ids_sha256="a" * 64,
        mask_sha256=None,
        code_version="1",
        faiss_version="1",
    )


def hit(uri: str, rank: int = 1, score: float = 0.5, text: str | None = "hello") -> Hit:
    return Hit(rank, f"v{rank}@1.000-3.000", f"v{rank}", uri, 1.0, 3.0, score, text)


def page_of(tmp_path: Path, *results: QueryResults, metric: str = "cosine", **more) -> Page:
    url = str(tmp_path / "page.html")
    write_page(url, results, card(metric), **more)
    return Page(Path(url).read_text())


def test_each_query_lists_its_hits(tmp_path: Path, video: str) -> None:
    page = page_of(
        tmp_path,
        QueryResults("text", "a red car", [hit(video), hit(video, 2, 0.25, "second")]),
        QueryResults("sound", "bell.wav", [hit(video, 1, 0.75)]),
    )
    assert "text query a red car" in page.text
    assert "sound query bell.wav" in page.text
    assert "v2 0:01 – 0:03 0.250 second" in page.text
    assert [row for row in page.all("li") if row.get("class") == "hit"] == [{"class": "hit"}] * 3
    widths = [span["style"] for span in page.all("span") if "style" in span]
    assert widths == ["width: 50.0%", "width: 25.0%", "width: 75.0%"]


def test_thumbnails_are_inside_the_page_and_described(tmp_path: Path, video: str) -> None:
    page = page_of(tmp_path, QueryResults("text", "q", [hit(video)]))
    (image,) = page.all("img")
    assert str(image["src"]).startswith("data:image/jpeg;base64,/9j/")
    assert image["alt"] == "v1 at 0:02"


def test_nothing_is_loaded_from_outside(tmp_path: Path, video: str) -> None:
    page = page_of(tmp_path, QueryResults("text", "q", [hit(video)]))
    assert not page.all("script")
    assert not page.all("link")
    sources = [attributes[name] for _, attributes in page.tags for name in attributes]
    assert not [source for source in sources if source and source.startswith(("http", "//"))]
    assert "url(" not in page.text
    assert "@import" not in page.text
    policy = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    nasty = Hit(1, HOSTILE, HOSTILE, HOSTILE, 0.0, 1.0, 0.5, HOSTILE)
    page = page_of(
        tmp_path,
        QueryResults("text", HOSTILE, [nasty, hit("/gone", 2, 0.1, HOSTILE * 9)]),
        title=HOSTILE,
        figures={HOSTILE: {HOSTILE: HOSTILE}},
        figures_note=HOSTILE,
        counts={HOSTILE: HOSTILE},
    )
    assert not page.all("script")
    assert page.text.count(HOSTILE) > 10


def test_a_missing_video_gives_a_box_with_the_reason(tmp_path: Path) -> None:
    page = page_of(tmp_path, QueryResults("text", "q", [hit("/gone.mp4")]))
    assert not page.all("img")
    assert "No picture: file not found" in page.text


def test_silence_and_long_speech(tmp_path: Path) -> None:
    long = "word " * 100 + "last"
    page = page_of(
        tmp_path, QueryResults("text", "q", [hit("/a", 1, 0.5, None), hit("/a", 2, 0.4, long)])
    )
    assert "No speech" in page.text
    assert len(page.all("details")) == 1
    assert "word last" in page.text


def test_a_query_that_is_no_text_does_not_stop_the_page(tmp_path: Path) -> None:
    assert "caf?" in page_of(tmp_path, QueryResults("text", "caf\udce9", [])).text


def test_a_query_without_hits_says_so(tmp_path: Path) -> None:
    assert "Nothing found" in page_of(tmp_path, QueryResults("video", "x.mp4", [])).text


def test_figures_and_counts(tmp_path: Path) -> None:
    page = page_of(
        tmp_path,
        figures={
            "text to video": {"R@1": 0.125, "MedR": 7.0, "queries": 1500},
            "chance": {"R@1": 0.001},
        },
        figures_note="1 of 1000",
        counts={"videos": 12345, "hours": 2.5},
    )
    assert "text to video 12.5 % 7 1,500" in page.text
    assert "chance 0.1 % – –" in page.text
    assert "hours 2.5" in page.text
    assert "12,345" in page.text
    assert "1 of 1000" in page.text


def test_bars_of_dot_products_are_relative_to_the_best(tmp_path: Path) -> None:
    hits = [hit("/a", 1, 40.0), hit("/a", 2, 10.0), hit("/a", 3, -3.0)]
    page = page_of(tmp_path, QueryResults("text", "q", hits), metric="dot")
    widths = [span["style"] for span in page.all("span") if "style" in span]
    assert widths == ["width: 100.0%", "width: 25.0%", "width: 0.0%"]


def test_the_keyboard_reaches_everything(tmp_path: Path) -> None:
    results = [QueryResults("text", f"query {i}", [hit("/a")]) for i in range(2)]
    page = page_of(tmp_path, *results, figures={"a": {"R@1": 0.5}})
    targets = {attributes.get("id") for _, attributes in page.tags}
    links = [str(link["href"]) for link in page.all("a")]
    assert links == ["#results", "#query-1", "#query-2"]
    assert {link[1:] for link in links} <= targets
    (table,) = (row for row in page.all("div") if row.get("role") == "region")
    assert table["tabindex"] == "0"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (5.25, "0:05.2"), (59.96, "1:00"), (65, "1:05"), (3605.5, "1:00:05.5")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
