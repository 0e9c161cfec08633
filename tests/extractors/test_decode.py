"""Frames and samples lie where the views say, whatever the container."""

import re
import struct
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest

from extractors import decode as decode_module
from extractors.decode import CHUNK_BYTES, Chunk, decode
from extractors.decode_config import DecodeConfig
from extractors.errors import Reason, VideoError
from extractors.ffmpeg import ffmpeg_binary
from extractors.probe import probe
from extractors.views import FrameView, SoundView

BARCODE = FrameView(8, 32, 128, "stretch")
SOUND = SoundView(16_000)
RATES = (1, 8, 12.5, 24, 25, 50)

MPEG4 = ["-c:v", "mpeg4", "-q:v", "3"]
VP9 = ["-c:v", "libvpx-vp9", "-b:v", "500k", "-deadline", "realtime", "-cpu-used", "8"]
MPEG2 = ["-c:v", "mpeg2video", "-q:v", "3", "-bf", "2"]
# every (n % 7)-th frame is dropped: frames last 40 or 80 ms
UNEVEN = ["-vf", "select=mod(n\\,7)", "-fps_mode", "passthrough", "-video_track_timescale", "12800"]


def rows_shown(times, numbers, rate, count):
    """Which picture each row must hold: the last one shown before (i + 0.5) / rate."""
    before = np.searchsorted(times, (np.arange(count) + 0.5) / rate - 1e-9)
    return [int(numbers[max(0, n - 1)]) for n in before]


def start_of_file(path):
    """What the ffmpeg in use takes for the start of a file (versions differ by an opus priming)."""
    header = subprocess.run([ffmpeg_binary(), "-i", path], capture_output=True, text=True)
    return float(re.search(r", start: (-?[\d.]+)", header.stderr).group(1))


def times_in_file(path, read_barcodes):
    """(times, numbers) of all frames by another reader, from the file's own start."""
    with av.open(str(path)) as container:
        frames = list(container.decode(container.streams.video[0]))
    start = start_of_file(path)
    images = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    return [frame.time - start for frame in frames], read_barcodes(images)


@pytest.mark.parametrize("name", ["plain.mp4", "plain.mkv", "plain.ts", "plain.webm", "plain.avi",
                                  "plain.mpg"])  # fmt: skip
def test_row_i_holds_the_frame_shown_just_before_its_centre(name, media, h264, decode_all):
    options = {"plain.webm": VP9, "plain.avi": MPEG4, "plain.mpg": MPEG2}.get(name, h264)
    path = media.video(name, options)
    views = decode_all(path, *(FrameView(rate, 32, 128, "stretch") for rate in RATES)).views
    for view, frames in views.items():
        rows = media.read_barcodes(frames)
        assert len(rows) == 4 * view.rate
        assert rows == rows_shown(np.arange(100) / 25, np.arange(100), view.rate, len(rows))


@pytest.mark.parametrize("name", ["uneven.mp4", "sound.mkv", "sound.webm", "sound.avi", "sound.ts",
                                  "bframes.avi"])  # fmt: skip
def test_rows_follow_the_times_that_the_file_states(name, media, h264, decode_all):
    options = {"uneven.mp4": h264 + UNEVEN, "sound.webm": VP9, "sound.avi": MPEG4,
               "bframes.avi": [*MPEG4, "-bf", "2"]}.get(name, h264)  # fmt: skip
    sound = ["-f", "lavfi", "-i", "sine=440:d=4"] if name.startswith("sound") else []
    path = media.video(name, options, inputs=sound)
    times, numbers = times_in_file(path, media.read_barcodes)
    views = decode_all(path, *(FrameView(rate, 32, 128, "stretch") for rate in (1, 8, 24))).views
    for view, frames in views.items():
        rows = media.read_barcodes(frames)
        assert abs(len(rows) - 4 * view.rate) <= 1
        assert rows == rows_shown(times, numbers, view.rate, len(rows))


def test_time_starts_where_the_file_does_whichever_view_is_asked(media, h264, decode_all):
    """ffmpeg counts an MPEG-TS from the first packet of those streams that an output uses."""
    sound = media.wav("second.wav", media.clicks(3, [0.5]))
    options = [*h264, "-map", "0:v", "-map", "1:a"]
    late_sound = media.video("late_sound.ts", options, inputs=["-itsoffset", 1, "-i", sound])
    late_picture = media.video(
        "late_picture.ts", options, before=["-itsoffset", 1], inputs=["-i", sound]
    )
    for path in (late_sound, late_picture):
        both = decode_all(path, BARCODE, SOUND)
        for view in (BARCODE, SOUND):
            alone = decode_all(path, view)
            np.testing.assert_array_equal(alone.views[view], both.views[view])


