"""Who decodes is known and said: NVDEC where it works, the CPU where it does not, never a guess."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from extractors import decode as decode_module
from extractors import decode_command as command_module
from extractors import ffmpeg as ffmpeg_module
from extractors.decode import Chunk, Decoded, decode, uses_nvdec
from extractors.decode_command import Descriptors, decode_command
from extractors.decode_config import DecodeConfig
from extractors.errors import AbortError, VideoError
from extractors.ffmpeg import BLACK_FRAME, NVDEC_OPTIONS, ffmpeg_binary
from extractors.probe import PictureStream, Probe, SoundStream, probe
from extractors.views import FrameView, SoundView

BARCODE = FrameView(8, 32, 128, "stretch")
SOUND = SoundView(16_000)
PICTURE = PictureStream(0, "h264", 1080, 1920, 25.0, "yuv420p")
PROBED = Probe("mp4", 4.0, PICTURE, SoundStream(1, "aac"))


@pytest.fixture(autouse=True)
def ask_again():
    """What is asked once a process is asked once a test."""
    caches = (ffmpeg_module.nvdec_failure, ffmpeg_module.scales_on_gpu, decode_module._say_once)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.fixture
def binary(tmp_path, monkeypatch):
    """A maker of what runs instead of ffmpeg; every call's words are in the list it returns."""

    def replace(code):
        script, calls = tmp_path / "fake_ffmpeg", tmp_path / "calls"
        record = f"import sys\nopen({str(calls)!r}, 'a').write(repr(sys.argv) + chr(10))\n"
        script.write_text(f"#!{sys.executable} -S\n{record}{code}\n")
        script.chmod(0o755)
        for module in (ffmpeg_module, command_module):
            monkeypatch.setattr(module, "ffmpeg_binary", lambda: str(script))
        return calls

    return replace


def fake(on_gpu):
    """A program that does `on_gpu` where NVDEC is asked for, else is the real ffmpeg."""
    return (
        "import os\nwords = sys.argv[1:]\nif '-hwaccel' in words:\n"
        + "".join(f"    {line}\n" for line in on_gpu.splitlines())
        + f"os.execv({ffmpeg_binary()!r}, ['ffmpeg', *words])"
    )


# what a GPU would do, done by the CPU: the frames are those of a working NVDEC
WORKS = """at = words.index('-hwaccel')
del words[at : at + 4]
words = [word.replace('hwdownload', 'null') for word in words]"""
DOES_NOT_KNOW = "sys.exit('[error] Impossible to convert between the formats supported')"
BREAKS_OFF = (
    """at = words.index('-i')
words[at:at] = ['-t', '2']
"""
    + WORKS
)


def command_of(probed, views, *, cuda, **settings):
    numbers = range(10, 10 + len(views))
    return decode_command(
        "x.mp4", probed, views, Descriptors(tuple(numbers), 90, 91), DecodeConfig(**settings),
        cuda=cuda,
    )  # fmt: skip


def filters(command):
    return command[command.index("-filter_complex") + 1]


def test_the_command_keeps_frames_on_the_gpu_until_they_are_fetched(monkeypatch):
    monkeypatch.setattr(command_module, "scales_on_gpu", lambda: False)
    command = command_of(PROBED, [BARCODE, SOUND], cuda=True)
    start = command.index("-hwaccel")
    assert tuple(command[start : start + 4]) == NVDEC_OPTIONS
    assert start < command.index("-i")
    assert "[0:0]hwdownload[" in filters(command)
    assert "format=nv12" in filters(command)
    on_cpu = command_of(PROBED, [BARCODE, SOUND], cuda=False)
    assert "-hwaccel" not in on_cpu
    assert "hwdownload" not in filters(on_cpu)


def test_frames_shrink_on_the_gpu_where_the_filter_does_not_alias(monkeypatch):
    monkeypatch.setattr(command_module, "scales_on_gpu", lambda: True)
    graph = filters(command_of(PROBED, [FrameView(1, 224, 224, "crop")], cuda=True))
    order = [graph.index(name) for name in ("scale_cuda=398:224", "fps=", "hwdownload", "crop=")]
    assert order == sorted(order)
    assert "use_filters=1" in graph


@pytest.mark.parametrize(("text", "answer"), [("  use_filters  <int>  generic filters", True),
                                              ("  interp_algo  <int>  interpolation", False),
                                              ("Unknown filter 'scale_cuda'.", False)])  # fmt: skip
