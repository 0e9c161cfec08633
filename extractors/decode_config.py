"""How videos are decoded, and how small copies of them are made."""

from typing import Literal

from pydantic import Field

from extractors.settings import Settings


class DecodeConfig(Settings):
    """The ffmpeg child: one a video, killed at its deadline."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where video is decoded: `cuda` is NVDEC, and a worker that cannot have it stops the run;
    `auto` takes it on GPU workers where it works. A file that NVDEC cannot decode is decoded on the
    CPU, and its record says so."""
    threads: int = Field(1, ge=1, le=64)
    """Decoder threads of one child."""
    scaler: Literal["area", "bicubic", "bilinear"] = "area"
    """How frames are made smaller: `area` averages the pixels that one pixel takes the place of; it
    costs half of what `bicubic` does, with which the papers' features were made. NVDEC's own is
    bicubic."""
    key_frames_only: bool = False
    """Decode key frames alone: far faster, but each row shows the last key frame before its time,
    seconds old in most files; damage in the frames between is not seen."""
    audio_language: str | None = None
    """The sound track to use, by its language as the file tags it (`eng`); where no track has it,
    and by default, the default track, else the first."""
    deadline_factor: float = Field(2.0, gt=0)
    """A child is killed once it has kept us waiting `deadline_base + deadline_factor x duration`
    seconds; time that the extractors take does not count."""
    deadline_base: float = Field(60.0, gt=0)
    """Seconds that any child may take, however short its video."""
    max_seconds: float = Field(12 * 3600.0, gt=0)
    """Longer videos fail with the reason `too_long`."""
    max_pixels: int = Field(8192 * 4320, gt=0)
    """Videos with more pixels a frame fail with the reason `too_large`, before any is decoded."""
    max_memory_mb: int = Field(4096, ge=256)
    """Address space a child may take (not applied with NVDEC, which maps the GPU's memory)."""
    on_damage: Literal["fail", "keep"] = "fail"
    """A truncated or damaged video: a failed row, or keep what decodes and say so in meta.json."""


class ProxyConfig(Settings):
    """A small mp4 of each video in its sample, for random access (`extractors.proxy_reader`)."""

    rate: float = Field(12.0, gt=0, le=60)
    """Frames per second. Setting any of these, or `proxy: {}`, makes proxies; `null`, the
    default, makes none."""
    short_side: int = Field(128, ge=32, le=1024, multiple_of=2)
    """Pixels of the short side; the whole frame is kept."""
    gop: int = Field(12, ge=1, le=12)
    """At most this many frames from key frame to key frame: what one random access decodes."""
    crf: int = Field(23, ge=0, le=51)
    """Quality of the H.264 encoder, lower is better and larger."""
    sound_kbps: int = Field(48, ge=8, le=96)
    """Kilobits per second of the sound: AAC, 16 kHz, mono."""
