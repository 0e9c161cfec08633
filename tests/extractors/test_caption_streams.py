"""Subtitle streams inside videos that ffmpeg made."""

import pytest

from extractors import caption_streams
from extractors.caption_streams import (
    SubtitleStream,
    choose_stream,
    parse_streams,
    read_stream,
    subtitle_streams,
)
from extractors.cues import parse_captions
from extractors.decode_config import DecodeConfig
from extractors.errors import Reason, VideoError
from extractors.probe import probe

H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]


def srt(text):
    return f"1\n00:00:01,000 --> 00:00:02,500\n{text}\n\n2\n00:00:03,000 --> 00:00:03,500\nend\n"


@pytest.fixture(scope="module")
def subtitled(media):
    """`subtitled(name, codec, languages)`: a video with a text stream a language."""

    def make(name, codec, languages=("eng",), options=()):
        inputs, maps, tags = [], ["-map", "0:v"], []
        for number, language in enumerate(languages):
            path = media.path(f"{language}.srt")
            path.write_text(srt(f"<i>in</i> {language} &\nover"))
            inputs += ["-i", path]
            maps += ["-map", number + 1]
            tags += [f"-metadata:s:s:{number}", f"language={language}"]
        return media.video(name, [*maps, *H264, "-c:s", codec, *tags, *options], inputs=inputs)

    return make


def read(path, stream, **settings):
    config = DecodeConfig(**settings)
    return parse_captions(read_stream(path, stream, probe(path, config), config), path)


@pytest.mark.parametrize(("name", "codec"), [
    ("subs.mkv", "subrip"), ("subs_ass.mkv", "ass"), ("subs.mp4", "mov_text"),
    ("subs_vtt.mkv", "webvtt"),
])  # fmt: skip
def test_text_of_every_kind_at_its_time(subtitled, name, codec):
    path = subtitled(name, codec)
    (stream,) = subtitle_streams(path, DecodeConfig())
    assert (stream.codec, stream.language, stream.is_text) == (codec, "eng", True)
    first, second = read(path, stream)
    assert (first.text, second.text) == ("in eng & over", "end")
    # 10 ms is the resolution of .ass
    assert (first.start, first.end) == (pytest.approx(1, abs=0.011), pytest.approx(2.5, abs=0.011))
    assert second.start == pytest.approx(3, abs=0.011)


def test_streams_in_several_languages(subtitled):
    path = subtitled("three.mkv", "subrip", ("ger", "eng", "fre"),
                     ["-disposition:s:0", "default", "-disposition:s:1", "forced"])  # fmt: skip
    streams = subtitle_streams(path, DecodeConfig())
    assert [(s.language, s.default, s.forced) for s in streams] == [
        ("ger", True, False), ("eng", False, True), ("fre", False, False)]  # fmt: skip
    for wanted, expected in (("de", "ger"), ("en", "eng"), ("fr-CA", "fre"), (None, "ger")):
        chosen = choose_stream(streams, wanted)
        assert chosen.language == expected
        assert read(path, chosen)[0].text == f"in {expected} & over"
    assert choose_stream(streams, "ja") is None


def test_times_are_those_of_the_picture(media, subtitled):
    """Of a file whose clock does not start at 0, as decoding counts it."""
    late = str(media.path("late_subs.mkv"))
    media.run("-i", subtitled("subs.mkv", "subrip"), "-c", "copy", "-copyts",
              "-output_ts_offset", "5", late)  # fmt: skip
    (stream,) = subtitle_streams(late, DecodeConfig())
    assert read(late, stream)[0].start == pytest.approx(1, abs=0.05)


def test_pictures_of_text_are_not_taken(media, subtitled):
    path = str(media.path("pictures.mkv"))
    media.run("-i", subtitled("subs.mkv", "subrip"), "-f", "lavfi", "-i", "nullsrc",
              "-map", "0:v", "-map", "0:s", "-c:v", "copy", "-c:s", "subrip", path)  # fmt: skip
    header = (
        "  Stream #0:0(eng): Video: h264\n"
        "  Stream #0:2[0x3](eng): Subtitle: hdmv_pgs_subtitle (default)\n"
        "  Stream #0:3(und): Subtitle: dvd_subtitle, 720x576\n"
    )
    streams = parse_streams(header)
    assert [(s.number, s.codec, s.language, s.is_text) for s in streams] == [
        (2, "hdmv_pgs_subtitle", "eng", False), (3, "dvd_subtitle", None, False)]  # fmt: skip
    assert choose_stream(streams, None) is None


def test_an_untagged_stream_is_a_last_choice():
    untagged, german = SubtitleStream(1, "subrip"), SubtitleStream(2, "subrip", "ger")
    assert choose_stream([untagged, german], "de") == german
    assert choose_stream([untagged], "de") == untagged


def test_bounds(subtitled, monkeypatch):
    path = subtitled("subs.mkv", "subrip")
    (stream,) = subtitle_streams(path, DecodeConfig())
    with monkeypatch.context() as patched:
        patched.setattr(caption_streams, "MAX_BYTES", 20)
        with pytest.raises(VideoError, match="stream 1 \\(subrip\\): over 20 bytes"):
            read(path, stream)
    with pytest.raises(VideoError, match="not read in") as caught:
        read(path, stream, deadline_base=1e-9, deadline_factor=1e-9)
    assert caught.value.reason == Reason.TIMEOUT


def test_a_stream_that_is_not_there(subtitled):
    path = subtitled("subs.mkv", "subrip")
    with pytest.raises(VideoError, match="subtitle stream 7") as caught:
        read(path, SubtitleStream(7, "subrip"))
    assert caught.value.reason == Reason.BAD_CAPTIONS
    assert "\n" not in caught.value.message
