"""Settings of XDC's two encoders: the networks, and the clips that they take.

They are part of a training's settings and are kept in the encoders' files, so that an extractor
gives an encoder what it was trained on. Light: nothing is loaded here.
"""

from typing import Annotated, TypeVar

from pydantic import Field, model_validator

from extractors.config import LogMelConfig
from extractors.settings import Settings
from extractors.views import FrameView

Width = Annotated[int, Field(ge=1)]
EncoderConfig = TypeVar("EncoderConfig", "VideoEncoderConfig", "AudioEncoderConfig")


class VideoEncoderConfig(Settings):
    """R(2+1)D over short clips of frames."""

    widths: tuple[Width, ...] = Field(default=(64, 128, 256, 512), min_length=1)
    """Channels of the residual stages; each but the first halves time, height and width, and the
    last is the size of the vector (paper: 64, 128, 256, 512)."""
    blocks: tuple[Width, ...] = Field(default=(2, 2, 2, 2), min_length=1)
    """Residual blocks of each stage (paper: 2, 2, 2, 2, which is R(2+1)D-18)."""
    norm_momentum: float = Field(default=0.1, gt=0, le=1)
    """Weight of a new batch in batch norm's running statistics, torch's convention (XDC's code says
    0.9, which in Caffe2's convention is torch's 0.1)."""
    frames: int = Field(default=8, ge=1, le=256)
    """Frames of a clip (paper: 8 in pre-training, 32 in the final comparison)."""
    rate: float = Field(default=12.0, gt=0, le=60)
    """Frames per second (paper: 30; 12 is what proxies hold by default)."""
    short_side: int = Field(default=128, ge=16, le=1024)
    """Pixels to which the short side is scaled (paper: 256)."""
    size: int = Field(default=112, ge=16, le=1024)
    """Pixels of the square that is cut from it (paper: 224)."""

    @property
    def seconds(self) -> float:
        """Of a clip."""
        return self.frames / self.rate

    @model_validator(mode="after")
    def _fits(self) -> "VideoEncoderConfig":
        if self.size > self.short_side:
            raise ValueError(f"size = {self.size}: at most short_side = {self.short_side}")
        return check_stages(self)


def xdc_view(config: VideoEncoderConfig) -> FrameView:
    """The frames that a video encoder sees of a video's own file: the colour is that of proxies, so
    that an encoder which was trained on these is given what it knows."""
    return FrameView(config.rate, config.short_side, config.short_side, "whole", chroma="half")


class AudioEncoderConfig(Settings):
    """A ResNet over log-mel spectrograms, taken as pictures of one channel."""

    widths: tuple[Width, ...] = Field(default=(64, 128, 256, 512), min_length=1)
    """Channels of the residual stages; each but the first halves both axes, and the last is the
    size of the vector (paper: ResNet-18, so 64, 128, 256, 512)."""
    blocks: tuple[Width, ...] = Field(default=(2, 2, 2, 2), min_length=1)
    """Residual blocks of each stage (paper: 2, 2, 2, 2)."""
    seconds: float = Field(default=2.0, gt=0, le=60)
    """Of sound in a clip (paper: 2, which are 100 rows at a hop of 20 ms)."""
    mean: float = 12.5
    """Subtracted from the log-mel. The paper's is unknown; measured on the demo's videos."""
    std: float = Field(default=6.5, gt=0)
    """Divided by after that; measured as the mean was."""

    @model_validator(mode="after")
    def _fits(self) -> "AudioEncoderConfig":
        return check_stages(self)


class HeardConfig(Settings):
    """What an audio encoder's file says: the encoder, and the spectrograms it was trained on."""

    encoder: AudioEncoderConfig
    """The network and its clips."""
    mel: LogMelConfig
    """The front end."""

    @property
    def rows(self) -> int:
        """Of spectrogram in a clip."""
        return mel_rows(self.encoder.seconds, self.mel.hop)


def mel_rows(seconds: float, hop: float) -> int:
    """Rows of a clip of sound: at least one."""
    return max(1, round(seconds / hop))


def check_stages(config: EncoderConfig) -> EncoderConfig:
    """Gives the settings back. Raises ValueError where stages are not as many as widths."""
    if len(config.blocks) != len(config.widths):
        raise ValueError(
            f"blocks = {list(config.blocks)}: one a stage, as many as widths {list(config.widths)}"
        )
    return config