def test_frames_before_the_cut_of_an_edit_list_are_not_delivered(media, h264, decode_all):
    whole = media.video("whole.mp4", h264)
    cut = media.path("cut.mp4")
    media.run("-ss", 1.2, "-i", whole, "-c", "copy", cut)
    with av.open(str(cut)) as container:
        packets = sum(1 for packet in container.demux() if packet.size)
    assert packets > 70, "the cut must begin at the key frame before 1.2 s, or nothing is tested"
    view = FrameView(25, 32, 128, "stretch")
    rows = media.read_barcodes(decode_all(str(cut), view).views[view])
    assert rows == list(range(30, 100))


def test_a_view_that_ends_before_the_file_is_not_truncated(media, h264, decode_all):
    sound = media.wav("brief.wav", media.clicks(1, [0.5]))
    path = media.video("brief_sound.mp4", h264, inputs=["-i", sound])
    assert decode_all(path, SOUND).decoded.damage is None
    sound = media.wav("lasting.wav", media.clicks(9, [0.5]))
    path = media.video("brief_picture.mp4", h264, inputs=["-i", sound])
    assert decode_all(path, BARCODE).decoded.damage is None


def test_several_views_in_one_pass_agree_with_each_alone(media, h264, decode_all):
    path = media.video("views.mp4", h264, inputs=["-f", "lavfi", "-i", "sine=440:d=4"])
    views = [
        BARCODE,
        FrameView(1, 96, 96, "crop"),
        FrameView(24, 32, 32, "crop"),
        SOUND,
    ]
    together = decode_all(path, *views)
    assert set(together.views) == set(views)
    for view in views:
        np.testing.assert_array_equal(together.views[view], decode_all(path, view).views[view])


def test_the_same_view_asked_twice_is_given_once(media, h264, decode_all):
    path = media.video("plain.mp4", h264)
    assert len(decode_all(path, BARCODE, BARCODE).views[BARCODE]) == 32


@pytest.mark.parametrize(("name", "codec"), [("click.mp4", "aac"), ("click.mkv", "libopus"),
                                             ("click.webm", "libopus"), ("click.ts", "aac"),
                                             ("click.avi", "pcm_s16le"),
                                             ("click.mov", "pcm_s16le")])  # fmt: skip
def test_a_click_lies_at_its_sample(name, codec, media, h264, decode_all):
    sound = media.wav("click.wav", media.clicks(4, [0.5, 2.5]))
    options = VP9 if name.endswith("webm") else MPEG4 if name.endswith("avi") else h264
    path = media.video(name, [*options, "-c:a", codec, "-b:a", "96k"], inputs=["-i", sound])
    samples = decode_all(path, SOUND).views[SOUND]
    assert samples.dtype == np.int16
    assert len(samples) == pytest.approx(4 * 16_000, abs=2000)
    # where an encoder's priming comes before the picture, the file's clock starts with it
    first = times_in_file(path, media.read_barcodes)[0][0]
    assert onsets(samples) == pytest.approx([first + 0.5, first + 2.5], abs=0.02)


