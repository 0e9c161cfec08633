"""How each extractor is set. Which keys exist is here, what they do beside them."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from extractors.errors import UsageError
from extractors.settings import Settings
from extractors.xdc_run import encoder_file

Precision = Literal["float32", "bfloat16", "float16"]
StoredDtype = Literal["float16", "float32"]


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
    """Arithmetic of the forward pass."""
    normalise: bool = True
    """Rows of length 1, as the papers' features."""
    dtype: StoredDtype = "float16"
    """How rows are stored; the papers' features are float16."""

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
    """A 3D network, one row a window of frames (the papers: 16 at 24 a second, so 1.5 rows)."""

    kind: Literal["action"] = "action"
    model: str = "r2plus1d_18"
    """Any torchvision video model (r2plus1d_18, r3d_18, mc3_18, s3d, mvit_v2_s, swin3d_t …), or
    `resnext101_3d`, the papers' 3D ResNeXt-101."""
    weights: str | None = None
    """A local state dict; by default torchvision's Kinetics-400 file (`pipeline weights`).
    `resnext101_3d` has no default: it reads the checkpoints that were published with HowTo100M's
    features and with 3D-ResNets-PyTorch (`resnext-101-kinetics.pth`)."""
    rate: float = Field(24.0, gt=0, le=120)
    """Frames per second; MCN's features use 24."""
    window: int = Field(16, ge=1, le=256)
    """Frames a row; windows do not overlap, the last one is padded with black as in MCN."""
    size: int = Field(112, ge=32, le=1024)
    """Pixels of the centre crop's side; by default what the model was trained on."""
    batch_size: int = Field(8, ge=1)
    """Windows a forward pass, across videos."""
    precision: Precision = "float32"
    """Arithmetic of the forward pass."""
    normalise: bool = True
    """Rows of length 1, as the papers' features."""
    dtype: StoredDtype = "float16"
    """How rows are stored; the papers' features are float16."""

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


FRONT_END_HOPS = {"mcn": 0.01, "xdc": 0.02}


class LogMelConfig(Settings):
    """Log-mel spectrograms, as MCN or as XDC takes them; no weights."""

    kind: Literal["log_mel"] = "log_mel"
    front_end: Literal["mcn", "xdc"] = "mcn"
    """`mcn`: 25 ms windows, dB below the file's loudest bin. `xdc`: 16 ms windows, the logarithm of
    the power itself, so that a clip's rows do not depend on the rest of its file."""
    bands: int = Field(40, ge=8, le=256)
    """Mel bands up to 8 kHz (the papers: 40); MCN's start at 20 Hz, XDC's at 0."""
    hop: float = Field(0.01, ge=0.001, le=0.1)
    """Seconds from row to row. MCN's is 0.01. XDC's default is 0.02, which makes its 100 rows 2 s;
    whether the paper stretched them so is not verified (the library of the same group has 0.01)."""
    floor_db: float = Field(-80.0, lt=0)
    """MCN: the quietest value kept, in dB below the loudest bin of the whole file."""

    @model_validator(mode="before")
    @classmethod
    def _own_hop(cls, given: Any) -> Any:
        """The front end's own hop, so that the resolved configuration says what was used."""
        if not isinstance(given, dict) or given.get("hop") is not None:
            return given
        front_end = given.get("front_end", "mcn")
        known = isinstance(front_end, str) and front_end in FRONT_END_HOPS
        return given | {"hop": FRONT_END_HOPS[front_end]} if known else given

    @model_validator(mode="after")
    def _mcn_has_one_hop(self) -> "LogMelConfig":
        if self.front_end == "mcn" and self.hop != FRONT_END_HOPS["mcn"]:
            raise ValueError(
                f"hop = {self.hop}: front_end mcn has 0.01; others need front_end: xdc"
            )
        return self


class OnnxAudioConfig(Settings):
    """A sound tagger or encoder as one .onnx file, of YAMNet's layout; run by onnxruntime."""

    kind: Literal["onnx_audio"] = "onnx_audio"
    weights: str
    """The .onnx file, its weights inside: one input, sound at 16 kHz in -1..1 (`(samples,)` or
    `(batch, samples)`) or log-mel patches (`(batch, 96, 64)`, also with an axis of length 1)."""
    input: Literal["waveform", "yamnet_patch"] = "waveform"
    """What the graph takes: sound, or YAMNet's log-mel patches, which are then made here."""
    output: str | None = None
    """The graph's output that becomes the row (YAMNet's scores, or its embedding); by default its
    first. Several rows of one window are averaged."""
    window: float = Field(0.975, gt=0, le=60)
    """Seconds of sound a row, the last ones padded with silence; YAMNet's patch takes 0.975."""
    hop: float = Field(0.48, gt=0, le=60)
    """Seconds from row to row; YAMNet's is 0.48. At most `window`."""
    batch_size: int = Field(16, ge=1)
    """Windows a run of the graph, across videos, where the graph takes batches."""
    normalise: bool = False
    """Rows of length 1: for embeddings, not for scores."""
    dtype: StoredDtype = "float16"
    """How rows are stored."""

    @model_validator(mode="after")
    def _windows_leave_no_gap(self) -> "OnnxAudioConfig":
        return check_hop(self)


