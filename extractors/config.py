"""How decoding and each extractor are set. Which keys exist is here, what they do beside them."""

from typing import Annotated, Literal

from pydantic import Field

from extractors.settings import Settings

Precision = Literal["float32", "bfloat16", "float16"]
ImageNetwork = Literal[
    "efficientnet_lite0", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"
]


class DecodeConfig(Settings):
    """The ffmpeg child: one a video, killed at its deadline."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where video is decoded: `cuda` is NVDEC, `auto` takes it on workers that have a GPU."""
    threads: int = Field(1, ge=1, le=64)
    """Decoder threads of one child."""
    deadline_factor: float = Field(2.0, gt=0)
    """A child is killed once it has kept us waiting `deadline_base + deadline_factor x duration`
    seconds; time that the extractors take does not count."""
    deadline_base: float = Field(60.0, gt=0)
    """Seconds that any child may take, however short its video."""
    max_seconds: float = Field(12 * 3600.0, gt=0)
    """Longer videos fail with the reason `too_long`."""
    max_pixels: int = Field(8192 * 4320, gt=0)
    """Videos with more pixels a frame fail with the reason `too_large`."""
    max_memory_mb: int = Field(4096, ge=256)
    """Address space a child may take (not applied with NVDEC, which maps the GPU's memory)."""
    on_damage: Literal["fail", "keep"] = "fail"
    """A truncated or damaged video: a failed row, or keep what decodes and say so in meta.json."""


class ImageModelConfig(Settings):
    """A 2D network, one row a frame (methods: MCN uses ResNet-152 at 1 frame/s)."""

    kind: Literal["image"] = "image"
    model: ImageNetwork = "efficientnet_lite0"
    """`efficientnet_lite0`, or a torchvision ResNet; the papers' features use `resnet152`."""
    weights: str | None = None
    """A local state dict; by default the registry's file for this model (`pipeline weights`)."""
    rate: float = Field(1.0, gt=0, le=120)
    """Frames per second; the papers' features use 1."""
    size: int = Field(224, ge=32, le=2048)
    """Pixels of the short side (`fit: whole`) or of the square (`fit: crop`)."""
    fit: Literal["crop", "whole"] = "crop"
    """`whole` keeps the full frame, as the features published with HowTo100M."""
    batch_size: int = Field(16, ge=1)
    """Frames a forward pass, across videos."""
    precision: Precision = "float32"
    """Arithmetic of the forward pass; rows are stored as float16."""


class MotionModelConfig(Settings):
    """TransNet V2's convolution trunk: a shot and motion network, not an action one."""

    kind: Literal["motion"] = "motion"
    weights: str | None = None
    """A local state dict of TransNet V2; by default the registry's (`pipeline weights`)."""
    rate: float = Field(8.0, gt=0, le=120)
    """Frames per second."""
    window: int = Field(16, ge=2, le=256)
    """Frames a row; windows do not overlap, the last one repeats its last frame."""
    batch_size: int = Field(4, ge=1)
    """Windows a forward pass, across videos."""


class ActionModelConfig(Settings):
    """A torchvision video network, one row a window of frames (the papers: 16 at 24 a second)."""

    kind: Literal["action"] = "action"
    model: Literal["r2plus1d_18", "r3d_18", "mc3_18"] = "r2plus1d_18"
    """A torchvision video ResNet."""
    weights: str | None = None
    """A local state dict; by default torchvision's Kinetics-400 file (`pipeline weights`)."""
    rate: float = Field(24.0, gt=0, le=120)
    """Frames per second; MCN's features use 24."""
    window: int = Field(16, ge=1, le=256)
    """Frames a row; windows do not overlap, the last one is padded with black as in MCN."""
    size: int = Field(112, ge=32, le=1024)
    """Pixels of the centre crop's side."""
    batch_size: int = Field(8, ge=1)
    """Windows a forward pass, across videos."""
    precision: Precision = "float32"
    """Arithmetic of the forward pass; rows are stored as float16."""


class LogMelConfig(Settings):
    """MCN's log-mel front end: 40 bands, 25 ms windows, 10 ms hop, dB below the file's loudest."""

    kind: Literal["log_mel"] = "log_mel"
    bands: int = Field(40, ge=8, le=256)
    """Mel bands, 20 Hz to 8 kHz (the papers: 40)."""
    floor_db: float = Field(-80.0, lt=0)
    """The quietest value kept, in dB below the loudest bin of the whole file."""


class MeanColourConfig(Settings):
    """The mean colour of each frame: no weights, three numbers, the example to copy."""

    kind: Literal["mean_colour"] = "mean_colour"
    rate: float = Field(1.0, gt=0, le=120)
    """Frames per second."""


ExtractorConfig = Annotated[
    ImageModelConfig | MotionModelConfig | ActionModelConfig | LogMelConfig | MeanColourConfig,
    Field(discriminator="kind"),
]


class SpeechConfig(Settings):
    """Captions beside the video if there are any, else speech recognition by faster-whisper."""

    captions: bool = True
    """Use KEY.srt, .vtt or .ass beside the video, or the source's `captions` column."""
    recognise: bool = True
    """Recognise speech where there are no captions."""
    model: str = "tiny.en"
    """`tiny.en` from the registry, or the path of a faster-whisper (CTranslate2) model folder."""
    language: str | None = "en"
    """ISO code; null lets a multilingual model detect it."""
    beam_size: int = Field(1, ge=1, le=20)
    """Beam width of the decoder."""
    precision: Literal["int8", "float16", "float32"] = "int8"
    """Arithmetic of the recogniser."""
    max_no_speech: float = Field(0.6, gt=0, le=1)
    """Segments more likely to be no speech than this are dropped."""


class TextConfig(Settings):
    """One sentence-transformers vector a segment."""

    model: str = "all-MiniLM-L6-v2"
    """`all-MiniLM-L6-v2` from the registry, or the path of a sentence-transformers folder."""
    batch_size: int = Field(64, ge=1)
    """Sentences a forward pass, across videos."""
