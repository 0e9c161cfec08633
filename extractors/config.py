"""How decoding and each extractor are set. Which keys exist is here, what they do beside them."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

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


class SpeechConfig(Settings):
    """Captions of the video if there are any, else speech recognition by faster-whisper."""

    captions: bool = True
    """Use captions: those that the source's `captions` column names, else files beside the video
    (.srt, .vtt, .ass, .ssa, yt-dlp's KEY.LANG.vtt and KEY.info.json), else `caption_table`, else a
    subtitle stream inside the video."""
    caption_language: str | None = None
    """The captions to use, by language (`en`; `en-GB` and `eng` are the same); others are passed
    over, those that name no language are a last choice. Null takes any. In each language, captions
    made by hand come before automatic ones where their name tells."""
    caption_table: str | None = None
    """A local JSON file with the captions of many videos, as HowTo100M publishes them
    (`{id: {start: [], end: [], text: []}}`, the id being the video's file name without suffix, or
    its key). It is indexed once for each machine; the index (.sqlite) may be given in its place."""
    embedded_captions: bool = True
    """Use subtitle streams inside the video. Each reads the file once more; streams of pictures
    (DVD, Blu-ray) cannot be used."""
    recognise: bool = True
    """Recognise speech where there are no captions."""
    model: str = "tiny.en"
    """`tiny.en` from the registry, or the path of a faster-whisper (CTranslate2) model folder."""
    language: str | None = "en"
    """ISO code; null lets a multilingual model detect it, for every ten minutes of sound."""
    beam_size: int = Field(1, ge=1, le=20)
    """Beam width of the decoder."""
    batch_size: int | None = Field(None, ge=1, le=256)
    """Stretches of speech (up to 30 s) recognised together: for GPUs, no gain on one CPU core, and
    words can be lost where stretches meet. Null recognises one after the other."""
    precision: Literal["int8", "float16", "float32"] = "int8"
    """Arithmetic of the recogniser."""
    word_times: bool = False
    """Also give each word's start and end; recognition takes about a third longer."""
    max_no_speech: float = Field(0.6, gt=0, le=1)
    """Segments more likely to be no speech than this are dropped; 1 keeps all."""
    max_compression: float | None = Field(2.4, gt=0)
    """Segments whose text gzip shrinks by more than this are dropped: they repeat themselves.
    Whisper's own bound is 2.4. Null keeps all."""
    min_log_probability: float | None = Field(-1.0, le=0)
    """Segments whose tokens have a lower mean log probability are dropped: the recogniser guessed.
    Whisper's own bound is -1. Null keeps all."""
    max_repeats: int | None = Field(3, ge=1)
    """Of segments with the same text one after the other, only so many are kept: a recogniser that
    is stuck says one line for minutes. Null keeps all."""

    @field_validator("caption_language")
    @classmethod
    def _is_a_language(cls, value: str | None) -> str | None:
        if value is not None:
            import langcodes  # not for a bare --help

            if not langcodes.tag_is_valid(value):
                raise ValueError("not a language tag, as `en` or `pt-BR` are")
        return value


class TextConfig(Settings):
    """One sentence-transformers vector a segment."""

    kind: Literal["sentences"] = "sentences"
    model: str = "all-MiniLM-L6-v2"
    """`all-MiniLM-L6-v2` from the registry, or the path of a sentence-transformers folder."""
    batch_size: int = Field(64, ge=1)
    """Sentences a forward pass, across videos."""


class WordVectorsConfig(Settings):
    """word2vec's vectors, one a word: the papers' text (GoogleNews, 300 columns)."""

    kind: Literal["words"] = "words"
    vectors: str
    """A local file of word vectors in word2vec's formats: binary if it ends in .bin or .bin.gz,
    else text with a header line (.txt, .vec, .gz)."""
    max_words: int = Field(20, ge=1, le=1000)
    """Words kept of a segment, counted after those without a vector are dropped; MCN takes 20 of a
    clip."""
    vocabulary: int | None = Field(None, ge=1)
    """Read only so many words, from the file's first on (the files have frequent words first).
    GoogleNews has 3 million, which take 2 GB of memory in each worker. Null reads all."""


def _text_kind(given: Any) -> Any:
    """`sentences` where nothing is said: configurations that are older than word vectors."""
    if isinstance(given, dict):
        return given.get("kind", "sentences")
    return getattr(given, "kind", None)


TextChoice = Annotated[
    Annotated[TextConfig, Tag("sentences")] | Annotated[WordVectorsConfig, Tag("words")],
    Discriminator(_text_kind),
]