class AudioModelConfig(Settings):
    """An audio encoder of transformers from a folder: AST, wav2vec2, HuBERT, WavLM, CLAP …"""

    kind: Literal["audio_model"] = "audio_model"
    weights: str
    """A folder with config.json, preprocessor_config.json and safetensors, as `save_pretrained`
    writes it; its own feature extractor is used, at its own sampling rate."""
    pool: Literal["auto", "mean", "cls"] = "auto"
    """`mean`: over the encoder's time steps. `cls`: the summary that the model itself offers (AST's
    pooled tokens, CLAP's embedding). `auto`: `cls` where there is one, else `mean`."""
    window: float = Field(2.0, gt=0, le=60)
    """Seconds of sound a row, the last ones padded with silence."""
    hop: float = Field(1.0, gt=0, le=60)
    """Seconds from row to row. At most `window`."""
    batch_size: int = Field(8, ge=1)
    """Windows a forward pass, across videos."""
    precision: Precision = "float32"
    """Arithmetic of the forward pass."""
    normalise: bool = True
    """Rows of length 1."""
    dtype: StoredDtype = "float16"
    """How rows are stored."""

    @model_validator(mode="after")
    def _windows_leave_no_gap(self) -> "AudioModelConfig":
        return check_hop(self)


def _of_run(given: Any, name: str) -> Any:
    """Settings as given, `run` turned into the file of its encoder, which is what counts."""
    if not isinstance(given, dict) or given.get("run") is None:
        return given
    if given.get("weights") is not None:
        raise ValueError(f"run = {given['run']}, weights = {given['weights']}: give one of them")
    return given | {"run": None, "weights": encoder_file(str(given["run"]), name)}


class XdcVideoConfig(Settings):
    """The video encoder of an XDC run (`run train --method xdc`), one row a clip of frames."""

    kind: Literal["xdc_video"] = "xdc_video"
    run: str | None = None
    """The folder of the run, on this machine; short for `weights` with the video encoder that the
    run's card names now, and null in a resolved configuration."""
    weights: str
    """The encoder's file: of a run, or a published one (r2plus1d_18_xdc_*.pth), which takes the
    paper's clips, 8 frames at 30 a second."""
    hop: float = Field(1.0, gt=0, le=60)
    """Seconds from row to row, rounded to whole frames."""
    batch_size: int = Field(8, ge=1)
    """Clips a forward pass, across videos."""
    precision: Precision = "float32"
    """Arithmetic of the forward pass."""
    normalise: bool = True
    """Rows of length 1, as MCN's features."""
    dtype: StoredDtype = "float16"
    """How rows are stored."""

    @model_validator(mode="before")
    @classmethod
    def _own_file(cls, given: Any) -> Any:
        return _of_run(given, "video")


class XdcAudioConfig(Settings):
    """The audio encoder of an XDC run (`run train --method xdc`), one row a clip of sound."""

    kind: Literal["xdc_audio"] = "xdc_audio"
    run: str | None = None
    """The folder of the run, on this machine; short for `weights` with the audio encoder that the
    run's card names now, and null in a resolved configuration."""
    weights: str
    """The encoder's file."""
    hop: float = Field(1.0, gt=0, le=60)
    """Seconds from row to row. At most the seconds that the encoder takes."""
    batch_size: int = Field(16, ge=1)
    """Clips a forward pass, across videos."""
    precision: Precision = "float32"
    """Arithmetic of the forward pass."""
    normalise: bool = True
    """Rows of length 1."""
    dtype: StoredDtype = "float16"
    """How rows are stored."""

    @model_validator(mode="before")
    @classmethod
    def _own_file(cls, given: Any) -> Any:
        return _of_run(given, "audio")


SoundWindows = TypeVar("SoundWindows", OnnxAudioConfig, AudioModelConfig)


def check_hop(config: SoundWindows) -> SoundWindows:
    """Gives the settings back. Raises ValueError where windows would skip sound."""
    if config.hop > config.window:
        raise ValueError(f"hop = {config.hop}: at most window = {config.window}; sound is skipped")
    return config


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
    | OnnxAudioConfig
    | AudioModelConfig
    | XdcVideoConfig
    | XdcAudioConfig
    | MeanColourConfig
    | PluginConfig,
    Field(discriminator="kind"),
]
