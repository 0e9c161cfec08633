"""What is read out of the headers that both generations of ffmpeg print."""

import pytest

from extractors.decode_config import DecodeConfig
from extractors.errors import Reason, VideoError
from extractors.probe import PictureStream, SoundStream, parse_header, probe

PHONE_5 = """Input #0, mov,mp4,m4a,3gp,3g2,mj2, from 'file:/v/phone.mp4':
  Metadata:
    major_brand     : isom
    title           : Stream #0:7: Video: h264, 1x1
  Duration: 01:02:03.50, start: 0.000000, bitrate: 86 kb/s
  Stream #0:0[0x1](und): Video: h264 (Main) (avc1 / 0x31637661), yuv420p(tv, bt709, progressive), \
1920x1080 [SAR 1:1 DAR 16:9], 7 kb/s, 29.97 fps, 29.97 tbr, 30k tbn (default)
    Metadata:
      handler_name    : VideoHandler
    Side data:
      displaymatrix: rotation of -90.00 degrees
  Stream #0:1[0x2](und): Audio: aac (LC) (mp4a / 0x6134706D), 44100 Hz, mono, fltp, 69 kb/s
    Side data:
      displaymatrix: rotation of 0.00 degrees
At least one output file must be specified
"""
PHONE_9 = PHONE_5.replace("displaymatrix: rotation", "Display Matrix: rotation")

SONG = """Input #0, mp3, from 'file:/v/song.mp3':
  Duration: 00:00:02.09, start: 0.069063, bitrate: 33 kb/s
  Stream #0:0: Audio: mp3, 16000 Hz, mono, fltp, 24 kb/s
  Stream #0:1: Video: png, rgb24(pc, gbr/unknown/unknown), 64x64 [SAR 1:1 DAR 1:1], 90k tbr, \
90k tbn (attached pic)
"""
FILM = """[matroska,webm @ 0x55] Could not find codec parameters for stream 4
Input #0, matroska,webm, from 'file:/v/film.mkv':
  Duration: N/A, start: 0.000000, bitrate: N/A
  Stream #0:0: Video: mjpeg (Baseline), yuvj420p(pc, bt470bg/unknown/unknown), 600x882 \
[SAR 1:1 DAR 100:147], 90k tbr, 90k tbn (attached pic)
  Stream #0:1(eng): Video: mpeg2video (Main), yuv420p(tv, top first), 720x576 \
[SAR 64:45 DAR 16:9], 1k fps, 25 tbr, 1k tbn (default)
  Stream #0:2(ger): Audio: ac3, 48000 Hz, 5.1(side), fltp, 448 kb/s
  Stream #0:3(eng): Audio: dts (DTS), 48000 Hz, 5.1(side), fltp, 1536 kb/s (default)
  Stream #0:4(eng): Subtitle: hdmv_pgs_subtitle
"""
GROUPED = """Input #0, mov,mp4,m4a,3gp,3g2,mj2, from 'file:/v/new.mp4':
  Duration: 00:00:04.00, start: 0.000000, bitrate: 86 kb/s
  Stream group #0:0[0x3]: LCEVC: (default)
    Stream #0:0[0x1](und): Video: h264 (Main), yuv420p, 64x48, 25 tbr (default)
"""


@pytest.mark.parametrize("text", [PHONE_5, PHONE_9], ids=["5.1", "9.0"])
def test_a_video_held_upright(text):
    found = parse_header(text, "phone.mp4")
    assert found.duration == 3723.5
    assert found.container == "mov,mp4,m4a,3gp,3g2,mj2"
    assert found.picture == PictureStream(
        0, "h264", height=1920, width=1080, rate=29.97, pixels="yuv420p", rotation=-90
    )
    assert found.sound == SoundStream(1, "aac")


def test_cover_art_is_no_picture():
    found = parse_header(SONG, "song.mp3")
    assert found.picture is None
    assert found.sound == SoundStream(0, "mp3")


