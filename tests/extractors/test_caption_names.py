"""Names of caption files: whose they are, in which language, by man or machine."""

import os

import pytest

from extractors.caption_names import (
    CaptionName,
    caption_files,
    captions_beside,
    choose,
    language_distance,
    names_by_video,
)


@pytest.mark.parametrize(("name", "video", "language", "automatic"), [
    ("a.en.vtt", "a", "en", False),
    ("a.pt-BR.srt", "a", "pt-BR", False),
    ("a.en-orig.vtt", "a", "en", True),
    ("a.en.auto.SRT", "a", "en", True),
    ("a.auto.en.srt", "a", "en", True),
    ("a.asr.vtt", "a", None, True),
    ("a.b.zh_Hans.ass", "a.b", "zh_Hans", False),
    ("a.en.de.srt", "a.en", "de", False),
])  # fmt: skip
def test_what_a_name_says(name, video, language, automatic):
    found = names_by_video([name])
    assert found[video] == (CaptionName(name, language, automatic),)
    assert found[name.rpartition(".")[0]][0] == CaptionName(name)  # of a video with that very name


@pytest.mark.parametrize("name", ["a.txt", "a.json", ".srt", "srt", "a.en", ""])
def test_what_is_no_caption_file(name):
    assert names_by_video([name]) == {}


HAND, GERMAN = CaptionName("a.en.vtt", "en"), CaptionName("a.de.srt", "de")
BRITISH, MACHINE = CaptionName("a.en-GB.srt", "en-GB"), CaptionName("a.en-orig.srt", "en", True)
UNSAID = CaptionName("a.ass")


@pytest.mark.parametrize(("captions", "language", "chosen"), [
    ([], None, None),
    ([HAND, UNSAID], None, UNSAID),
    ([HAND, GERMAN], None, GERMAN),
    ([MACHINE, HAND], None, HAND),
    ([MACHINE], None, MACHINE),
    ([HAND, UNSAID], "en", HAND),
    ([BRITISH, HAND], "en", HAND),
    ([BRITISH, HAND], "en-GB", BRITISH),
    ([MACHINE, BRITISH], "en", BRITISH),
    ([MACHINE, GERMAN], "eng", MACHINE),
    ([HAND, GERMAN, MACHINE], "fr", None),
    ([GERMAN, UNSAID], "fr", UNSAID),
])  # fmt: skip
def test_which_captions_are_taken(captions, language, chosen):
    assert choose(captions, language) == chosen
    assert choose(captions[::-1], language) == chosen


@pytest.mark.parametrize(("one", "other", "same"), [
    ("en", "eng", True), ("en", "en-US", True), ("de", "ger", True), ("no", "nb", True),
    ("pt", "pt-BR", True), ("en", "de", False), ("zh", "zh-Hant", False), ("en", "x y", False),
    (None, "en", True), ("en", None, True),
])  # fmt: skip
def test_languages(one, other, same):
    assert (language_distance(one, other) is not None) == same


def test_files_beside_a_video(tmp_path):
    for name in ("a.mp4", "a.en.srt", "a.info.json", "b.srt"):
        (tmp_path / name).touch()
    video = str(tmp_path / "a.mp4")
    assert [entry.name for entry in captions_beside(video)] == ["a.en.srt"]
    assert caption_files(video) == [str(tmp_path / "a.en.srt"), str(tmp_path / "a.info.json")]
    (tmp_path / "a.vtt").touch()
    os.utime(tmp_path, ns=(1, 1))  # another time of the folder, whatever the clock's steps
    assert [entry.name for entry in captions_beside(video)] == ["a.en.srt", "a.vtt"]
