"""Proxies of barcode videos: every frame by random access, the sound in its place, the bytes."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from extractors import proxy as proxy_module
from extractors.decode import Chunk, Decoded, decode
from extractors.decode_config import DecodeConfig, ProxyConfig
from extractors.errors import AbortError, Reason, VideoError
from extractors.probe import probe
from extractors.proxy import ProxyWriter, check_encoders
from extractors.proxy_reader import ProxyReader
from extractors.views import FrameView, SoundView

SECONDS = 4
CLICKS = [0.5, 1.25, 2.0, 3.5]


def make(path: str, decoding: DecodeConfig | None = None, **settings: object) -> bytes:
    decoding = decoding or DecodeConfig()
    probed = probe(path, decoding)
    with ProxyWriter(path, ProxyConfig(**settings), decoding, probed.duration) as writer:
        for chunk in decode(path, probed, writer.views, decoding):
            if not isinstance(chunk, Decoded):
                writer.write(chunk)
        return writer.finish()


@pytest.fixture(scope="module")
def video(media, h264):
    """Four seconds of barcodes, frame n showing n, with clicks."""
    sound = media.wav("proxy_clicks.wav", media.clicks(SECONDS, CLICKS))
    inputs, options = ["-i", sound], [*h264, "-c:a", "aac", "-b:a", "128k"]
    return media.video("proxy_source.mp4", options, inputs=inputs)


@pytest.fixture(scope="module")
def made(video):
    return make(video)


def shown(rate: float, count: int) -> list[int]:
    """The barcode of the last of 25 frames a second shown before each proxy frame's middle."""
    return [int(np.ceil((i + 0.5) / rate * 25 - 1e-6)) - 1 for i in range(count)]


def header(content: bytes, tmp_path: Path) -> tuple[str, str]:
    path = tmp_path / "read_back.mp4"
    path.write_bytes(content)
    return str(path), probe_text(path)