def test_what_the_filter_can_do_is_asked(text, answer, binary):
    binary(f"print({text!r})")
    assert ffmpeg_module.scales_on_gpu() is answer


def test_the_frame_that_is_tried_is_a_frame(media):
    media.run("-xerror", "-protocol_whitelist", "data", "-f", "h264", "-i",
              f"data:video/h264;base64,{BLACK_FRAME}", media.path("black.png"))  # fmt: skip
    assert media.path("black.png").stat().st_size > 100


@pytest.mark.parametrize(("device", "gpu", "works", "expected"), [
    ("auto", False, True, False), ("auto", True, True, True), ("auto", True, False, False),
    ("cpu", True, True, False), ("cuda", True, True, True), ("cuda", False, True, True),
])  # fmt: skip
def test_which_workers_use_nvdec(device, gpu, works, expected, binary):
    calls = binary("" if works else "sys.exit('[CUDA @ 0x5] Cannot load libcuda.so.1')")
    for _ in range(3):
        assert uses_nvdec(DecodeConfig(device=device), gpu=gpu) is expected
    asked = device == "cuda" or (device == "auto" and gpu)
    assert calls.exists() == asked
    if asked:
        assert len(calls.read_text().splitlines()) == 1, "asked once a process"
        assert "-init_hw_device" in calls.read_text()


@pytest.mark.parametrize("gpu", [True, False])
def test_cuda_that_cannot_be_had_is_one_line(gpu, binary):
    binary("print('[CUDA @ 0x5] Cannot load libcuda.so.1\\nmore', file=sys.stderr)\nsys.exit(1)")
    with pytest.raises(AbortError) as caught:
        uses_nvdec(DecodeConfig(device="cuda"), gpu=gpu)
    assert str(caught.value).startswith("decode.device: cuda, but ffmpeg cannot")
    assert "Cannot load libcuda.so.1)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_auto_says_once_that_the_cpu_decodes(binary, caplog):
    binary("sys.exit('Cannot load libnvcuvid.so.1')")
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            uses_nvdec(DecodeConfig(), gpu=True)
    assert [record.getMessage() for record in caplog.records] == [
        "Videos are decoded on the CPU: ffmpeg cannot decode on the GPU "
        "(Cannot load libnvcuvid.so.1)"
    ]


def by_nvdec(path, views, **settings):
    """({view: all of it}, Decoded) with NVDEC asked for; chunks must come in order, gapless."""
    config = DecodeConfig(**settings)
    parts = {}
    for chunk in decode(path, probe(path, config), views, config, cuda=True):
        if isinstance(chunk, Decoded):
            return {view: np.concatenate(found) for view, found in parts.items()}, chunk
        assert chunk.first == sum(map(len, parts.setdefault(chunk.view, [])))
        parts[chunk.view].append(chunk.data)
    raise AssertionError("no Decoded")


@pytest.fixture
def video(media, h264):
    """Four seconds of barcodes with a tone."""
    return media.video("gpu.mp4", h264, inputs=["-f", "lavfi", "-i", "sine=440:d=4"])


@pytest.mark.parametrize(("on_gpu", "device", "reason"), [
    (WORKS, "cuda", None),
    (DOES_NOT_KNOW, "cpu", "Impossible to convert"),
    ("sys.exit(1)", "cpu", "nothing could be decoded"),
    (BREAKS_OFF, "cpu", "s of 4.00 s are there"),
    (WORKS + "\nprint('[h264 @ 0x5] [error] CUDA_ERROR_UNKNOWN', file=sys.stderr)", "cpu",
     "CUDA_ERROR_UNKNOWN"),
], ids=["works", "does not know the codec", "silent", "breaks off", "complains"])  # fmt: skip
def test_rows_are_the_same_whoever_decodes_and_who_did_is_said(
    on_gpu, device, reason, binary, video, decode_all, monkeypatch
):
    expected = decode_all(video, BARCODE, SOUND)
    calls = binary(fake(on_gpu))
    monkeypatch.setattr(command_module, "scales_on_gpu", lambda: False)  # no CPU does that
    views, decoded = by_nvdec(video, [BARCODE, SOUND])
    assert "-hwaccel" in calls.read_text()
    assert decoded.device == device
    assert decoded.damage is None
    assert (decoded.fallback is None) == (reason is None)
    if reason:
        assert reason in decoded.fallback
    np.testing.assert_array_equal(views[BARCODE], expected.views[BARCODE])
    # where a child breaks off, its resampler rounds the last few samples otherwise
    np.testing.assert_allclose(views[SOUND], expected.views[SOUND], atol=64)


