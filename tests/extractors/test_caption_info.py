"""Captions that yt-dlp's info.json holds or names."""

import json

import pytest

from extractors.caption_info import InfoCaptions, find_in_info
from extractors.errors import Reason, VideoError


def find(tmp_path, content, language=None):
    path = tmp_path / "a.info.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return find_in_info(str(path), language)


def held(text, ext="vtt"):
    return [{"ext": "json3", "url": "https://host/x"}, {"ext": ext, "data": text}]


def test_made_by_hand_before_automatic_and_the_language_decides(tmp_path):
    info = {
        "id": "a",
        "formats": [{"url": "x"}] * 3,
        "subtitles": {"de": held("DE"), "live_chat": [{"ext": "json", "data": "{}"}]},
        "automatic_captions": {"en-orig": held("EN", "srt"), "fr": held("FR")},
    }
    assert find(tmp_path, info) == InfoCaptions("de", False, ".vtt", "DE", None)
    assert find(tmp_path, info, "en") == InfoCaptions("en", True, ".srt", "EN", None)
    assert find(tmp_path, info, "es") is None


def test_a_file_beside_that_it_names(tmp_path):
    (tmp_path / "elsewhere named.vtt").write_text("WEBVTT")
    info = {
        "subtitles": {"en": [{"ext": "vtt", "url": "https://host/x"}]},
        "requested_subtitles": {"en": {"ext": "vtt", "filepath": "/old/place/elsewhere named.vtt"}},
    }
    beside = str(tmp_path / "elsewhere named.vtt")
    assert find(tmp_path, info) == InfoCaptions("en", False, ".vtt", None, beside)
    del info["subtitles"]
    assert find(tmp_path, info).automatic


def test_paths_and_addresses_are_not_followed(tmp_path):
    secret = tmp_path / "secret.vtt"
    secret.write_text("WEBVTT")
    folder = tmp_path / "videos"
    folder.mkdir()
    for place in (str(secret), "../secret.vtt", "/etc/..", ".", ""):
        entry = {"ext": "vtt", "filepath": place, "url": f"file://{secret}"}
        assert find(folder, {"requested_subtitles": {"en": entry}}) is None


@pytest.mark.parametrize("info", [
    {}, [], 1, {"subtitles": None}, {"subtitles": []}, {"subtitles": {"en": None}},
    {"subtitles": {"en": [None, 1, {}, {"ext": 1}, {"ext": "vtt", "data": 1, "filepath": 2}]}},
])  # fmt: skip
def test_other_shapes_give_none(tmp_path, info):
    assert find(tmp_path, info) is None


@pytest.mark.parametrize("content", ["", "{", "WEBVTT", '{"a": 1} trailing'])
def test_what_is_not_json(tmp_path, content):
    with pytest.raises(VideoError, match=r"a\.info\.json: cannot be read") as caught:
        find(tmp_path, content)
    assert caught.value.reason == Reason.BAD_CAPTIONS