def test_several_tracks_an_unknown_duration_and_odd_pixels():
    found = parse_header(FILM, "film.mkv")
    assert found.duration is None
    assert found.picture == PictureStream(
        1, "mpeg2video", height=576, width=1024, rate=1000.0, pixels="yuv420p"
    )
    assert found.sound == SoundStream(3, "dts", "eng")
    assert found.other == (2,), "cover art is no stream in time"
    assert found.timed == (4,)


def test_the_first_of_several_sounds_where_none_is_the_default():
    found = parse_header(FILM.replace("1536 kb/s (default)", "1536 kb/s"), "film.mkv")
    assert found.sound == SoundStream(2, "ac3", "ger")


def test_no_frame_rate_and_a_stream_inside_a_group():
    assert parse_header(GROUPED, "new.mp4").picture == PictureStream(
        0, "h264", 48, 64, rate=0.0, pixels="yuv420p"
    )


def test_a_picture_without_height_is_none():
    """Found by benchmarks/fuzz.py: a divisor later on."""
    assert parse_header(GROUPED.replace("64x48", "64x0"), "new.mp4").picture is None


def test_a_sample_aspect_ratio_cannot_make_a_side_zero():
    text = GROUPED.replace("64x48,", "64x48 [SAR 1:1000 DAR 1:750],")
    assert parse_header(text, "new.mp4").picture.width == 1


def test_a_guessed_duration_is_none():
    remark = "[mp3 @ 0x5] Estimating duration from bitrate, this may be inaccurate\n"
    assert parse_header(remark + SONG, "song.mp3").duration is None


def test_a_tag_cannot_pass_for_a_stream():
    tag = "    title           : x\u2028  Stream #0:9: Audio: pcm, 1 Hz\x0b  Duration: 09:00:00.0\n"
    text = PHONE_5.replace("  Metadata:\n", "  Metadata:\n" + tag, 1)
    assert parse_header(text, "x.mp4") == parse_header(PHONE_5, "x.mp4")


@pytest.mark.parametrize(("text", "reason"), [
    ("[mov,mp4 @ 0x5] moov atom not found\nx.mp4: Invalid data found", Reason.TRUNCATED),
    ("[mov,mp4 @ 0x5] Format mov,mp4 detected only with low score of 1, misdetection possible!\n"
     "[mov,mp4 @ 0x5] moov atom not found\nx.mp4: Invalid data found", Reason.NOT_A_VIDEO),
    ("[hls @ 0x5] Format not on whitelist 'mov'\nx.mp4: Invalid argument", Reason.REFUSED),
    ("x.mp4: Invalid data found when processing input", Reason.NOT_A_VIDEO),
    ("", Reason.NOT_A_VIDEO),
], ids=["no moov", "no mp4", "hls", "invalid", "silence"])  # fmt: skip
def test_why_a_file_was_not_opened(text, reason):
    with pytest.raises(VideoError) as caught:
        parse_header(text, "x.mp4")
    assert caught.value.reason == reason
    assert caught.value.message.startswith("x.mp4: ")


def test_a_real_file(media, h264):
    path = media.video("plain.mp4", h264)
    found = probe(path, DecodeConfig())
    assert found.picture == PictureStream(0, "h264", 64, 256, 25.0, "yuv420p")
    assert found.duration == pytest.approx(4.0)
    assert found.sound is None


def test_a_file_with_a_huge_header(media, h264):
    tag = media.path("tags.txt")
    tag.write_text(";FFMETADATA1\ntitle=" + "long " * 400_000 + "\n")
    path = media.path("tagged.mkv")
    media.run("-i", media.video("plain.mp4", h264), "-i", tag, "-map_metadata", 1, "-c", "copy",
              path)  # fmt: skip
    assert path.stat().st_size > 2_000_000
    assert probe(str(path), DecodeConfig()).picture.width == 256


def test_subtitles_alone_are_no_streams(media):
    text = media.path("only.srt")
    text.write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    path = media.path("only.mkv")
    media.run("-i", text, path)
    with pytest.raises(VideoError) as caught:
        probe(str(path), DecodeConfig())
    assert caught.value.reason == Reason.NO_STREAMS
