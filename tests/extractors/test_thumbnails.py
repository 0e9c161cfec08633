import base64
import io
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

from extractors.ffmpeg import ffmpeg_binary
from extractors.thumbnails import extract_thumbnail, extract_thumbnails


def ffmpeg(*arguments: str) -> None:
    subprocess.run([ffmpeg_binary(), "-v", "error", "-y", *arguments], check=True, timeout=60)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of red, then two of blue, 640x360."""
    path = tmp_path_factory.mktemp("media") / "red-then-blue.mp4"
    colours = [f"color=c={name}:s=640x360:r=10:d=2" for name in ("red", "blue")]
    inputs = [part for colour in colours for part in ("-f", "lavfi", "-i", colour)]
    ffmpeg(*inputs, "-filter_complex", "concat=n=2", "-pix_fmt", "yuv420p", str(path))
    return path


def picture(data_uri: str | None) -> Image.Image:
    assert data_uri is not None
    assert data_uri.startswith("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(data_uri.partition(",")[2])))


@pytest.mark.parametrize(("seconds", "channel"), [(1.0, 0), (3.0, 2)])
def test_the_picture_is_of_the_moment_asked_for(video: Path, seconds: float, channel: int) -> None:
    image = picture(extract_thumbnail(str(video), seconds).data_uri)
    assert image.size == (320, 180)
    pixel = image.getpixel((160, 90))
    assert isinstance(pixel, tuple)
    assert pixel[channel] > 200
    assert sum(pixel) - pixel[channel] < 60


def test_a_file_url_is_a_local_file(video: Path) -> None:
    assert extract_thumbnail(f"file://{video}", 1.0).data_uri


def test_equal_moments_are_extracted_once_and_all_are_answered(video: Path) -> None:
    moments = [(str(video), 1.0), (str(video), 3.0), (str(video), 1.0), ("/gone.mp4", 0.0)]
    thumbnails = extract_thumbnails(moments)
    assert len(thumbnails) == 3
    assert thumbnails["/gone.mp4", 0.0].reason == "file not found"
    assert thumbnails[str(video), 1.0].data_uri != thumbnails[str(video), 3.0].data_uri


def test_what_cannot_be_shown_says_why(video: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video at all")
    sound = tmp_path / "sound.wav"
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", str(sound))
    assert extract_thumbnail("s3://bucket/a.mp4", 1.0).reason == "not on this disk"
    assert extract_thumbnail(str(tmp_path), 1.0).reason == "file not found"
    assert extract_thumbnail(str(tmp_path / "text.mp4"), 1.0).reason == "cannot be decoded"
    assert extract_thumbnail(str(sound), 0.5).reason == "sound only"
    assert extract_thumbnail(str(video), 99.0).reason == "no frame at 99.0 s"


def test_a_playlist_cannot_show_another_file(video: Path, tmp_path: Path) -> None:
    playlist = tmp_path / "clip.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{video}\n#EXT-X-ENDLIST\n")
    assert extract_thumbnail(str(playlist), 1.0).reason == "cannot be decoded"


def test_a_file_name_is_never_an_option_or_a_protocol(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("-version", "a:b.mp4"):
        Path(tmp_path, name).write_bytes(video.read_bytes())
        assert extract_thumbnail(name, 1.0).data_uri


def test_a_decode_that_hangs_is_stopped(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "ffmpeg"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr("extractors.thumbnails.ffmpeg_binary", lambda: str(slow))
    begin = time.monotonic()
    assert extract_thumbnail(str(video), 1.0, deadline=0.3).reason == "no frame within 0.3 s"
    assert time.monotonic() - begin < 10