def onsets(samples, rate=16_000):
    """Seconds at which sound begins after at least 0.2 s of quiet."""
    loud = np.flatnonzero(np.abs(samples.astype(int)) > 3000)
    starts = loud[np.diff(loud, prepend=-rate) > rate // 5]
    return [start / rate for start in starts]


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts"])
def test_late_sound_keeps_its_time(name, media, h264, decode_all):
    sound = media.wav("late.wav", media.clicks(2, [0.5]))
    path = media.video(
        name, [*h264, "-map", "0:v", "-map", "1:a"], inputs=["-itsoffset", 1.5, "-i", sound]
    )
    everything = decode_all(path, BARCODE, SOUND)
    assert onsets(everything.views[SOUND]) == pytest.approx([2.0], abs=0.02)
    assert media.read_barcodes(everything.views[BARCODE])[4] == 14  # (4 + 0.5) / 8 s


def test_a_late_picture_shows_its_first_frame_until_it_starts(media, h264, decode_all):
    sound = media.wav("early.wav", media.clicks(4, [0.5]))
    path = media.video(
        "late_picture.mkv", [*h264, "-map", "0:v", "-map", "1:a"],
        before=["-itsoffset", 1], inputs=["-i", sound],
    )  # fmt: skip
    everything = decode_all(path, BARCODE, SOUND)
    rows = media.read_barcodes(everything.views[BARCODE])
    assert rows[:8] == [0] * 8
    times, numbers = times_in_file(path, media.read_barcodes)
    assert times[0] == pytest.approx(1, abs=0.05)
    assert rows == rows_shown(times, numbers, 8, len(rows))
    assert onsets(everything.views[SOUND]) == pytest.approx([0.5], abs=0.02)


def test_a_picture_without_sound_and_a_sound_without_picture(media, h264, decode_all):
    silent = decode_all(media.video("plain.mp4", h264), BARCODE, SOUND)
    assert set(silent.views) == {BARCODE}
    assert silent.decoded.duration == pytest.approx(4)
    heard = decode_all(media.wav("heard.wav", media.clicks(3, [1])), BARCODE, SOUND)
    assert set(heard.views) == {SOUND}
    assert heard.probed.picture is None
    assert heard.decoded.duration == pytest.approx(3)


def test_no_view_that_the_file_can_give(media, decode_all):
    everything = decode_all(media.wav("pictureless.wav", media.clicks(3, [1])), BARCODE)
    assert everything.views == {}
    assert everything.decoded.duration == pytest.approx(3)


def test_cover_art_is_no_picture(media, decode_all):
    sound = media.wav("song.wav", media.clicks(2, [1]))
    cover = media.path("cover.png")
    media.run("-f", "lavfi", "-i", "color=red:s=64x64:d=1", "-frames:v", 1, cover)
    path = media.path("song.mp3")
    media.run("-i", sound, "-i", cover, "-map", 0, "-map", 1, "-disposition:v", "attached_pic",
              "-id3v2_version", 3, path)  # fmt: skip
    everything = decode_all(str(path), BARCODE, SOUND)
    assert everything.probed.picture is None
    assert set(everything.views) == {SOUND}


def quadrants(height, width):
    """A red, green, blue and white quarter: which way up a frame is can be read off it."""
    frame = np.zeros((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    frame[:top, :left], frame[:top, left:] = (255, 0, 0), (0, 255, 0)
    frame[top:, :left], frame[top:, left:] = (0, 0, 255), (255, 255, 255)
    return np.repeat(frame[None], 25, axis=0)


def corner_colours(frame):
    """'rgbw' for the corners of a frame: top left, top right, bottom left, bottom right."""
    y, x = frame.shape[0] // 8, frame.shape[1] // 8
    names = {(255, 0, 0): "r", (0, 255, 0): "g", (0, 0, 255): "b", (255, 255, 255): "w"}
    corners = [frame[y, x], frame[y, -x - 1], frame[-y - 1, x], frame[-y - 1, -x - 1]]
    return "".join(
        min(names.items(), key=lambda item: np.abs(np.subtract(item[0], corner, dtype=int)).sum())[
            1
        ]
        for corner in corners
    )


def rotated(media, h264, degrees):
    """120 x 80 pixels that a player turns clockwise: the display matrix of the track is edited."""
    flat = Path(media.video("quadrants.mp4", h264, frames=quadrants(80, 120)))
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    old, new = (
        struct.pack(">9i", c << 16, s << 16, 0, -s << 16, c << 16, 0, 0, 0, 1 << 30)
        for c, s in ((1, 0), (cosine, sine))
    )
    movie, before, track = flat.read_bytes().partition(b"tkhd")
    assert old in track
    path = media.path(f"rotated{degrees}.mp4")
    path.write_bytes(movie + before + track.replace(old, new, 1))
    return str(path)


@pytest.mark.parametrize(("degrees", "size", "corners"), [(90, (96, 64), "brwg"),
                                                          (180, (64, 96), "wbgr"),
                                                          (270, (96, 64), "gwrb")])  # fmt: skip
def test_rotation_is_applied(degrees, size, corners, media, h264, decode_all):
    path = rotated(media, h264, degrees)
    view = FrameView(1, 64, 64, "whole")
    frames = decode_all(str(path), view).views[view]
    assert frames.shape == (1, *size, 3)
    assert corner_colours(frames[0]) == corners


def test_sample_aspect_ratio_is_applied(media, h264, decode_all):
    options = [*h264, "-vf", "setsar=2"]
    path = media.video("anamorphic.mp4", options, frames=quadrants(80, 80))
    view = FrameView(1, 64, 64, "whole")
    everything = decode_all(path, view)
    assert (everything.probed.picture.height, everything.probed.picture.width) == (80, 160)
    assert everything.views[view].shape == (1, 64, 128, 3)


@pytest.mark.parametrize(("fit", "shape"), [("crop", (64, 64)), ("stretch", (64, 64)),
                                            ("whole", (64, 120))])  # fmt: skip
def test_odd_sizes(fit, shape, media, decode_all):
    path = media.video("odd.avi", MPEG4, frames=quadrants(81, 151))
    view = FrameView(1, 64, 64, fit)
    frames = decode_all(str(path), view).views[view]
    assert frames.shape == (1, *shape, 3)
    assert corner_colours(frames[0]) == "rgbw"


def test_crop_keeps_the_middle_and_the_aspect(media, decode_all):
    frames = np.zeros((25, 64, 192, 3), np.uint8)
    frames[:, :, :64, 0] = frames[:, :, 64:128, 1] = frames[:, :, 128:, 2] = 255
    path = media.video("thirds.avi", MPEG4, frames=frames)
    view = FrameView(1, 64, 64, "crop")
    middle = decode_all(path, view).views[view][0, :, 4:-4]
    assert middle[..., 1].min() > 200
    assert middle[..., [0, 2]].max() < 60


def test_a_video_of_one_frame_gives_one_row(media, h264, decode_all):
    path = media.video("one.mp4", h264, frames=media.barcodes([7]))
    view = FrameView(1, 32, 128, "stretch")
    everything = decode_all(path, view)
    assert media.read_barcodes(everything.views[view]) == [7]
    assert everything.decoded.damage is None


@pytest.mark.parametrize("num_frames", [10, 20, 30, 40])
def test_a_whole_file_is_not_truncated_to_a_slow_view(num_frames, media, h264, decode_all):
    path = media.video(f"short{num_frames}.mp4", h264, frames=media.barcodes(range(num_frames)))
    everything = decode_all(path, FrameView(1, 32, 128, "stretch"))
    assert everything.decoded.damage is None


def test_chunks_are_bounded(media, h264):
    path = media.video("plain.mp4", h264, inputs=[])
    views = [FrameView(50, 256, 256, "stretch"), FrameView(2, 1080, 1920, "stretch")]
    config = DecodeConfig()
    sizes = {view: [] for view in views}
    for chunk in decode(path, probe(path, config), views, config):
        if isinstance(chunk, Chunk):
            sizes[chunk.view].append(chunk.data.nbytes)
    for view in views:
        frame = view.height * view.width * 3
        assert len(sizes[view]) > 1
        assert max(sizes[view]) < CHUNK_BYTES + frame


def test_the_buffers_of_the_pipes_are_bounded_while_the_consumer_is_busy(media, h264, monkeypatch):
    made = []

    class Recorded(decode_module._Pipe):
        def take(self, *, everything):
            made.append(len(self.buffer))
            return super().take(everything=everything)

    monkeypatch.setattr(decode_module, "_Pipe", Recorded)
    path = media.video("plain.mp4", h264)
    config = DecodeConfig()
    views = [FrameView(50, 256, 256, "stretch"), FrameView(50, 128, 128, "stretch")]
    for _ in decode(path, probe(path, config), views, config):
        pass
    assert max(made) < CHUNK_BYTES + decode_module.READ_BYTES


def test_frames_are_the_same_in_every_run_and_with_more_threads(media, h264, decode_all):
    path = media.video("plain.mp4", h264)
    first = decode_all(path, BARCODE, threads=1).views[BARCODE]
    np.testing.assert_array_equal(first, decode_all(path, BARCODE, threads=2).views[BARCODE])


def test_a_longer_video_than_it_declares_is_stopped(media, h264):
    path = media.video("plain.mp4", h264)
    config = DecodeConfig(max_seconds=3)
    probed = probe(path, DecodeConfig())
    view = FrameView(25, 256, 512, "stretch")
    with pytest.raises(VideoError, match="max_seconds") as caught:
        list(decode(path, probed, [view], config))
    assert caught.value.reason == Reason.TOO_LONG


@pytest.mark.parametrize("width", [112, 113])
def test_colours_keep_their_detail(width, tmp_path, decode_all):
    """Red and blue lines, as fine as 4:2:0 has them, do not become purple at half the size."""
    path = tmp_path / "lines.mkv"
    lines = "geq=r='255*lt(mod(X,4),2)':g=0:b='255*gte(mod(X,4),2)'"
    source = f"color=s={2 * width}x224:r=5:d=1,format=gbrp,{lines},format=yuv420p"
    subprocess.run(
        [ffmpeg_binary(), "-v", "error", "-f", "lavfi", "-i", source, "-c:v", "ffv1", path],
        check=True,
    )
    view = FrameView(5, 112, width, "stretch")
    frames = decode_all(str(path), view).views[view]
    red, blue = frames[..., 0].astype(int), frames[..., 2].astype(int)
    assert np.abs(red - blue).mean() > 230
