"""A file that is cut short or damaged is said to be so, a healthy one never."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from extractors.errors import Reason, VideoError
from extractors.ffmpeg import ffmpeg_binary
from extractors.views import FrameView, SoundView

FRAMES = FrameView(8, 32, 128, "stretch")
SOUND = SoundView(16_000)


def noisy_frames(count):
    """Frames that do not compress well, so that most of a file is picture."""
    return np.random.default_rng(0).integers(0, 256, (count, 64, 128, 3), np.uint8)


def shortened(media, source, name, share):
    """The first `share` of a file's bytes."""
    content = Path(source).read_bytes()
    target = media.path(name)
    target.write_bytes(content[: int(len(content) * share)])
    return str(target)


@pytest.fixture
def long_video(media, h264):
    """A maker of ten seconds of noise in any container."""
    return lambda name, *options: media.video(name, [*h264, *options], frames=noisy_frames(250))


@pytest.mark.parametrize("name", ["slow.mp4", "fast.mp4", "cut.mkv"])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_truncated_file_fails_as_truncated(name, share, media, long_video, decode_all):
    options = ["-movflags", "faststart"] if name == "fast.mp4" else []
    path = shortened(media, long_video(name, *options), f"{share}_{name}", share)
    with pytest.raises(VideoError) as caught:
        decode_all(path, FRAMES)
    assert caught.value.reason == Reason.TRUNCATED
    assert path in caught.value.message


@pytest.mark.parametrize("suffix", ["avi", "ts"])
def test_a_cut_file_that_states_no_length_fails(suffix, media, long_video, decode_all):
    """Their length is taken from what is there; the picture that was cut is an error."""
    path = shortened(media, long_video(f"whole.{suffix}"), f"cut.{suffix}", 0.5)
    with pytest.raises(VideoError) as caught:
        decode_all(path, FRAMES)
    assert caught.value.reason in (Reason.DECODE_ERROR, Reason.TRUNCATED)


def test_keep_gives_what_there_is_and_says_what_is_wrong(media, long_video, decode_all):
    whole = long_video("fast.mp4", "-movflags", "faststart")
    path = shortened(media, whole, "kept.mp4", 0.5)
    everything = decode_all(path, FRAMES, on_damage="keep")
    assert 30 <= len(everything.views[FRAMES]) <= 50
    assert "s of 10.00 s are there" in everything.decoded.damage
    assert everything.decoded.duration == pytest.approx(5, abs=1)
    undamaged = decode_all(whole, FRAMES).views[FRAMES]
    np.testing.assert_array_equal(everything.views[FRAMES][:30], undamaged[:30])


def test_damage_inside_a_file_is_a_decode_error(media, long_video, decode_all):
    content = bytearray(Path(long_video("cut.mkv")).read_bytes())
    middle = len(content) // 2
    rubbish = np.random.default_rng(1).integers(0, 256, 20_000, np.uint8).tobytes()
    content[middle : middle + len(rubbish)] = rubbish
    path = media.path("damaged.mkv")
    path.write_bytes(content)
    with pytest.raises(VideoError, match="errors, the first: ") as caught:
        decode_all(str(path), FRAMES)
    assert caught.value.reason == Reason.DECODE_ERROR
    kept = decode_all(str(path), FRAMES, on_damage="keep")
    assert "errors, the first" in kept.decoded.damage
    assert len(kept.views[FRAMES]) > 60


def test_a_header_without_any_picture_data_has_zero_frames(media, long_video, decode_all):
    content = bytearray(Path(long_video("fast.mp4", "-movflags", "faststart")).read_bytes())
    start = content.index(b"mdat") + 4
    content[start:] = bytes(len(content) - start)
    path = media.path("hollow.mp4")
    path.write_bytes(content)
    with pytest.raises(VideoError) as caught:
        decode_all(str(path), FRAMES)
    assert caught.value.reason == Reason.ZERO_FRAMES


