"""The child is bound: what it opens, how long it runs, what it takes; and it never stays behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from extractors import decode_command as command_module
from extractors import probe as probe_module
from extractors.decode import Chunk, decode
from extractors.decode_config import DecodeConfig
from extractors.errors import AbortError, Reason, VideoError
from extractors.probe import PictureStream, Probe, probe
from extractors.views import FrameView, SoundView

FRAMES = FrameView(8, 32, 128, "stretch")
SMALL = FrameView(50, 256, 256, "stretch")  # 38 MB of four seconds: more than the pipes hold
PROBED = Probe("mp4", 1.0, PictureStream(0, "h264", 64, 128, 25.0), None)


def children():
    """Processes that this one has started and not reaped."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == os.getpid():
                found.append(int(entry.name))
    return set(found)


def descriptors():
    """Open file descriptors of this process."""
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def nothing_left():
    """Fails a test that leaves a child or a descriptor behind."""
    before, open_before = children(), len(descriptors())
    yield
    assert children() <= before
    assert len(descriptors()) == open_before


@pytest.fixture
def binary(tmp_path, monkeypatch):
    """A maker of what runs instead of ffmpeg: Python code as a program."""

    def replace(code):
        script = tmp_path / "fake_ffmpeg"
        script.write_text(f"#!{sys.executable} -S\n{code}\n")
        script.chmod(0o755)
        for module in (command_module, probe_module):
            monkeypatch.setattr(module, "ffmpeg_binary", lambda: str(script))

    return replace


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("code", ["import time; time.sleep(60)",
                                  "import os, time; os.closerange(3, 99); time.sleep(60)"],
                         ids=["silent", "pipes closed but alive"])  # fmt: skip
def test_a_child_that_hangs_is_killed_at_its_deadline(code, binary):
    binary(code)
    config = DecodeConfig(deadline_base=0.5, deadline_factor=0.5)
    started = time.monotonic()
    with pytest.raises(VideoError, match="not decoded in time") as caught:
        list(decode("x.mp4", PROBED, [FRAMES], config))
    assert caught.value.reason == Reason.TIMEOUT
    assert 0.9 < time.monotonic() - started < 5


@pytest.mark.usefixtures("nothing_left")
def test_a_probe_that_hangs_is_killed_at_its_deadline(binary, tmp_path, monkeypatch):
    binary("import time; time.sleep(60)")
    monkeypatch.setattr(probe_module, "PROBE_DEADLINE", 0.5)
    (tmp_path / "x.mp4").write_bytes(b"x")
    with pytest.raises(VideoError, match="header") as caught:
        probe(str(tmp_path / "x.mp4"), DecodeConfig())
    assert caught.value.reason == Reason.TIMEOUT


@pytest.mark.usefixtures("nothing_left")
def test_a_child_that_complains_without_end_does_not_block(binary):
    binary("import sys\nfor _ in range(200000): sys.stderr.write('[error] bad luck again\\n')")
    with pytest.raises(VideoError) as caught:
        list(decode("x.mp4", PROBED, [FRAMES], DecodeConfig()))
    assert caught.value.reason == Reason.ZERO_FRAMES


@pytest.mark.usefixtures("nothing_left")
def test_no_binary_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(command_module, "ffmpeg_binary", lambda: "/nowhere/ffmpeg")
    with pytest.raises(AbortError, match="/nowhere/ffmpeg: cannot be started: No such file"):
        list(decode("x.mp4", PROBED, [FRAMES], DecodeConfig()))


@pytest.mark.usefixtures("nothing_left")
def test_an_abandoned_generator_kills_its_child(media, h264):
    path = media.video("plain.mp4", h264)
    config = DecodeConfig()
    before = children()
    stream = decode(path, probe(path, config), [SMALL], config)
    assert isinstance(next(stream), Chunk)
    assert len(children() - before) == 1
    stream.close()
    assert children() == before


@pytest.mark.usefixtures("nothing_left")
def test_a_slow_consumer_does_not_use_up_the_deadline(media, h264):
    path = media.video("plain.mp4", h264)
    config = DecodeConfig(deadline_base=4, deadline_factor=0.01)
    chunks = 0
    for _ in decode(path, probe(path, config), [SMALL], config):
        chunks += 1
        time.sleep(0.5)
    assert chunks * 0.5 > 4.1


@pytest.mark.usefixtures("nothing_left")
def test_the_memory_of_a_child_is_capped(media, h264):
    path = media.video("plain.mp4", h264)
    config = DecodeConfig(max_memory_mb=1024)
    before = children()
    stream = decode(path, probe(path, config), [SMALL], config)
    next(stream)
    (pid,) = children() - before
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    stream.close()
    (line,) = [line for line in limits if line.startswith("Max address space")]
    assert line.split()[3:5] == [str(2**30)] * 2


@pytest.mark.usefixtures("nothing_left")
def test_a_child_that_needs_more_memory_fails_its_video_only(media, h264):
    frames = np.zeros((2, 2160, 4096, 3), np.uint8)
    path = media.video("huge.mp4", h264, frames=frames)
    config = DecodeConfig(max_memory_mb=256)
    with pytest.raises(VideoError):
        list(decode(path, probe(path, DecodeConfig()), [FRAMES], config))


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
DASH = '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period>{}</Period></MPD>'


