"""Captions: where those of a video are found, and what they say when."""

import hashlib
import json
import os
import time

import pytest

from extractors.captions import (
    MAX_BYTES,
    captions_id,
    find_captions,
    locate_captions,
    read_captions,
    read_located,
)
from extractors.decode_config import DecodeConfig
from extractors.errors import Reason, VideoError
from extractors.probe import probe
from extractors.speech_config import SpeechConfig
from extractors.tracks import Segment

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Cut</i> the onion
finely

2
00:00:00,250 --> 00:00:00,750
{\\an8}Hello – café

3
00:00:05,000 --> 00:00:06,000
<b></b>

4
00:00:08,000 --> 00:00:08,000
no time at all
"""
VTT = """WEBVTT - made by hand
Kind: captions
Language: en

NOTE this is a remark

STYLE
::cue { color: white }

intro
00:01.000 --> 00:02.500 align:start position:10%
<v Anna><00:01.200><c>Cut</c> the onion &amp; fry

01:00:00.000 --> 01:00:01.000
An hour later
"""
ASS = """[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:00.00,0:00:09.00,Default,,0,0,0,,not shown
Dialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,{\\b1}Cut{\\b0} the\\Nonion
"""


def read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_captions(str(path))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_srt(tmp_path, mark, newline):
    assert read(tmp_path, "a.srt", mark + SRT.encode().replace(b"\n", newline)) == [
        Segment(0.25, 0.75, "Hello – café", "captions"),
        Segment(1.0, 2.5, "Cut the onion finely", "captions"),
    ]


def test_vtt(tmp_path):
    assert read(tmp_path, "a.vtt", VTT) == [
        Segment(1.0, 2.5, "Cut the onion & fry", "captions"),
        Segment(3600.0, 3601.0, "An hour later", "captions"),
    ]


def test_ass(tmp_path):
    assert read(tmp_path, "a.ass", ASS) == [Segment(1.0, 2.5, "Cut the onion", "captions")]


@pytest.mark.parametrize("content", [
    b"this is no caption file",
    b"",
    bytes(range(256)) * 4,
    "1\n00:00:01,000 --> 00:00:02,000\nol\u00e1\0\n".encode("latin-1"),
    b"\xff\xfe\x00\xd8 cut",
    b"\n" * 400_002,
    b"[Script Info]\n[Events]\nDialogue: broken\n",
], ids=["text", "empty", "binary", "a zero", "cut utf-16", "newlines", "broken ass"])  # fmt: skip
def test_malformed(tmp_path, content):
    with pytest.raises(VideoError) as caught:
        read(tmp_path, "bad.srt", content)
    assert caught.value.reason == Reason.BAD_CAPTIONS
    assert str(tmp_path / "bad.srt") in caught.value.message
    assert "\n" not in caught.value.message


def test_too_large_and_gone(tmp_path):
    with pytest.raises(VideoError, match="over"):
        read(tmp_path, "large.srt", b" " * (MAX_BYTES + 1))
    with pytest.raises(VideoError, match="cannot be read"):
        read_captions(str(tmp_path / "gone.srt"))


@pytest.mark.parametrize(("video", "files", "found"), [
    ("a.mp4", ["a.srt"], "a.srt"),
    ("a.mp4", ["a.en.srt"], "a.en.srt"),
    ("a.mp4", ["a.vtt", "a.srt"], "a.srt"),
    ("a.mp4", ["a.en.srt", "a.de.srt"], "a.de.srt"),
    ("a.mp4", ["a.en-GB.vtt"], "a.en-GB.vtt"),
    ("a.mp4", ["b.srt", "ab.srt", "a.txt"], None),
    ("a[1]*?.mp4", ["a[1]*?.en.srt"], "a[1]*?.en.srt"),
    ("a[1].mp4", ["a1.en.srt"], None),
    ("*.mp4", ["b.en.srt"], None),
    ("a.b.mp4", ["a.b.srt"], "a.b.srt"),
    ("a.mp4", ["a.b.srt", "a.b.mp4"], None),  # those of the video a.b.mp4
])  # fmt: skip
def test_which_file_belongs_to_a_video(tmp_path, video, files, found):
    for name in [video, *files]:
        (tmp_path / name).touch()
    expected = str(tmp_path / found) if found else None
    assert find_captions(str(tmp_path / video)) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be",
                                      "utf-32", "cp1252", "latin-1"])  # fmt: skip
def test_encodings(tmp_path, encoding):
    text = "1\n00:00:01,000 --> 00:00:02,000\nOlá – ça\n"
    if encoding == "latin-1":
        text = text.replace("–", "-")
    (segment,) = read(tmp_path, "a.srt", text.encode(encoding))
    assert segment.text == ("Olá - ça" if encoding == "latin-1" else "Olá – ça")


def test_what_a_video_of_known_length_has(tmp_path):
    path = tmp_path / "a.vtt"
    path.write_text(VTT)
    assert read_captions(str(path), 2.0) == [Segment(1.0, 2.0, "Cut the onion & fry", "captions")]
    assert read_captions(str(path), 1.0) == []


def srt(text):
    return f"1\n00:00:00,500 --> 00:00:01,500\n{text}\n"


@pytest.fixture
def video(media, tmp_path):
    """Four seconds of picture and sound without subtitles, in a folder of its own."""
    made = media.video("captioned.mkv", ["-c:v", "libx264", "-preset", "ultrafast"])
    os.link(made, tmp_path / "v-1.mkv")
    return str(tmp_path / "v-1.mkv")


def locate(video, given=None, ids=(), **settings):
    decoding = DecodeConfig()
    probed = probe(video, decoding)
    found = locate_captions(
        video, SpeechConfig(**settings), decoding, given=given, ids=ids, probed=probed
    )
    said = read_located(found, probed, decoding) if found else []
    return found, [segment.text for segment in said]


def test_the_order_in_which_captions_are_looked_for(media, video, tmp_path):
    """Each place is filled after the ones that come later in the order."""
    inside = tmp_path / "inside.srt"
    inside.write_text(srt("inside"))
    plain = tmp_path / "plain.mkv"
    os.rename(video, plain)
    media.run("-i", plain, "-i", inside, "-map", 0, "-map", 1, "-c", "copy", "-c:s", "srt",
              "-metadata:s:s:0", "language=eng", video)  # fmt: skip
    inside.unlink()
    table = tmp_path / "table.json"
    settings = {"caption_table": str(table)}
    entry = {"start": [0.5], "end": [1.5], "text": ["table"]}
    seen = []

    def look(given=None):
        found, texts = locate(video, given, **settings)
        seen.append((found.kind, found.name, found.language, texts))
        assert found.facts["kind"] == found.kind
        assert str(tmp_path) not in json.dumps(found.facts)
        return found.digest

    table.write_text(json.dumps({"other": entry}))
    digests = [look()]
    table.write_text(json.dumps({"other": entry, "v-1": entry}))
    digests.append(look())
    data = {"subtitles": {"en": [{"ext": "srt", "data": srt("info")}]}}
    (tmp_path / "v-1.info.json").write_text(json.dumps(data))
    digests.append(look())
    (tmp_path / "v-1.en.srt").write_text(srt("beside"))
    digests.append(look())
    (tmp_path / "given.de.srt").write_text(srt("given"))
    digests.append(look(str(tmp_path / "given.de.srt")))
    assert seen == [
        ("stream", "stream 1 (subrip)", "eng", ["inside"]),
        ("table", "v-1", None, ["table"]),
        ("info", "en.srt", "en", ["info"]),
        ("srt", "v-1.en.srt", "en", ["beside"]),
        ("srt", "given.de.srt", "de", ["given"]),
    ]
    assert len(set(digests)) == 5
    assert locate(video, captions=False) == (None, [])


def test_nothing_is_found_where_nothing_is(video):
    assert locate(video) == (None, [])


def test_a_given_info_json_without_captions_sends_the_search_on(video, tmp_path):
    info = tmp_path / "x.info.json"
    info.write_text(json.dumps({"id": "x", "subtitles": {}}))
    assert locate(video, str(info)) == (None, [])
    (tmp_path / "v-1.srt").write_text(srt("beside"))
    assert locate(video, str(info))[1] == ["beside"]


def test_a_given_table_is_looked_up_by_any_of_the_names(video, tmp_path):
    table = tmp_path / "caption.json"
    table.write_text(json.dumps({"the_key": {"start": [1], "end": [2], "text": ["said"]}}))
    found, texts = locate(video, str(table), ids=("the_name", "the_key"))
    assert (found.kind, found.name, texts) == ("table", "the_key", ["said"])


def test_the_language_decides(video, tmp_path):
    for name in ("v-1.de.srt", "v-1.en-GB.vtt", "v-1.en-orig.srt", "v-1.srt"):
        (tmp_path / name).write_text(srt(name))
    assert locate(video)[1] == ["v-1.srt"]
    found, texts = locate(video, caption_language="en")
    assert (texts, found.automatic) == (
        ["v-1.en-GB.vtt"],
        False,
    )  # by hand before by machine
    assert locate(video, caption_language="ger")[1] == ["v-1.de.srt"]
    assert locate(video, caption_language="fr")[1] == ["v-1.srt"]  # which might be French
    (tmp_path / "v-1.srt").unlink()
    assert locate(video, caption_language="fr") == (None, [])


def test_captions_are_cut_to_the_video(video, tmp_path):
    (tmp_path / "v-1.srt").write_text(SRT)
    probed = probe(video, DecodeConfig())
    found = locate_captions(video, SpeechConfig(), DecodeConfig(), probed=probed)
    assert max(segment.end for segment in read_located(found, probed, DecodeConfig())) <= 4.05


def test_bad_captions_of_a_video_are_its_failure(video, tmp_path):
    (tmp_path / "v-1.srt").write_bytes(b"\0\1\2")
    with pytest.raises(VideoError, match=r"v-1\.srt: cannot be read") as caught:
        locate(video)
    assert caught.value.reason == Reason.BAD_CAPTIONS


def test_the_id_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a.srt").write_text(SRT)
    expected = hashlib.sha256(SRT.encode()).hexdigest()
    assert captions_id(str(tmp_path / "a.srt")) == expected
    with pytest.raises(VideoError, match="No such file"):
        captions_id(str(tmp_path / "gone.srt"))


@pytest.mark.parametrize("unit", ["{", "<a", "\n ", "\\N", "&", "0:", "a\n1\n"])
@pytest.mark.parametrize("head", [
    "1\n00:00:01,000 --> 00:00:02,000\n",
    "WEBVTT\n\n00:01.000 --> 00:02.000\n",
    "[Script Info]\n[V4+ Styles]\n[Events]\nDialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,",
], ids=["srt", "vtt", "ass"])  # fmt: skip
def test_time_is_linear_in_a_hostile_file(tmp_path, head, unit):
    """Of a quadratic pattern, half a million characters would take minutes."""
    started = time.process_time()
    read(tmp_path, "a.srt", head + "x" + unit * (500_000 // len(unit)) + "x")
    assert time.process_time() - started < 5