def probe_text(path: Path) -> str:
    command = [proxy_module.ffmpeg_binary(), "-hide_banner", "-i", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def middles(reader: ProxyReader) -> np.ndarray:
    return (np.arange(reader.num_frames) + 0.5) / reader.rate


def test_every_frame_in_shuffled_order_is_its_barcode(made, media):
    reader = ProxyReader(made)
    assert (reader.num_frames, reader.rate) == (SECONDS * 12, 12.0)
    order = np.random.default_rng((0, 0)).permutation(reader.num_frames)
    expected = np.array(shown(12, reader.num_frames))
    times = middles(reader)
    one_by_one = [media.read_barcodes(reader.read([times[i]]))[0] for i in order]
    assert one_by_one == expected[order].tolist()
    together = reader.read(times[order])
    assert together.shape == (48, 128, 512, 3)
    assert media.read_barcodes(together) == expected[order].tolist()


def test_a_time_has_the_frame_shown_at_it(made, media):
    reader = ProxyReader(made)
    expected = shown(12, reader.num_frames)
    first, last = expected[0], expected[-1]
    starts = media.read_barcodes(reader.read(np.arange(48) / 12))
    assert starts == expected
    assert media.read_barcodes(reader.read([-1.0, 1e9, 0.0, 0.0])) == [first, last, first, first]
    assert reader.read([]).shape == (0, 128, 512, 3)
    with pytest.raises(ValueError, match="finite"):
        reader.read([float("nan")])


def test_many_readers_at_once(made, media):
    readers = [ProxyReader(bytes(made)) for _ in range(20)]
    expected = shown(12, 48)
    for number, reader in enumerate(readers):
        assert media.read_barcodes(reader.read(middles(reader)[[number]])) == [expected[number]]


def test_the_encoding_is_what_is_promised(made, tmp_path):
    _, text = header(made, tmp_path)
    assert "h264" in text
    assert "yuv420p" in text
    assert "512x128" in text
    assert "aac" in text
    assert "16000 Hz, mono" in text
    reader = ProxyReader(made)
    keys = [*reader._reader.get_key_indices(), reader.num_frames]
    assert max(np.diff(keys)) <= 12


def test_the_sound_is_in_its_place(made, tmp_path, decode_all, media):
    path, _ = header(made, tmp_path)
    samples = decode_all(path, SoundView(16_000)).views[SoundView(16_000)]
    loud = np.flatnonzero(np.abs(samples.astype(float)) > 6000) / 16_000
    starts = loud[np.flatnonzero(np.diff(loud, prepend=-1) > 0.1)]
    np.testing.assert_allclose(starts, CLICKS, atol=0.004)
    assert len(samples) / 16_000 == pytest.approx(SECONDS, abs=0.07)


def test_a_second_run_gives_the_same_bytes(made, video):
    assert make(video) == made
    assert make(video, crf=30) != made


def test_a_video_without_sound(media, h264, tmp_path):
    content = make(media.video("proxy_silent.mp4", h264), rate=25.0)
    _, text = header(content, tmp_path)
    assert "Audio" not in text
    reader = ProxyReader(content)
    assert media.read_barcodes(reader.read(middles(reader))) == list(range(100))


def test_a_turned_video_is_upright(media, h264, video, tmp_path):
    turned = media.path("proxy_turned.mp4")
    media.run("-i", media.video("proxy_silent.mp4", h264), "-vf", "transpose=1", *h264,
              media.path("proxy_lying.mp4"))  # fmt: skip
    media.run("-i", media.path("proxy_lying.mp4"), "-c", "copy",
              "-metadata:s:v:0", "rotate=90", turned)  # fmt: skip
    if probe(str(turned), DecodeConfig()).picture.height > 64:
        media.run("-display_rotation", "90", "-i", media.path("proxy_lying.mp4"),
                  "-c", "copy", turned)  # fmt: skip
    reader = ProxyReader(make(str(turned)))
    frames = reader.read(middles(reader))
    assert frames.shape[1:] == (128, 512, 3)
    found = media.read_barcodes(frames)
    upside_down = media.read_barcodes(frames[:, :, ::-1])
    assert shown(12, reader.num_frames) in (found, upside_down)


def test_sound_alone_has_no_proxy(media):
    assert make(media.wav("proxy_only.wav", media.clicks(1, [0.5]))) == b""


def test_odd_rates_and_short_videos(media, h264):
    short = media.video("proxy_short.mp4", h264, frames=media.barcodes(range(1)))
    reader = ProxyReader(make(short))
    assert reader.num_frames == 1
    assert media.read_barcodes(reader.read([0.0])) == [0]
    reader = ProxyReader(make(media.video("proxy_silent.mp4", h264), rate=29.97 / 4))
    expected = shown(29.97 / 4, reader.num_frames)
    assert reader.rate == pytest.approx(29.97 / 4, rel=1e-4)
    assert media.read_barcodes(reader.read(middles(reader))) == expected


def chunk(shape: tuple[int, ...] = (4, 128, 128, 3)) -> Chunk:
    return Chunk(FrameView(12.0, 128, 128, "whole"), 0, np.zeros(shape, np.uint8))


def written(bounds: DecodeConfig, chunk: Chunk) -> bytes:
    with ProxyWriter("a.mp4", ProxyConfig(), bounds, 1.0) as writer:
        writer.write(chunk)
        return writer.finish()


def test_an_encoder_that_hangs_is_killed(monkeypatch, tmp_path):
    slow = tmp_path / "ffmpeg"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(proxy_module, "ffmpeg_binary", lambda: str(slow))
    bounds = DecodeConfig(deadline_base=0.3, deadline_factor=0.01)
    with pytest.raises(VideoError) as caught:
        written(bounds, chunk())
    assert (caught.value.reason, caught.value.stage) == (Reason.TIMEOUT, "proxy")


@pytest.mark.parametrize("exits", ["at once", "at the end"])
def test_an_encoder_that_fails_says_why(monkeypatch, tmp_path, exits):
    broken = tmp_path / "ffmpeg"
    reads = "" if exits == "at once" else "cat /dev/fd/* >/dev/null 2>&1;"
    broken.write_text(f"#!/bin/sh\necho 'no such luck' >&2; {reads} exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(proxy_module, "ffmpeg_binary", lambda: str(broken))
    bounds = DecodeConfig(deadline_base=5.0)
    with pytest.raises(VideoError, match="no such luck") as caught:
        written(bounds, chunk())
    assert "a.mp4" in str(caught.value)
    assert caught.value.reason == Reason.EXTRACTOR_ERROR


def test_a_frame_size_that_cannot_be_encoded_fails_its_video():
    with pytest.raises(VideoError, match="proxy was not encoded"):
        written(DecodeConfig(), chunk((1, 128, 20_000, 3)))


def test_an_ffmpeg_without_the_encoders_is_named(monkeypatch, tmp_path):
    check_encoders()
    bare = tmp_path / "ffmpeg"
    bare.write_text("#!/bin/sh\necho ' A..... aac  AAC'\n")
    bare.chmod(0o755)
    monkeypatch.setattr(proxy_module, "ffmpeg_binary", lambda: str(bare))
    with pytest.raises(AbortError, match=r"libx264.*extract\.proxy"):
        check_encoders()


@pytest.mark.parametrize("content", [b"", b"this is no mp4" * 100])
def test_what_is_no_proxy(content):
    with pytest.raises(VideoError, match="cannot be read as a proxy"):
        ProxyReader(content)


def test_messages_do_not_say_where_decord_was_built(made):
    content = made[:60] + bytes(len(made) - 60)
    with pytest.raises(VideoError, match=r"cannot be read as a proxy: [A-Z]") as caught:
        ProxyReader(content)
    assert ".cc" not in str(caught.value)
    assert "/" not in str(caught.value)


def test_a_proxy_cut_short_is_an_error_not_another_frame(made):
    def read(content):
        reader = ProxyReader(content)
        return reader.read(middles(reader))

    for share in (0.3, 0.6, 0.9):
        with pytest.raises(VideoError):
            read(made[: int(len(made) * share)])


def test_importing_decord_says_nothing():
    import sys

    code = "import extractors.proxy_reader"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_decord_is_used_for_proxies_alone():
    root = Path(proxy_module.__file__).parent.parent
    packages = ("extractors", "pipeline", "training", "index")
    users = [
        path.relative_to(root).as_posix()
        for package in packages
        for path in (root / package).rglob("*.py")
        if "import decord" in path.read_text(encoding="utf-8")
    ]
    assert users == ["extractors/proxy_reader.py"]