@pytest.mark.parametrize("text", [HLS, "ffconcat version 1.0\nfile {}\n", "file '{}'\n", DASH,
                                  "v=0\no=- 0 0 IN IP4 127.0.0.1\ns={}\nm=video 9 RTP/AVP 96\n"],
                         ids=["hls", "ffconcat", "concat", "dash", "sdp"])  # fmt: skip
def test_a_playlist_called_mp4_opens_no_other_file(text, media, h264, tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(Path(media.video("plain.mp4", h264)).read_bytes())
    os.utime(secret, (0, 0))  # an access time in the past: any read would move it (relatime)
    playlist = tmp_path / "list.mp4"
    playlist.write_text(text.format(secret))
    with pytest.raises(VideoError) as caught:
        probe(str(playlist), DecodeConfig())
    assert caught.value.reason in (Reason.REFUSED, Reason.NOT_A_VIDEO)
    assert "secret" not in caught.value.message
    assert secret.stat().st_atime == 0


def test_the_playlists_would_be_followed_without_the_whitelist(media, h264, tmp_path):
    """Else the test above proves nothing."""
    (tmp_path / "secret.mp4").write_bytes(Path(media.video("plain.mp4", h264)).read_bytes())
    playlist = tmp_path / "list.mp4"
    playlist.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    media.run("-i", playlist, "-f", "null", "-")
    assert media.path("plain.mp4").exists()


@pytest.mark.parametrize(("content", "reason"), [
    (b"", Reason.EMPTY_FILE),
    (b"hello, this is text\n" * 50, Reason.NOT_A_VIDEO),
    (b"<!doctype html><html><body>404 not found</body></html>", Reason.NOT_A_VIDEO),
    (np.random.default_rng(0).integers(0, 256, 50_000, np.uint8).tobytes(), Reason.NOT_A_VIDEO),
    (b"%PDF-1.4\n" + b"\0" * 500, Reason.NOT_A_VIDEO),
    (b"PK\x03\x04" + b"\0" * 500, Reason.NOT_A_VIDEO),
], ids=["empty", "text", "html", "random", "pdf", "zip"])  # fmt: skip
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a"])
def test_what_is_no_video(content, reason, name, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(VideoError) as caught:
        probe(str(path), DecodeConfig())
    assert caught.value.reason == reason
    assert caught.value.stage == "probe"
    assert "\n" not in caught.value.message


def test_what_is_no_readable_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name, reason in [("gone", Reason.NOT_FOUND), ("fifo", Reason.UNREADABLE),
                         (".", Reason.UNREADABLE)]:  # fmt: skip
        with pytest.raises(VideoError) as caught:
            probe(str(tmp_path / name), DecodeConfig())
        assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["with space.mp4", "it's \"quoted\".mp4", "new\nline.mp4",
                                  "-i.mp4", "čaj 茶 🍵.mp4", "a:b,c;[d]=e%03d.mp4", "$HOME;ls.mp4",
                                  "http:x.mp4"])  # fmt: skip
def test_any_file_name(name, media, h264, tmp_path, monkeypatch, decode_all):
    (tmp_path / name).write_bytes(Path(media.video("plain.mp4", h264)).read_bytes())
    assert len(decode_all(str(tmp_path / name), FRAMES).views[FRAMES]) == 32
    monkeypatch.chdir(tmp_path)
    assert decode_all(name, FrameView(1, 32, 32, "crop")).decoded.damage is None


def test_a_name_that_is_not_utf8_fails_with_a_message_that_can_be_stored(media, h264, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/latin1-\xe9.mp4")
    Path(path).write_bytes(Path(media.video("plain.mp4", h264)).read_bytes())
    with pytest.raises(VideoError, match="rename it") as caught:
        probe(path, DecodeConfig())
    assert caught.value.reason == Reason.UNREADABLE
    assert rb"latin1-\udce9.mp4" in caught.value.message.encode()


def test_limits_of_length_and_size(media, h264):
    path = media.video("plain.mp4", h264)
    for settings, reason in [({"max_seconds": 3}, Reason.TOO_LONG),
                             ({"max_pixels": 1000}, Reason.TOO_LARGE)]:  # fmt: skip
        with pytest.raises(VideoError, match=next(iter(settings))) as caught:
            probe(path, DecodeConfig(**settings))
        assert caught.value.reason == reason


@pytest.mark.usefixtures("nothing_left")
def test_many_videos_leave_nothing_open(media, h264, decode_all):
    path = media.video("plain.mp4", h264)
    for _ in range(3):
        decode_all(path, FRAMES, SoundView(16_000))


def test_the_binary_is_the_wheels_unless_another_is_named(tmp_path):
    code = "from extractors.ffmpeg import *; print(ffmpeg_binary(), ffmpeg_version())"

    def used(**environment):
        result = subprocess.run([sys.executable, "-c", code], env=os.environ | environment,
                                capture_output=True, text=True, check=True)  # fmt: skip
        return result.stdout

    found = used(IMAGEIO_FFMPEG_EXE="")
    assert "imageio_ffmpeg" in found
    link = tmp_path / "my-ffmpeg"
    link.symlink_to(found.split()[0])
    assert used(IMAGEIO_FFMPEG_EXE=str(link)).startswith(str(link))
