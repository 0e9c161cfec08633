import re
import shutil
from pathlib import Path

import pytest

from extractors.config import LogMelConfig, MeanColourConfig
from extractors.decode_config import ProxyConfig
from extractors.errors import UsageError
from extractors.speech_config import SpeechConfig
from extractors.thumbnails import Thumbnail
from pipeline.config import ExtractConfig
from pipeline.dataset import read_records, write_dataset_card
from pipeline.report import MOST_NAMES, report_dataset
from pipeline.report_page import (
    Picture,
    Section,
    Sheet,
    Table,
    check_target,
    render_report,
    write_report,
)
from tests.pipeline.conftest import Clips
from tests.pipeline.tables import publish_shard, row
from tests.pipeline.test_charts import every_kind
from tests.pipeline.test_extract import extract
from tests.pipeline.test_inspection import HOSTILE, Page


class ReportPage(Page):
    """SVG's empty elements close themselves."""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


CONFIG = ExtractConfig(
    videos_per_shard=2,
    extractors={"colour": MeanColourConfig(rate=4), "audio": LogMelConfig()},
    speech=SpeechConfig(recognise=False),
    text=None,
    proxy=ProxyConfig(short_side=64),
)


@pytest.fixture(scope="module")
def dataset(clips: Clips, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Red with captions, green without sound, one that failed, one that is not made yet."""
    folder = tmp_path_factory.mktemp("report")
    videos = folder / "videos"
    videos.mkdir()
    shutil.copy(clips.make("red.mp4", "red"), videos / "a_red.mp4")
    caption = "1\n00:00:00,100 --> 00:00:00,900\n5 < 6 & <b>bold</b>\n"
    (videos / "a_red.srt").write_text(caption)
    shutil.copy(clips.make("mute.mp4", "green", tone=None), videos / "b_mute.mp4")
    (videos / "c_empty.mp4").touch()
    extract(str(videos), str(folder / "d"), CONFIG)
    return str(folder / "d")


def by_title(sections: list[Section]) -> dict[str, Section]:
    return {section.title: section for section in sections}


def numbers(section: Section, title: str) -> dict[str, str]:
    (chart,) = (chart for chart in section.charts if chart.title == title)
    return dict(chart.rows)  # type: ignore[arg-type]


def test_what_a_dataset_is(dataset: str) -> None:
    sections = by_title(report_dataset(dataset))
    assert list(sections) == ["Dataset", "Failures", "Contents", "Contact sheets"]
    facts = dict(sections["Dataset"].facts)
    assert (facts["videos"], facts["shards"]) == ("3", "2 of 2")
    assert numbers(sections["Dataset"], "Videos by status") == {"done": "2", "failed": "1"}
    stages = numbers(sections["Dataset"], "Seconds by stage")
    told = {name for record in read_records(dataset) for name in record.stage_seconds}
    assert set(stages) == told  # but for those of less than half a millisecond, which no record has
    assert "decode" in told
    assert numbers(sections["Failures"], "Failures by reason") == {"empty_file": "1"}
    (failed,) = sections["Failures"].tables
    assert failed.rows[0][:2] == ("c_empty", "empty_file")
    captions = numbers(sections["Contents"], "Transcripts by source")
    assert captions == {"captions": "1", "no transcript": "1"}
    (tracks,) = sections["Contents"].tables
    rows = {one[0]: one[1:] for one in tracks.rows}
    assert rows["colour"] == ("3", "0.25", "2", "8", "4", "4")
    assert rows["audio"][2] == "1"  # one video has sound
    red, mute = sections["Contact sheets"].sheets
    assert (red.title, red.note) == ("a_red, 0:01", "5 < 6 & bold")
    assert len(mute.pictures) == 4
    for picture in red.pictures:
        assert str(picture.thumbnail.data_uri).startswith("data:image/jpeg;base64,")
        assert picture.alt.startswith("a_red at 0:00")


def test_many_labels_are_summed_and_hours_add_up(tmp_path: Path) -> None:
    write_dataset_card(str(tmp_path), CONFIG)
    rows = [
        row(f"v{n}", label=f"label {n}", split="train" if n % 2 else None, duration=36.0 * (n + 1))
        for n in range(MOST_NAMES + 5)
    ]
    publish_shard(str(tmp_path), 0, rows)
    contents = by_title(report_dataset(str(tmp_path)))["Contents"]
    labels = numbers(contents, "Hours by label")
    assert len(labels) == MOST_NAMES + 1
    assert next(iter(labels)) == f"label {MOST_NAMES + 4}"
    assert labels["5 others"] == "0.15"  # 36 * (1 + … + 5) s
    splits = numbers(contents, "Hours by split")
    assert set(splits) == {"train", "none"}
    assert sum(map(float, splits.values())) == pytest.approx(sum(n + 1 for n in range(20)) / 100)


def test_a_dataset_without_shards_is_told(tmp_path: Path) -> None:
    write_dataset_card(str(tmp_path), CONFIG)
    sections = by_title(report_dataset(str(tmp_path)))
    assert dict(sections["Dataset"].facts)["videos"] == "0"
    ReportPage(render_report("here", "Report", list(sections.values())))


def test_a_shard_that_cannot_be_read_does_not_stop_the_report(dataset: str, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "d")
    (tmp_path / "d" / "shards" / "000000.tar").write_bytes(b"nothing of a tar" * 64)
    sections = by_title(report_dataset(str(tmp_path / "d")))
    assert dict(sections["Dataset"].facts)["videos"] == "3"
    (sheet,) = sections["Contact sheets"].sheets
    assert sheet.title == "Shard 000000"
    assert sheet.note.startswith("cannot be read")


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a dataset"):
        report_dataset(str(tmp_path))


def test_the_page_holds_everything_and_loads_nothing(dataset: str, tmp_path: Path) -> None:
    url = str(tmp_path / "report.html")
    size = write_report(url, dataset, "Report: dataset", report_dataset(dataset))
    html = Path(url).read_text()
    assert size == len(html.encode())
    page = ReportPage(html)
    assert "c_empty empty_file" in page.text
    assert "5 < 6 & bold" in page.text
    assert not page.all("script")
    assert not page.all("link")
    values = [str(v) for _, attributes in page.tags for v in attributes.values()]
    assert not [value for value in values if value.startswith(("http", "//"))]
    assert not re.findall(r"url\((?!#)|@import", html)
    policy = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {str(link["href"])[1:] for link in page.all("a")}
    assert links == {f"section-{n}" for n in range(1, 5)} <= set(ids)


def test_plots_and_pictures_are_described() -> None:
    picture = Picture(Thumbnail(data_uri="data:image/jpeg;base64,AA"), "a cat", "0:01", "miaow")
    gone = Picture(Thumbnail(reason="file not found"), "a dog", "0:02")
    section = Section("S", charts=tuple(every_kind()), sheets=(Sheet("T", (picture, gone)),))
    page = ReportPage(render_report("here", "Report", [section]))
    described = [one for one in page.all("div") if one.get("role") == "img"]
    assert [one["aria-label"] for one in described] == [chart.summary for chart in every_kind()]
    assert [image["alt"] for image in page.all("img")] == ["a cat"]
    assert "No picture: file not found" in page.text


def test_hostile_words_stay_words() -> None:
    table = Table(HOSTILE, (HOSTILE,), ((HOSTILE,),))
    picture = Picture(Thumbnail(reason=HOSTILE), HOSTILE, HOSTILE, HOSTILE)
    sheet = Sheet(HOSTILE, (picture,), HOSTILE, words=(HOSTILE,))
    section = Section(HOSTILE, HOSTILE, ((HOSTILE, HOSTILE),), tables=(table,), sheets=(sheet,))
    page = ReportPage(render_report(HOSTILE, HOSTILE, [section, section]))
    assert not page.all("script")
    assert not page.all("img")
    assert page.text.count("{{ 7 * 7 }}") > 20


def test_long_tables_fold() -> None:
    rows = tuple((str(n),) for n in range(30))
    page = ReportPage(render_report("t", "T", [Section("S", tables=(Table("N", ("n",), rows),))]))
    assert len(page.all("details")) == 1
    assert "N (30)" in page.text


def test_a_report_goes_over_an_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    page = str(tmp_path / "page.html")
    check_target(page)
    write_report(page, "a", "Report", [])
    check_target(page)
    notes = tmp_path / "notes.html"
    notes.write_text("<!doctype html>mine")
    with pytest.raises(UsageError, match=r"notes\.html: not a report of this program; --force"):
        check_target(str(notes))
    check_target(str(notes), force=True)
    for folder in (str(tmp_path), f"{tmp_path}/", f"{tmp_path}/new/"):
        with pytest.raises(UsageError, match=r"a folder; give the HTML file, as in .*/report"):
            check_target(folder, force=True)
