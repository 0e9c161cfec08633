"""Every codec, rate, size and layout of tracks that the pipeline says it reads, by its barcodes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from extractors.decode_config import DecodeConfig
from extractors.ffmpeg import ffmpeg_binary
from extractors.probe import probe
from extractors.views import FrameView, SoundView

BARCODE = FrameView(8, 32, 128, "stretch")
SOUND = SoundView(16_000)
X265 = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:keyint=50"]
CODECS = {
    "hevc.mp4": [*X265, "-pix_fmt", "yuv420p"],
    "hevc10.mp4": [*X265, "-pix_fmt", "yuv420p10le"],
    "hevc10.mkv": [*X265, "-pix_fmt", "yuv420p10le"],
    "av1.mp4": ["-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-crf", "40"],
    "av1.webm": ["-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-crf", "40"],
    "mpeg2.mpg": ["-c:v", "mpeg2video", "-q:v", "3", "-bf", "2"],
    "mpeg2.ts": ["-c:v", "mpeg2video", "-q:v", "3", "-bf", "2"],
}
QUICK = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]


def encoder_missing(options):
    """Whether the ffmpeg in use was built without the encoder that makes the file."""
    name = options[options.index("-c:v") + 1]
    command = [ffmpeg_binary(), "-hide_banner", "-encoders"]
    return f" {name} " not in subprocess.run(command, capture_output=True, text=True).stdout


def onsets(samples, rate=16_000, loud=3000):
    """Seconds at which sound begins after at least 0.2 s of quiet."""
    places = np.flatnonzero(np.abs(samples.astype(int)) > loud)
    starts = places[np.diff(places, prepend=-rate) > rate // 5]
    return [start / rate for start in starts]


@pytest.mark.parametrize("name", CODECS)
def test_every_row_of_a_codec(name, media, decode_all):
    if encoder_missing(CODECS[name]):
        pytest.skip("this ffmpeg cannot make the file")
    everything = decode_all(media.video(name, CODECS[name]), BARCODE)
    assert name.startswith(everything.probed.picture.codec[:4])
    assert media.read_barcodes(everything.views[BARCODE]) == [
        int((row + 0.5) / 8 * 25) for row in range(32)
    ]
    assert everything.decoded.damage is None


@pytest.mark.parametrize(("name", "codec"), [("one.mkv", QUICK), ("one.ts", QUICK),
                                             ("one.webm", ["-c:v", "libvpx"]),
                                             ("one.avi", ["-c:v", "mpeg4"])])  # fmt: skip
def test_one_frame(name, codec, media, decode_all):
    path = media.video(name, codec, frames=media.barcodes([7]))
    views = [BARCODE, FrameView(1, 32, 128, "stretch")]
    everything = decode_all(path, *views)
    assert [media.read_barcodes(everything.views[view]) for view in views] == [[7], [7]]
    assert everything.decoded.damage is None


@pytest.mark.parametrize("rate", [1, 120])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_slow_and_fast_pictures(rate, suffix, media, decode_all):
    count = 6 if rate == 1 else 360
    path = media.path(f"rate{rate}.{suffix}")
    frames = media.barcodes(range(count))
    media.run("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "256x64", "-framerate", rate, "-i",
              "pipe:0", *QUICK, "-video_track_timescale", 12_000, path,
              stdin=frames.tobytes())  # fmt: skip
    views = [FrameView(row_rate, 32, 128, "stretch") for row_rate in (1, 8, 24)]
    found = decode_all(str(path), *views).views
    for view in views:
        rows = media.read_barcodes(found[view])
        assert len(rows) == pytest.approx(count / rate * view.rate, abs=view.rate / rate)
        # a frame that begins at a row's very centre may fall on either side of it: whole
        # milliseconds (mkv) and 90 kHz ticks (ts) are not exact for 120 frames a second
        centres = (np.arange(len(rows)) + 0.5) / view.rate * rate
        exact = np.minimum(np.floor(centres), count - 1)
        assert np.all(np.abs(rows - exact)[centres % 1 > 0.1] == 0)
        assert np.all(np.abs(rows - exact) <= 1)


def test_a_short_4k_video(media, decode_all):
    frames = np.repeat(np.repeat(media.barcodes(range(8)), 15, axis=2), 34, axis=1)
    path = media.video("4k.mp4", QUICK, frames=frames)
    view = FrameView(25, 224, 224, "stretch")
    everything = decode_all(path, view)
    assert (everything.probed.picture.height, everything.probed.picture.width) == (2176, 3840)
    assert media.read_barcodes(everything.views[view]) == list(range(8))


@pytest.fixture
def three_tracks(media, h264):
    """A maker of a film whose tracks click at 0.5 s (eng), 1.5 s (ger) and 2.5 s (no tag)."""

    def make(name, default):
        inputs = []
        for number, time in enumerate((0.5, 1.5, 2.5)):
            inputs += ["-i", media.wav(f"track{number}.wav", media.clicks(4, [time]))]
        maps = [word for number in range(4) for word in ("-map", number)]
        disposition = [f"-disposition:a:{default}", "default"] if default is not None else []
        return media.video(
            name,
            [*h264, *maps, "-c:a", "ac3", "-metadata:s:a:0", "language=eng", "-metadata:s:a:1",
             "language=ger", "-disposition:a", 0, *disposition],
            inputs=inputs,
        )  # fmt: skip

    return make


@pytest.mark.parametrize(("suffix", "default", "language", "expected"), [
    ("mkv", 1, None, 1.5), ("mkv", 1, "eng", 0.5), ("mkv", 1, "GER", 1.5), ("mkv", 1, "fre", 1.5),
    ("mkv", None, None, 0.5), ("mkv", 2, None, 2.5), ("mp4", 2, "ger", 1.5),
    ("ts", None, "ger", 1.5), ("ts", None, None, 0.5),
])  # fmt: skip
def test_the_sound_track_that_is_heard(
    suffix, default, language, expected, three_tracks, decode_all
):
    path = three_tracks(f"tracks{default}.{suffix}", default)
    everything = decode_all(path, SOUND, audio_language=language)
    assert onsets(everything.views[SOUND]) == pytest.approx([expected], abs=0.02)
    assert everything.decoded.damage is None


@pytest.mark.parametrize("codec", ["ac3", "aac", "flac"])
def test_every_channel_of_surround_sound_is_heard(codec, media, h264, decode_all):
    """One click a channel. The bass channel has none: a mono mix leaves it out, as players do."""
    channels = {"FL": 0.5, "FR": 1.0, "FC": 1.5, "BL": 2.0, "BR": 2.5}
    inputs, joined = [], ""
    for number, (channel, time) in enumerate(channels.items()):
        inputs += ["-i", media.wav(f"{channel}.wav", media.clicks(4, [time], 48_000), 48_000)]
        joined += f"[{number + 1}:a]"
    order = "FL=c0|FR=c1|FC=c2|LFE=0*c0|BL=c3|BR=c4"
    graph = f"{joined}amerge=inputs=5,pan=5.1|{order}[sound]"
    path = media.video(
        f"surround_{codec}.{'mp4' if codec == 'aac' else 'mkv'}",
        [*h264, "-filter_complex", graph, "-map", "0:v", "-map", "[sound]", "-c:a", codec],
        inputs=inputs,
    )
    samples = decode_all(path, SOUND).views[SOUND]
    assert onsets(samples, loud=1000) == pytest.approx(list(channels.values()), abs=0.02)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "mov"])
def test_picture_and_sound_are_aligned(suffix, media, h264, decode_all):
    """White from 1.2 s on, a click at 1.2 s: in rows of 20 ms."""
    frames = np.zeros((100, 64, 128, 3), np.uint8)
    frames[30:] = 255
    sound = media.wav("aligned.wav", media.clicks(4, [1.2]))
    path = media.video(f"aligned.{suffix}", [*h264, "-c:a", "aac"], frames=frames,
                       inputs=["-i", sound])  # fmt: skip
    view = FrameView(50, 32, 32, "stretch")
    views = decode_all(path, view, SOUND).views
    white = np.flatnonzero(views[view].mean(axis=(1, 2, 3)) > 127)[0] / 50
    (click,) = onsets(views[SOUND])
    assert abs(white - click) <= 0.02 + 1e-9


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_late_picture(suffix, media, h264, decode_all):
    """Its first frame is shown until then; the sound, which came before, stays where it was."""
    sound = media.wav("before.wav", media.clicks(5, [0.5, 3.0]))
    path = media.video(
        f"late_by_one.{suffix}", [*h264, "-map", "0:v", "-map", "1:a", "-c:a", "ac3"],
        before=["-itsoffset", 1], inputs=["-i", sound],
    )  # fmt: skip
    views = decode_all(path, BARCODE, SOUND).views
    rows = media.read_barcodes(views[BARCODE])
    assert rows[:8] == [0] * 8
    assert np.all(np.abs(rows[8:] - (np.arange(8, len(rows)) + 0.5) / 8 * 25 + 25) <= 1.5)
    assert onsets(views[SOUND]) == pytest.approx([0.5, 3.0], abs=0.02)


def test_mp3_in_avi_is_late_by_no_more_than_is_known(media, decode_all):
    """An AVI does not tell of the encoder's delay (ours: 1105 samples, 69 ms at 16 kHz)."""
    sound = media.wav("avi.wav", media.clicks(4, [1.0, 2.0]))
    path = media.video("mp3.avi", ["-c:v", "mpeg4", "-c:a", "libmp3lame"], inputs=["-i", sound])
    late = np.subtract(onsets(decode_all(path, SOUND).views[SOUND]), [1.0, 2.0])
    assert np.all((late > -0.02) & (late < 0.075))


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_subtitles_that_outlast_all_else_are_no_truncation(suffix, media, h264, decode_all):
    text = media.path("long.srt")
    text.write_text(
        "1\n00:00:00,000 --> 00:00:01,000\nnow\n\n2\n00:00:30,000 --> 00:00:50,000\nx\n"
    )
    codec = "mov_text" if suffix == "mp4" else "srt"
    path = media.video(f"subtitled.{suffix}", [*h264, "-c:s", codec], inputs=["-i", text])
    everything = decode_all(path, BARCODE)
    if suffix == "mkv":
        assert everything.probed.duration == pytest.approx(50), "else nothing is tested"
    assert everything.decoded.damage is None
    assert len(everything.views[BARCODE]) == 32


