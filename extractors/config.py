"""How decoding and each extractor are set. Which keys exist is here, what they do beside them."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from extractors.errors import UsageError
from extractors.settings import Settings

Precision = Literal["float32", "bfloat16", "float16"]


def _with_size(given: Any, model: type[Settings], size_of: Callable[[str], int]) -> Any:
    """Settings as given, `size` filled in where it is not."""
    if not isinstance(given, dict) or given.get("size") is not None:
        return given
    name = given.get("model", model.model_fields["model"].default)
    if not isinstance(name, str):
        return given
    try:
        return given | {"size": size_of(name)}
    except UsageError as err:
        raise ValueError(str(err)) from err


class DecodeConfig(Settings):
    """The ffmpeg child: one a video, killed at its deadline."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where video is decoded: `cuda` is NVDEC, and a worker that cannot have it stops the run;
    `auto` takes it on GPU workers where it works. A file that NVDEC cannot decode is decoded on the
    CPU, and its record says so."""
    threads: int = Field(1, ge=1, le=64)
    """Decoder threads of one child."""
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


class ImageModelConfig(Settings):
    """A 2D network, one row a frame (methods: MCN uses ResNet-152 at 1 frame/s)."""

    kind: Literal["image"] = "image"
    model: str = "efficientnet_lite0"
    """`efficientnet_lite0`, any torchvision image model, any timm model as `timm/NAME`, or a CLIP
    or SigLIP folder of transformers as `hf/FOLDER`; the papers' features use `resnet152`."""
    weights: str | None = None
    """A local state dict; by default the registry's file for this model (`pipeline weights`)."""
    rate: float = Field(1.0, gt=0, le=120)
    """Frames per second; the papers' features use 1."""
    size: int = Field(224, ge=32, le=2048)
    """Pixels of the short side (`fit: whole`) or of the square (`fit: crop`); by default what the
    model was trained on."""
    fit: Literal["crop", "whole"] = "crop"
    """`whole` keeps the full frame, as the features published with HowTo100M."""
    batch_size: int = Field(16, ge=1)
    """Frames a forward pass, across videos."""
    precision: Precision = "float32"
    """Arithmetic of the forward pass; rows are stored as float16."""

    @model_validator(mode="before")
    @classmethod
    def _own_size(cls, given: Any) -> Any:
        """The model's own size, so that the resolved configuration says what was used."""

        def size_of(model: str) -> int:
            from extractors.image_networks import image_facts  # loads torch: not for a bare --help

            return image_facts(model).size

        return _with_size(given, cls, size_of)


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
    model: str = "r2plus1d_18"
    """Any torchvision video model: r2plus1d_18, r3d_18, mc3_18, s3d, mvit_v2_s, swin3d_t …"""
    weights: str | None = None
    """A local state dict; by default torchvision's Kinetics-400 file (`pipeline weights`)."""
    rate: float = Field(24.0, gt=0, le=120)
    """Frames per second; MCN's features use 24."""
    window: int = Field(16, ge=1, le=256)
    """Frames a row; windows do not overlap, the last one is padded with black as in MCN."""
    size: int = Field(112, ge=32, le=1024)
    """Pixels of the centre crop's side; by default what the model was trained on."""
    batch_size: int = Field(8, ge=1)
    """Windows a forward pass, across videos."""
    precision: Precision = "float32"
    """Arithmetic of the forward pass; rows are stored as float16."""

    @model_validator(mode="before")
    @classmethod
    def _own_size(cls, given: Any) -> Any:
        """The model's own size, as for images."""

        def size_of(model: str) -> int:
            from extractors.action_model import action_facts

            return action_facts(model).size

        return _with_size(given, cls, size_of)


class ShotsConfig(Settings):
    """TransNet V2: how likely each frame is the last of a shot (`extractors.shots.cut_shots`)."""

    kind: Literal["shots"] = "shots"
    weights: str | None = None
    """A local state dict of TransNet V2; by default the registry's (`pipeline weights`)."""
    rate: float = Field(25.0, gt=0, le=120)
    """Frames per second; the network was trained at the videos' own 24 to 30."""
    batch_size: int = Field(1, ge=1)
    """Windows of 100 frames a forward pass, across videos."""


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


class PluginConfig(Settings):
    """An extractor of another distribution, by its entry point (docs/extractors.md)."""

    kind: Literal["plugin"] = "plugin"
    name: str
    """The entry point's name in the group `multimodal_clustering_pipeline.extractors`."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Keywords of its constructor."""


ExtractorConfig = Annotated[
    ImageModelConfig
    | MotionModelConfig
    | ShotsConfig
    | ActionModelConfig
    | LogMelConfig
    | MeanColourConfig
    | PluginConfig,
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