def healthy(media, h264, name):
    """Files in which ffmpeg's decoders find something to remark at their start or end."""
    sound = media.wav("tone.wav", 0.3 * np.sin(np.arange(64_000) / 6))
    inputs = ["-i", sound]
    match name:
        case "aac.ts" | "aac.mp4" | "aac.flv":
            rate = ["-ar", 44_100] if name == "aac.flv" else []
            return media.video(name, [*h264, "-c:a", "aac", *rate], inputs=inputs)
        case "mp3.avi":
            return media.video(name, ["-c:v", "mpeg4", "-bf", 2, "-c:a", "libmp3lame"],
                               inputs=inputs)  # fmt: skip
        case "open_gop.mpg":
            return media.video(name, ["-c:v", "mpeg2video", "-bf", 2, "-g", 12, "-c:a", "mp2"],
                               inputs=inputs)  # fmt: skip
        case "sound.mp3" | "sound.ogg" | "sound.m4a" | "sound.flac":
            media.run("-i", sound, media.path(name))
        case "joined.ts":
            part = Path(media.video("part.ts", [*h264, "-c:a", "aac"], inputs=inputs)).read_bytes()
            media.path(name).write_bytes(part + part)
        case _:  # a cut between key frames
            whole = media.video("whole_" + name, [*h264, "-c:a", "aac"], inputs=inputs)
            media.run("-ss", 1.3, "-i", whole, "-t", 2, "-c", "copy", media.path(name))
    return str(media.path(name))


def chapters_without_titles(media, h264):
    """An mp4 whose chapter track is missing, as after remuxing."""
    text = media.path("chapters.txt")
    text.write_text(";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1\nSTART=0\nEND=2\ntitle=one\n")
    whole = media.path("chapters.mp4")
    media.run("-i", media.video("plain.mp4", h264), "-i", text, "-map", 0, "-map_chapters", 1,
              "-c", "copy", whole)  # fmt: skip
    head, box, tail = whole.read_bytes().partition(b"chap")
    path = media.path("chapterless.mp4")
    path.write_bytes(head + box + (99).to_bytes(4, "big") + tail[4:])
    return path


def cut_at_an_open_group(media, _):
    """The B-frames after the cut's key frame refer to pictures before it."""
    whole = media.path("open.mp4")
    media.run("-f", "lavfi", "-i", "testsrc2=s=160x96:r=25:d=6", "-c:v", "libx264", "-preset",
              "ultrafast", "-bf", 3, "-g", 50, "-x264-params", "open-gop=1:bframes=3",
              whole)  # fmt: skip
    path = media.path("open_cut.mp4")
    media.run("-ss", 2.7, "-i", whole, "-t", 2.5, "-c", "copy", path)
    return path


@pytest.mark.parametrize(("make", "remark"), [
    (chapters_without_titles, "Referenced QT chapter track not found"),
    (cut_at_an_open_group, "mmco: unref short failure"),
])  # fmt: skip
def test_what_ffmpeg_wrongly_calls_an_error(make, remark, media, h264, decode_all):
    path = make(media, h264)
    command = [ffmpeg_binary(), "-v", "error", "-i", path, "-f", "null", "-"]
    assert remark in subprocess.run(command, capture_output=True, text=True).stderr
    everything = decode_all(str(path), FRAMES)
    assert everything.decoded.damage is None
    assert len(everything.views[FRAMES]) >= 16


@pytest.mark.parametrize("name", ["aac.ts", "aac.mp4", "aac.flv", "mp3.avi", "open_gop.mpg",
                                  "sound.mp3", "sound.ogg", "sound.m4a", "sound.flac", "joined.ts",
                                  "cut.mov", "cut_copy.mkv", "cut.ts"])  # fmt: skip
def test_a_healthy_file_is_not_damaged(name, media, h264, decode_all):
    path = healthy(media, h264, name)
    decoded = decode_all(path, FRAMES, SOUND).decoded
    assert decoded.damage is None
    assert decoded.duration >= 1.9