def test_other_tracks_that_outlast_the_chosen_ones_are_no_truncation(media, h264, decode_all):
    sounds = [media.wav(f"lasts{n}.wav", media.clicks(n, [0.5])) for n in (4, 20)]
    path = media.video("lasting.mkv", [*h264, "-map", 0, "-map", 1, "-map", 2, "-c:a", "flac"],
                       inputs=["-i", sounds[0], "-i", sounds[1]])  # fmt: skip
    everything = decode_all(path, BARCODE, SOUND)
    assert everything.probed.duration == pytest.approx(20, abs=0.1)
    assert everything.decoded.damage is None
    assert len(everything.views[SOUND]) == pytest.approx(4 * 16_000, abs=1000)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("sound", [[], ["-f", "lavfi", "-i", "sine=440:d=9"]], ids=["", "sound"])
def test_key_frames_alone_lie_at_their_times(suffix, sound, media, decode_all):
    """Key frames at 0, 0.48, … s: each row shows the last one before its centre, to the end."""
    options = [*QUICK, "-g", 12, "-bf", 2, "-x264-params", "scenecut=0"]
    path = media.video(f"keys{len(sound)}.{suffix}", options, inputs=sound)
    views = [FrameView(rate, 32, 128, "stretch") for rate in (1, 8, 25)]
    found = decode_all(path, *views, key_frames_only=True)
    assert found.decoded.damage is None
    for view in views:
        rows = media.read_barcodes(found.views[view])
        shown = np.floor((np.arange(len(rows)) + 0.5) / view.rate * 25 + 1e-9).astype(int)
        assert len(rows) == 4 * view.rate
        assert rows == [int(frame) // 12 * 12 for frame in np.minimum(shown, 99)]


def test_key_frames_alone_tell_a_file_cut_short(media, decode_all):
    noise = np.random.default_rng(0).integers(0, 256, (250, 64, 128, 3), np.uint8)
    whole = media.video("keys_whole.mp4", [*QUICK, "-movflags", "faststart"], frames=noise)
    path = media.path("keys_cut.mp4")
    content = Path(whole).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    decoded = decode_all(str(path), BARCODE, key_frames_only=True, on_damage="keep").decoded
    assert "s of 10.00 s are there" in decoded.damage
    assert decoded.duration == pytest.approx(5, abs=1)


MEASURE = """
import json, resource, sys
from extractors.decode_config import DecodeConfig
from extractors.decode import Chunk, decode
from extractors.probe import probe
from extractors.views import FrameView, SoundView
views = [FrameView(1, 64, 64, "crop"), FrameView(4, 48, 48, "stretch"), SoundView(16_000)]
config = DecodeConfig()
counts = dict.fromkeys(map(str, views), 0)
for chunk in decode(sys.argv[1], probe(sys.argv[1], config), views, config):
    if isinstance(chunk, Chunk):
        counts[str(chunk.view)] += len(chunk.data)
peaks = [resource.getrusage(who).ru_maxrss / 1024
         for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps([list(counts.values()), peaks]))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_hours_take_no_more_memory_than_ten_minutes(media):
    peaks = {}
    for seconds in (600, 3 * 3600):
        path = media.path(f"{seconds}.mkv")
        command = [ffmpeg_binary(), "-y", "-v", "error", "-f", "lavfi", "-i",
                   f"testsrc2=s=96x64:r=5:d={seconds}", "-f", "lavfi", "-i",
                   f"sine=440:r=16000:d={seconds}", *QUICK, "-c:a", "aac", path]  # fmt: skip
        subprocess.run(command, check=True, timeout=600)
        result = subprocess.run(
            [sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONPATH": os.getcwd()}, timeout=600,
        )  # fmt: skip
        counts, peaks[seconds] = json.loads(result.stdout)
        assert counts == pytest.approx([seconds, 4 * seconds, 16_000 * seconds], abs=2000)
    for ours_or_child in (0, 1):
        assert peaks[3 * 3600][ours_or_child] < peaks[600][ours_or_child] + 24


def test_a_language_that_is_no_tag_is_no_match(media, three_tracks):
    path = three_tracks("tracks1.mkv", 1)
    assert probe(path, DecodeConfig(audio_language="en")).sound.language == "ger"
