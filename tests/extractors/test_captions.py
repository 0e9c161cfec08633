"""Caption files: which belongs to a video, and what it says when."""

import pytest

from extractors.captions import MAX_BYTES, find_captions, read_captions
from extractors.errors import Reason, VideoError
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
    "1\n00:00:01,000 --> 00:00:02,000\nol\u00e1\n".encode("latin-1"),
    b"[Script Info]\n[Events]\nDialogue: broken\n",
], ids=["text", "empty", "binary", "latin-1", "broken ass"])  # fmt: skip
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