def test_a_damaged_file_has_the_verdict_of_the_cpu(binary, media, video):
    binary(fake(DOES_NOT_KNOW))
    content = bytearray(Path(video).read_bytes())
    start = content.index(b"mdat") + 2000
    content[start : start + 3000] = bytes(3000)
    path = media.path("gpu_damaged.mp4")
    path.write_bytes(content)
    with pytest.raises(VideoError) as caught:
        by_nvdec(str(path), [BARCODE])
    assert "Impossible" not in caught.value.message
    _, decoded = by_nvdec(str(path), [BARCODE], on_damage="keep")
    assert decoded.damage is not None
    assert decoded.device == "cpu"


@pytest.mark.parametrize(("change", "reason"), [
    ({"rotation": -90.0}, "turned by -90 degrees"), ({"pixels": "yuv422p10le"}, "yuv422p10le"),
])  # fmt: skip
def test_what_nvdec_cannot_take_is_not_tried(change, reason, binary, video):
    calls = binary(fake(DOES_NOT_KNOW))
    probed = probe(video, DecodeConfig())
    picture = PictureStream(**(vars(probed.picture) | change))
    probed = Probe(**(vars(probed) | {"picture": picture}))
    *_, decoded = decode(video, probed, [BARCODE], DecodeConfig(), cuda=True)
    assert decoded.device == "cpu"
    assert reason in decoded.fallback
    assert "-hwaccel" not in calls.read_text()


def test_sound_alone_needs_no_gpu(binary, video):
    calls = binary(fake(DOES_NOT_KNOW))
    _, decoded = by_nvdec(video, [SOUND])
    assert (decoded.device, decoded.fallback) == ("cpu", None)
    assert "-hwaccel" not in calls.read_text()


@pytest.mark.gpu
def test_this_machine_decodes_on_its_gpu():
    assert ffmpeg_module.nvdec_failure() is None


@pytest.mark.gpu
def test_nvdec_gives_the_frames_of_the_cpu(media, video, decode_all):
    views, decoded = by_nvdec(video, [BARCODE, SOUND])
    assert (decoded.device, decoded.fallback) == ("cuda", None)
    expected = decode_all(video, BARCODE, SOUND).views
    assert media.read_barcodes(views[BARCODE]) == media.read_barcodes(expected[BARCODE])
    np.testing.assert_array_equal(views[SOUND], expected[SOUND])


@pytest.mark.gpu
@pytest.mark.parametrize("fit", ["crop", "whole"])
def test_colours_and_sharpness_are_those_of_the_cpu(fit, media, decode_all):
    path = media.path("chart.mp4")
    media.run("-f", "lavfi", "-i", "testsrc2=s=1280x720:r=25:d=2", "-c:v", "libx264", "-pix_fmt",
              "yuv420p", path)  # fmt: skip
    view = FrameView(2, 224, 224, fit)
    views, decoded = by_nvdec(str(path), [view])
    assert decoded.device == "cuda"
    apart = np.abs(views[view].astype(int) - decode_all(str(path), view).views[view])
    assert apart.mean() < 3


@pytest.mark.gpu
def test_a_codec_that_nvdec_does_not_know_is_decoded_on_the_cpu_and_said(media, decode_all):
    path = media.path("theirs.mkv")
    media.run("-f", "lavfi", "-i", "testsrc2=s=320x240:r=25:d=2", "-c:v", "ffv1", "-pix_fmt",
              "yuv420p", path)  # fmt: skip
    views, decoded = by_nvdec(str(path), [BARCODE])
    assert decoded.device == "cpu"
    assert decoded.fallback
    np.testing.assert_array_equal(views[BARCODE], decode_all(str(path), BARCODE).views[BARCODE])


def test_the_chunks_of_a_fallback_hold_no_frame_twice(binary, video):
    binary(fake(BREAKS_OFF))
    config = DecodeConfig()
    view = FrameView(50, 256, 256, "stretch")
    found = [chunk for chunk in decode(video, probe(video, config), [view], config, cuda=True)
             if isinstance(chunk, Chunk)]  # fmt: skip
    assert sum(len(chunk.data) for chunk in found) == 200
