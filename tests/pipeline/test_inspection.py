import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from extractors.config import LogMelConfig, MeanColourConfig
from extractors.decode_config import ProxyConfig
from extractors.errors import UsageError
from extractors.speech_config import SpeechConfig
from extractors.tracks import Segment, Track
from pipeline.config import ExtractConfig
from pipeline.inspection import Inspected, Member, find_shards, inspect_videos, times_of
from pipeline.inspection_page import byte_text, clock, render_page, write_page
from pipeline.samples import VideoSample
from tests.html_pages import HOSTILE, Page
from tests.pipeline.conftest import Clips
from tests.pipeline.test_extract import extract


@pytest.fixture(scope="module")
def dataset(clips: Clips, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards: red with captions and green without sound; a video that failed. With proxies."""
    folder = tmp_path_factory.mktemp("inspect")
    videos = folder / "videos"
    videos.mkdir()
    shutil.copy(clips.make("red.mp4", "red"), videos / "a_red.mp4")
    caption = "1\n00:00:00,100 --> 00:00:00,900\n5 < 6 & <b>bold</b>\n"
    (videos / "a_red.srt").write_text(caption)
    shutil.copy(clips.make("mute.mp4", "green", tone=None), videos / "b_mute.mp4")
    (videos / "c_empty.mp4").touch()
    config = ExtractConfig(
        videos_per_shard=2,
        extractors={"colour": MeanColourConfig(rate=4), "audio": LogMelConfig()},
        speech=SpeechConfig(recognise=False),
        text=None,
        proxy=ProxyConfig(short_side=64),
    )
    extract(str(videos), str(folder / "d"), config)
    return folder / "d"


def inspect_one(dataset: Path, key: str) -> Inspected:
    found, numbers = find_shards(str(dataset), key)
    (video,) = inspect_videos(found, numbers, key=key)
    return video


def test_members_are_told_with_what_they_hold(dataset: Path) -> None:
    video = inspect_one(dataset, "a_red")
    members = {member.name: (member.shape, member.dtype) for member in video.members}
    assert members["colour.npy"] == ((4, 3), "float32")
    assert members["audio.npy"][1] == "float16"
    assert members["meta.json"] == (None, None)
    assert "proxy.mp4" in members
    mute = {member.name: member for member in inspect_one(dataset, "b_mute").members}
    assert mute["audio.npy"].shape == (0, 40)
    assert video.uri.endswith("/a_red.mp4")
    assert json.loads(json.dumps(video.as_json()))["segments"][0]["source"] == "captions"


@pytest.mark.parametrize(
    ("target", "key", "message"),
    [
        ("d/shards/000009.tar", None, "not a published shard"),
        ("d/plan.parquet", None, "not a published shard"),
        ("videos", None, "not a dataset"),
        ("d", "nobody", "--key nobody: no such video"),
        ("d", "c_empty", "--key c_empty: it failed: empty_file"),
        ("d/shards/000001.tar", "a_red", "--key a_red: no such video in shard 000001"),
    ],
)
def test_what_cannot_be_inspected(
    dataset: Path, target: str, key: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        inspect_videos(*find_shards(str(dataset.parent / target), key), key=key)


def test_a_shard_that_is_not_made_yet(dataset: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(dataset, tmp_path / "d")
    (copy / "shards/000000_stats.json").unlink()
    with pytest.raises(UsageError, match="its shard 000000 is not made yet"):
        find_shards(str(copy), "a_red")


def test_the_page_shows_everything(dataset: Path, tmp_path: Path) -> None:
    videos = inspect_videos(str(dataset), [0, 1])
    write_page(str(tmp_path / "page.html"), "my shard", videos)
    page = Page((tmp_path / "page.html").read_text())
    for words in (
        "a_red",
        "0:00.1 – 0:00.9",
        "5 < 6 &",
        "absent: no sound track",
        "colour 4 × 3, float32",
        "mean_colour",
        "fingerprint",
        "ffmpeg",
        "No speech.",
    ):
        assert words in page.text, words
    kinds = [str(image["src"])[:22] for image in page.all("img")]
    # two videos of a second at four frames a second; one has sound
    assert kinds.count("data:image/jpeg;base64") == 8
    assert kinds.count("data:image/png;base64,") >= 1
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("polyline")) == 2


def test_nothing_is_loaded_from_outside(dataset: Path) -> None:
    page = Page(render_page("t", inspect_videos(str(dataset), [0])))
    assert not page.all("script") + page.all("link") + page.all("iframe")
    values = [value for _, attributes in page.tags for value in attributes.values() if value]
    assert not [value for value in values if value.startswith(("http", "//"))]
    (policy,) = (meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert str(policy).startswith("default-src 'none'; img-src data:;")


def hostile_video(uri: str = HOSTILE) -> Inspected:
    """Every word that can come from a video or a plug-in is hostile."""
    facts = {"start": 0.0, "hop": 0.5, "rows": 4, "dim": 2, "dtype": "float32", "absent": ""}
    meta = {
        "duration": 2.0,
        "content_id": HOSTILE,
        "label": HOSTILE,
        "picture": {"codec": HOSTILE, "width": 1, "height": 1, "rate": 1},
        "sound": {"codec": HOSTILE},
        "tracks": {HOSTILE: facts, "gone": facts | {"rows": 0, "absent": HOSTILE}},
    }
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    sample = VideoSample(
        key=HOSTILE,
        meta=meta,
        tracks={HOSTILE: Track(rows, 0.0, 0.5)},
        segments=tuple(Segment(0, 1, HOSTILE, "captions") for _ in range(20)),
    )
    made = {HOSTILE: {"settings": {HOSTILE: HOSTILE}}}
    return Inspected(0, uri, sample, (Member(HOSTILE, 3, (4, 2), HOSTILE),), made)


def test_hostile_words_stay_words() -> None:
    page = Page(render_page(HOSTILE, [hostile_video(), hostile_video()]))
    assert not page.all("script")
    assert not [image for image in page.all("img") if "onerror" in image]
    assert page.text.count(HOSTILE) > 40
    assert page.text.count("49") == 0
    assert len(page.all("style")) == 1


def test_a_video_without_proxy_is_looked_up_in_its_place(clip: Path) -> None:
    shown = Page(render_page("t", [hostile_video(str(clip))]))
    assert any(str(image["src"]).startswith("data:image/jpeg") for image in shown.all("img"))
    assert "of the video itself" in shown.text
    gone = Page(render_page("t", [hostile_video("/gone.mp4")]))
    assert "No picture: file not found" in gone.text
    remote = Page(render_page("t", [hostile_video("s3://bucket/x.mp4")]))
    assert "No picture: not on this disk" in remote.text


def test_an_empty_page_says_so() -> None:
    assert "No videos." in Page(render_page("t", [])).text


def test_frames_are_spread_over_the_video() -> None:
    assert times_of(12.0, 12) == [0.5 + i for i in range(12)]
    assert times_of(0.5, 12) == [0.125, 0.375]
    assert times_of(0.0, 12) == [0.0]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65.25, "1:05.25"), (3605, "1:00:05")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000_000, "2.0 GB")]
)
def test_byte_text(count: int, text: str) -> None:
    assert byte_text(count) == text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser here")
def test_a_phone_shows_it_without_scrolling_sideways(tmp_path: Path) -> None:
    """As the browser lays it out; a script is added that writes the widths into the page."""
    html = render_page(HOSTILE, [hostile_video()])
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    frame = tmp_path / "phone.html"
    (tmp_path / "page.html").write_text(html)
    frame.write_text(
        '<iframe src="page.html" style="width:360px;height:800px;border:0" onload="'
        "document.title=this.contentDocument.documentElement.scrollWidth+'/'+"
        "this.contentWindow.getComputedStyle(this.contentDocument.querySelector('.box')).height"
        '"></iframe>'
    )
    browser = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
        *("--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"),
    ]
    command = [*browser, "--virtual-time-budget=4000", frame.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r"<title>(\d+)/(\d+)px</title>", dom)
    assert found is not None, dom[:500]
    assert int(found[1]) <= 360
    assert int(found[2]) > 100


def test_inspect_command(run: Callable[..., object], dataset: Path, tmp_path: Path) -> None:
    shard = dataset / "shards/000000.tar"
    outcome = run("inspect", shard, "--limit", 1)
    assert "a_red" in outcome.out
    assert "b_mute" not in outcome.out
    listed = json.loads(run("inspect", dataset, "--json").out)
    assert [video["key"] for video in listed] == ["a_red", "b_mute"]
    outcome = run("inspect", dataset, "--key", "b_mute", "--html", tmp_path / "page.html")
    assert outcome.code == 0
    assert "1 videos" in outcome.err
    assert "b_mute" in (tmp_path / "page.html").read_text()
    assert run("inspect", dataset, "--key", "c_empty").code == 2
