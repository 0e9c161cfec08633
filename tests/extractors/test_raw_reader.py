"""Clips out of a file's middle: the very frames that decoding the whole file gives there."""

from pathlib import Path

import numpy as np
import pytest

from extractors.decode_config import DecodeConfig
from extractors.errors import Reason, VideoError
from extractors.probe import probe
from extractors.raw_reader import read_rows
from extractors.views import FrameView

COUNT = 4
UNEVEN = ["-vf", "select=mod(n\\,7)", "-fps_mode", "passthrough", "-video_track_timescale", "12800"]


@pytest.fixture(scope="module")
def with_sound(media):
    """Four seconds of picture, five of sound: the picture ends first."""
    return ["-i", media.wav("raw_clicks.wav", media.clicks(5, [1.0])), "-c:a", "aac"]


@pytest.fixture(scope="module")
def files(media, h264, with_sound):
    """Barcodes, frame n showing n, in containers that seek in different ways."""
    mpeg2 = ["-c:v", "mpeg2video", "-q:v", "2", "-g", "30", "-bf", "2"]
    return {
        "mp4": media.video("raw.mp4", h264, inputs=with_sound),
        "mkv": media.video("raw.mkv", h264, inputs=with_sound),
        "avi": media.video("raw.avi", ["-c:v", "mpeg4", "-q:v", "2"]),
        "ts": media.video("raw.ts", h264, inputs=with_sound),
        "mpg": media.video("raw.mpg", mpeg2),
        "uneven": media.video("raw_uneven.mp4", [*h264, *UNEVEN]),
    }


def shown(rate: float, first: int) -> list[int]:
    """The last of 25 frames a second that is shown before the middle of each row."""
    rows = np.minimum(np.arange(first, first + COUNT), 4 * rate - 1)
    return (np.ceil((rows + 0.5) / rate * 25 - 1e-6).astype(int) - 1).tolist()


def clip(path: str, view: FrameView, first: int, **settings: object) -> np.ndarray:
    config = DecodeConfig(**settings)
    return read_rows(path, probe(path, config), view, first, COUNT, config)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi", "ts", "mpg", "uneven"])
def test_a_clip_is_what_the_whole_decode_has_there(files, decode_all, media, kind) -> None:
    """At the start, across a key frame, in the middle, at the end and beyond it; at 12.5 a second
    every second frame lies on the edge between two rows."""
    view = FrameView(12.5, 32, 32, "whole")
    whole = decode_all(files[kind], view).views[view]
    for first in (0, 21, 33, len(whole) - 2, len(whole) + 9):
        found = clip(files[kind], view, first)
        expected = whole[np.clip(np.arange(first, first + COUNT), 0, len(whole) - 1)]
        np.testing.assert_array_equal(found, expected, err_msg=f"from row {first}")


@pytest.mark.parametrize(("rate", "first"), [(12.0, 0), (12.0, 25), (12.0, 46), (25.0, 61)])
def test_the_barcodes_are_those_of_their_times(files, media, rate, first) -> None:
    frames = clip(files["mp4"], FrameView(rate, 64, 64, "whole"), first)
    assert frames.shape == (COUNT, 64, 256, 3)
    assert media.read_barcodes(frames) == shown(rate, first)


def test_a_turned_video_is_upright(media, h264, decode_all) -> None:
    lying = media.video("raw_silent.mp4", h264)
    turned = str(media.path("raw_turned.mp4"))
    media.run("-display_rotation", "90", "-i", lying, "-c", "copy", turned)
    view = FrameView(12.0, 32, 32, "whole")
    found = clip(turned, view, 20)
    assert found.shape == (COUNT, 128, 32, 3)
    np.testing.assert_array_equal(found, decode_all(turned, view).views[view][20:24])


def test_a_picture_that_starts_late_is_held_before(media, with_sound, decode_all) -> None:
    late = str(media.path("raw_late.mkv"))
    source = media.video("raw_for_late.mp4", ["-c:v", "mpeg4", "-q:v", "2"])
    media.run("-itsoffset", "1", "-i", source, *with_sound[:2], "-map", "0:v", "-map", "1:a",
              "-c:v", "copy", "-c:a", "aac", late)  # fmt: skip
    view = FrameView(12.0, 32, 32, "whole")
    whole = decode_all(late, view).views[view]
    for first in (2, 10, 40):
        np.testing.assert_array_equal(clip(late, view, first), whole[first : first + COUNT])


def test_a_file_cut_short_fails_where_it_ends_and_nowhere_else(media, files, tmp_path) -> None:
    moved, cut = media.path("raw_index_first.mp4"), tmp_path / "cut.mp4"
    media.run("-i", files["mp4"], "-c", "copy", "-movflags", "+faststart", moved)
    content = moved.read_bytes()
    begin = content.index(b"mdat")
    cut.write_bytes(content[: begin + (len(content) - begin) * 6 // 10])
    view = FrameView(12.0, 64, 64, "whole")
    assert media.read_barcodes(clip(str(cut), view, 3)) == shown(12, 3)
    with pytest.raises(VideoError, match=r"cut\.mp4: at 3\.33 s: .*") as caught:
        clip(str(cut), view, 40)
    assert caught.value.reason == Reason.DECODE_ERROR
    held = clip(str(cut), view, 40, on_damage="keep")
    assert len(set(media.read_barcodes(held))) == 1


def test_what_has_no_picture_fails(media) -> None:
    path = media.wav("raw_only.wav", media.clicks(1, [0.5]))
    with pytest.raises(VideoError, match="holds no picture"):
        clip(path, FrameView(12.0, 32, 32, "whole"), 0)


def test_a_deadline_that_passes_kills_the_child(files) -> None:
    with pytest.raises(VideoError, match="not decoded in time") as caught:
        clip(files["mp4"], FrameView(12.0, 32, 32, "whole"), 20,
             deadline_base=1e-4, deadline_factor=1e-6)  # fmt: skip
    assert caught.value.reason == Reason.TIMEOUT


def test_playlists_are_not_followed(files, tmp_path: Path) -> None:
    """The same options as every child: a file that became a playlist after it was listed."""
    config = DecodeConfig()
    probed = probe(files["mp4"], config)
    listed = tmp_path / "list.mp4"
    listed.write_text(f"ffconcat version 1.0\nfile {files['mp4']}\n")
    with pytest.raises(VideoError) as caught:
        read_rows(str(listed), probed, FrameView(12.0, 32, 32, "whole"), 0, COUNT, config)
    assert caught.value.reason == Reason.DECODE_ERROR
