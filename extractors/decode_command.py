"""The command line of a video's ffmpeg child: one input, every output on a descriptor of its own.

    file ─┬─ picture ─ split ─ fps ─ scale ─ crop ─▶ frames of each view
          ├─ sound ─ resample ────────────────────▶ samples of each view
          └─ all else, undecoded ─────────────────▶ times

With NVDEC the picture stays on the GPU up to a `hwdownload`, which nothing decoded on the CPU can
pass: where NVDEC does not know a file, ffmpeg fails before its first frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ffmpeg

from extractors.decode_config import DecodeConfig
from extractors.ffmpeg import NVDEC_OPTIONS, ffmpeg_binary, input_options, scales_on_gpu
from extractors.probe import PictureStream, Probe
from extractors.views import FrameView, SoundView, View

EXACT = "accurate_rnd+bitexact"  # the same numbers on every processor
VERSION = 2
"""Of the frames and samples that a file gives with the same settings."""
# pixel format of a file: of its frames on the GPU
NVDEC_PIXELS = {
    "yuv420p": "nv12",
    "yuvj420p": "nv12",
    "yuv420p10le": "p010le",
    "yuv444p": "yuv444p",
    "yuvj444p": "yuv444p",
}


@dataclass(frozen=True)
class Descriptors:
    """What the child writes to."""

    views: Sequence[int]
    """One a view, raw."""
    progress: int
    """How far it has come, as `-progress` says it."""
    times: int
    """A line a packet of the streams whose end `-progress` does not tell, as framecrc."""


def decode_command(
    path: str,
    probed: Probe,
    views: Sequence[View],
    descriptors: Descriptors,
    config: DecodeConfig,
    *,
    cuda: bool,
) -> list[str]:
    """The command line for these views, all of which the file can give."""
    source = ffmpeg.input(**_input(path, config, cuda=cuda))
    frame_views = [view for view in views if isinstance(view, FrameView)]
    frames = dict(
        zip(frame_views, _pictures(source, frame_views, probed, config, cuda), strict=True)
    )
    outputs = []
    for view, descriptor in zip(views, descriptors.views, strict=True):
        if isinstance(view, FrameView):
            stream = frames[view]
            kwargs = {"format": "rawvideo", "pix_fmt": "rgb24", "fps_mode": "passthrough"}
        else:
            assert probed.sound is not None
            stream = _samples(source[str(probed.sound.number)], view)
            kwargs = {"format": "s16le", "ac": "1"}
        outputs.append(ffmpeg.output(stream, f"pipe:{descriptor}", **kwargs))
    timed = timed_streams(probed, frame_views, config)
    outputs += copied(source, untaken(probed, views), "-", "null")
    outputs += copied(source, timed, f"pipe:{descriptors.times}", "framecrc")
    graph = ffmpeg.merge_outputs(*outputs).global_args(
        "-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+error",
        "-progress", f"pipe:{descriptors.progress}", "-filter_complex_threads", "1",
    )  # fmt: skip
    command: list[str] = graph.compile(cmd=ffmpeg_binary())
    return command


def no_nvdec(picture: PictureStream) -> str | None:
    """Why a picture is not given to NVDEC in the first place; None where it is."""
    if picture.rotation:
        return f"turned by {picture.rotation:g} degrees, which is done on the CPU"
    if picture.pixels not in NVDEC_PIXELS:
        return f"NVDEC has no pixel format {picture.pixels or 'but YUV'}"
    return None


def timed_streams(
    probed: Probe, frame_views: Sequence[View], config: DecodeConfig
) -> tuple[int, ...]:
    """Streams whose packets' times are wanted. Subtitles, which ffmpeg's progress counts to the
    start of the last one only (5.1); and where key frames alone are decoded, the picture, first."""
    if config.key_frames_only and frame_views and probed.picture is not None:
        return probed.picture.number, *probed.timed
    return probed.timed


def _input(path: str, config: DecodeConfig, *, cuda: bool) -> dict[str, Any]:
    options = input_options(path, config.max_pixels) | {"threads": config.threads}
    if config.key_frames_only:
        options["skip_frame"] = "nokey"
    if cuda:
        names = (name.lstrip("-") for name in NVDEC_OPTIONS[::2])
        options |= dict(zip(names, NVDEC_OPTIONS[1::2], strict=True))
    return options


def untaken(probed: Probe, views: Sequence[View]) -> list[int]:
    """Picture and sound that no view takes. They are read all the same, undecoded, because

    - the end of a file may be theirs: without them a whole file can look truncated;
    - ffmpeg counts time in MPEG streams from the first packet of the streams in use, and a row
      must not move with what else is asked.
    """
    taken = {type(view) for view in views}
    kinds = ((probed.picture, FrameView), (probed.sound, SoundView))
    unasked = [stream.number for stream, view in kinds if stream and view not in taken]
    return [*unasked, *probed.other]


def copied(source: Any, numbers: Sequence[int], target: str, kind: str) -> list[Any]:
    """The output of these streams as they are, in the container `kind`; none where none is."""
    if not numbers:
        return []
    streams = [source[str(number)] for number in numbers]
    return [ffmpeg.output(*streams, target, format=kind, c="copy")]


def _pictures(
    source: Any, views: Sequence[FrameView], probed: Probe, config: DecodeConfig, cuda: bool
) -> list[Any]:
    if not views:
        return []
    assert probed.picture is not None
    stream = source[str(probed.picture.number)]
    shrink = cuda and scales_on_gpu()
    if cuda and not shrink:
        pixels = NVDEC_PIXELS[probed.picture.pixels]
        stream = stream.filter("hwdownload").filter("format", pixels)
    split = stream.filter_multi_output("split", len(views))
    return [_frames(split[k], view, probed, config, shrink=shrink) for k, view in enumerate(views)]


def _frames(
    stream: Any, view: FrameView, probed: Probe, config: DecodeConfig, *, shrink: bool
) -> Any:
    """`shrink`: the stream is on the GPU and is brought over when it is small."""
    assert probed.picture is not None
    height, width = _scaled_size(view, probed.picture)
    if shrink:
        # before fps, so that fps holds none of the decoder's few surfaces; 4:4:4 keeps the colour
        stream = stream.filter(
            "scale_cuda", width, height, interp_algo="bicubic", use_filters=1, format="yuv444p"
        )
    if config.key_frames_only:
        # fps leaves out a last frame that ends before its row does; the row too much is not given
        stream = stream.filter("tpad", stop_mode="clone", stop_duration=f"{1 / view.rate:.6f}")
    stream = on_grid(stream, view, probed, start_time=0)
    if shrink:
        stream = stream.filter("hwdownload").filter("format", "yuv444p")
    return scaled(stream, view, probed.picture, config)


def on_grid(stream: Any, view: FrameView, probed: Probe, **options: float) -> Any:
    """The frames at the view's rate: number i is the last one shown before (i + 0.5) / rate
    (round=near, fps's default), and is there if that is in the video. A video of less than one row
    still gives that row."""
    short = probed.duration is not None and probed.duration * view.rate < 1
    last = "pass" if short else "round"
    return stream.filter("fps", fps=view.rate, eof_action=last, **options)


def scaled(stream: Any, view: FrameView, picture: PictureStream, config: DecodeConfig) -> Any:
    """The frames at the view's size."""
    height, width = _scaled_size(view, picture)
    stream = stream.filter("scale", width, height, flags=f"{config.scaler}+{EXACT}")
    # planes of R, G, B first: packed RGB of an even width would get half of the colour's detail,
    # and of an odd one takes swscale twice as long
    stream = stream.filter("format", "gbrp" if view.chroma == "full" else "yuv420p")
    if view.fit == "crop":
        return stream.filter("crop", view.width, view.height)
    return stream


def _scaled_size(view: FrameView, picture: PictureStream) -> tuple[int, int]:
    """(height, width) before the crop, if there is one."""
    if view.fit != "crop":
        return view.frame_size(picture.height, picture.width)
    scale = max(view.height / picture.height, view.width / picture.width)
    return (
        max(view.height, round(picture.height * scale)),
        max(view.width, round(picture.width * scale)),
    )


def _samples(stream: Any, view: SoundView) -> Any:
    # async and first_pts: gaps and late starts become silence, so sample i lies at i / rate. Known
    # bound: an AVI does not tell of an MP3 encoder's delay, so its sound is up to 69 ms late.
    return stream.filter("aresample", view.rate, **{"async": 1, "first_pts": 0})
