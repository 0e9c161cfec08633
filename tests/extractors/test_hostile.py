"""What is no video, or a video made to harm: a reason each, in time, and nothing stays behind."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from extractors.decode_config import DecodeConfig
from extractors.errors import Reason, VideoError
from extractors.ffmpeg import ffmpeg_binary
from extractors.probe import probe
from extractors.views import FrameView, SoundView

FRAMES = FrameView(8, 32, 128, "stretch")
SOUND = SoundView(16_000)
DEADLINE = {"deadline_base": 20.0, "deadline_factor": 0.1}
WITHIN = 20.0


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path, monkeypatch):
    """Each test here ends in time, with no child and with nothing written but its own files."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    before = children()  # of other tests in this process
    started = time.monotonic()
    yield
    assert time.monotonic() - started < 2 * WITHIN
    assert children() == before
    assert list(scratch.iterdir()) == []
    assert list(folder.iterdir()) == []


def children():
    """The process ids of this process's children."""
    tasks = Path("/proc/self/task").glob("*/children")
    return " ".join(file.read_text() for file in tasks).strip()


def reason_of(path, decode_all, *views, **settings):
    """Why a file fails; its message is one line that names it."""
    with pytest.raises(VideoError) as caught:
        decode_all(str(path), *(views or (FRAMES, SOUND)), **(DEADLINE | settings))
    assert caught.value.message.startswith(f"{path}: ")
    assert "\n" not in caught.value.message
    return caught.value.reason


def with_spots(content, count, seed):
    """`count` runs of 64 random bytes in the middle four fifths."""
    rng = np.random.default_rng(seed)
    found = bytearray(content)
    for start in rng.integers(len(found) // 10, len(found) * 9 // 10, count):
        found[start : start + 64] = rng.integers(0, 256, 64, np.uint8).tobytes()
    return bytes(found)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
def test_40_corrupt_spots(suffix, media, h264, tmp_path, decode_all):
    noise = np.random.default_rng(0).integers(0, 256, (100, 64, 128, 3), np.uint8)
    options = ["-c:v", "mpeg4", "-q:v", "2"] if suffix == "avi" else h264
    whole = media.video(f"spotless.{suffix}", options, frames=noise)
    path = tmp_path / f"spots.{suffix}"
    path.write_bytes(with_spots(Path(whole).read_bytes(), 40, seed=1))
    assert reason_of(path, decode_all, FRAMES) in (Reason.DECODE_ERROR, Reason.TRUNCATED)
    kept = decode_all(str(path), FRAMES, on_damage="keep", **DEADLINE)
    assert kept.decoded.damage is not None
    assert 1 <= len(kept.views[FRAMES]) <= 33


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes(seed, tmp_path, decode_all):
    path = tmp_path / "random.mp4"
    path.write_bytes(np.random.default_rng(seed).integers(0, 256, 200_000, np.uint8).tobytes())
    assert reason_of(path, decode_all) in (Reason.NOT_A_VIDEO, Reason.NO_STREAMS)


@pytest.mark.parametrize("head", [b"\0\0\0\x20ftypisom", b"\x1aE\xdf\xa3",
                                  b"RIFF\xff\xff\xff\xffAVI ",
                                  b"G" + b"\0" * 187 + b"G", b"FLV\x01\x05\0\0\0\x09", b"OggS",
                                  b"ID3\x04\0\0\x7f\x7f\x7f\x7f"])  # fmt: skip
def test_random_bytes_behind_a_true_beginning(head, tmp_path, decode_all):
    path = tmp_path / "pretends.mp4"
    rubbish = np.random.default_rng(5).integers(0, 256, 50_000, np.uint8).tobytes()
    path.write_bytes(head + rubbish)
    assert reason_of(path, decode_all) != Reason.TIMEOUT


def test_a_web_page(tmp_path, decode_all):
    path = tmp_path / "page.mp4"
    path.write_text("<!doctype html><html><head><title>403</title></head>" + "<p>no</p>" * 9999)
    assert reason_of(path, decode_all) == Reason.NOT_A_VIDEO


def bomb(path, size):
    """One black frame of size x size pixels in a few kB: a PNG in a mkv."""
    command = [ffmpeg_binary(), "-y", "-v", "error", "-f", "lavfi", "-i",
               f"color=black:s={size}x{size}:r=1:d=1,format=monob", "-frames:v", "1", "-c:v", "png",
               path]  # fmt: skip
    subprocess.run(command, check=True, timeout=60)


def test_frames_of_16k_by_16k_are_refused_before_any_is_decoded(tmp_path):
    path = tmp_path / "bomb.mkv"
    bomb(path, 16_000)
    assert path.stat().st_size < 500_000
    # in a process of its own, whose children have no history
    code = (
        "import resource, sys\n"
        "from extractors.decode_config import DecodeConfig\n"
        "from extractors.errors import VideoError\n"
        "from extractors.probe import probe\n"
        "try: probe(sys.argv[1], DecodeConfig())\n"
        "except VideoError as err: print(err.reason)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)\n"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True,
                            check=True, cwd=root)  # fmt: skip
    reason, peak = result.stdout.split()
    assert reason == Reason.TOO_LARGE
    assert int(peak) < 200, "one such frame in RGB is 768 MB"


def test_frames_that_grow_after_the_header_was_read_are_not_decoded(media, tmp_path, decode_all):
    """Two H.264 streams in one: small frames first, then large ones."""
    parts = []
    for size in (64, 1024):
        part = media.path(f"part{size}.h264")
        media.run("-f", "lavfi", "-i", f"testsrc2=s={size}x{size}:r=25:d=2", "-c:v", "libx264",
                  "-preset", "ultrafast", "-pix_fmt", "yuv420p", part)  # fmt: skip
        parts.append(part.read_bytes())
    path = tmp_path / "grows.h264"
    path.write_bytes(parts[0] + parts[1])
    kept = decode_all(str(path), FRAMES, max_pixels=10_000, on_damage="keep", **DEADLINE)
    assert "exceeds specified max pixel count" in kept.decoded.damage
    assert reason_of(path, decode_all, FRAMES, max_pixels=10_000) == Reason.TOO_LARGE


def test_a_strip_is_not_made_whole(media, tmp_path, decode_all):
    """4000 x 2 pixels with a short side of 224 would be rows of 300 MB."""
    path = tmp_path / "strip.avi"
    media.run("-f", "lavfi", "-i", "color=red:s=4000x2:r=5:d=1", "-c:v", "mpeg4", path)
    assert reason_of(path, decode_all, FrameView(1, 224, 224, "whole")) == Reason.TOO_LARGE


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_100_hours_in_a_tiny_file(suffix, media, tmp_path, decode_all):
    path = tmp_path / f"black.{suffix}"
    media.run("-f", "lavfi", "-i", "color=black:s=64x64:r=25:d=4", "-vf", "setpts=N*3600/TB",
              "-fps_mode", "passthrough", "-c:v", "libx264", "-preset", "ultrafast",
              path)  # fmt: skip
    assert path.stat().st_size < 20_000
    assert reason_of(path, decode_all) == Reason.TOO_LONG
    allowed = reason_of(path, decode_all, max_seconds=4e5, deadline_base=2, deadline_factor=1e-6)
    assert allowed == Reason.TIMEOUT


def test_a_last_frame_a_day_later_than_the_header_says(media, h264, tmp_path, decode_all):
    """A header that lies small: rows up to the day's end would be made of two frames."""
    path = tmp_path / "lies.mkv"
    media.run("-f", "lavfi", "-i", "color=black:s=64x64:r=25:d=4", "-vf",
              "setpts=if(eq(N\\,99)\\,86400/TB\\,N/25/TB)", "-fps_mode", "passthrough", "-c:v",
              "libx264", "-preset", "ultrafast", path)  # fmt: skip
    probed = probe(str(path), DecodeConfig(max_seconds=1e6))
    assert probed.duration > 86_000
    content = path.read_bytes()
    at = content.index(b"\x44\x89\x88") + 3  # the Duration element: a float64 of milliseconds
    path.write_bytes(content[:at] + np.array(4000.0, ">f8").tobytes() + content[at + 8 :])
    assert probe(str(path), DecodeConfig()).duration == pytest.approx(4)
    assert reason_of(path, decode_all, FRAMES, max_seconds=3600, deadline_base=5) in (
        Reason.TOO_LONG, Reason.TIMEOUT,
    )  # fmt: skip


def test_a_file_that_may_not_be_read(media, h264, tmp_path, monkeypatch, decode_all):
    path = tmp_path / "secret.mp4"
    path.write_bytes(Path(media.video("plain.mp4", h264)).read_bytes())
    path.chmod(0)
    if os.geteuid() == 0:  # whom nothing is forbidden
        monkeypatch.setattr(os, "access", lambda *_: False)
    assert reason_of(path, decode_all) == Reason.UNREADABLE


def test_what_is_no_file(tmp_path, decode_all):
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "folder.mp4").mkdir()
    for name in ("fifo.mp4", "folder.mp4"):
        assert reason_of(tmp_path / name, decode_all) == Reason.UNREADABLE
    assert reason_of("/dev/zero", decode_all) == Reason.UNREADABLE


def test_symbolic_links(media, h264, tmp_path, decode_all):
    for name, target in [("good.mp4", media.video("plain.mp4", h264)), ("gone.mp4", "nowhere.mp4"),
                         ("here.mp4", "there.mp4"), ("there.mp4", "here.mp4")]:  # fmt: skip
        (tmp_path / name).symlink_to(target)
    assert len(decode_all(str(tmp_path / "good.mp4"), FRAMES).views[FRAMES]) == 32
    assert reason_of(tmp_path / "gone.mp4", decode_all) == Reason.NOT_FOUND
    assert reason_of(tmp_path / "here.mp4", decode_all) == Reason.UNREADABLE


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_a_file_that_grows_while_it_is_read(suffix, media, h264, tmp_path, decode_all):
    """Either what was there by some moment, or a failure with a reason; never without end."""
    content = Path(media.video(f"plain.{suffix}", h264)).read_bytes()
    path = tmp_path / f"growing.{suffix}"
    path.write_bytes(content[: len(content) // 2])
    stop = threading.Event()

    def write():
        with path.open("ab") as file:
            for start in range(len(content) // 2, len(content), 500):
                if stop.wait(0.02):
                    return
                file.write(content[start : start + 500])
                file.flush()

    writer = threading.Thread(target=write)
    writer.start()
    reason, rows = None, []
    try:
        found = decode_all(str(path), FRAMES, **DEADLINE)
        rows = media.read_barcodes(found.views[FRAMES])
    except VideoError as err:
        reason = err.reason
    finally:
        stop.set()
        writer.join()
    assert reason in (None, Reason.TRUNCATED, Reason.DECODE_ERROR, Reason.NOT_A_VIDEO)
    wanted = np.array([int((row + 0.5) / 8 * 25) for row in range(len(rows))])
    # a frame that was half written when it was read is shown as the one before it, and the last
    # row, whose own frames were not yet there, as the row before it at the earliest: 25 / 8 frames
    away = np.abs(np.array(rows) - wanted)
    assert away[:-1].max(initial=0) <= 1
    assert away[-1:].max(initial=0) <= 4
