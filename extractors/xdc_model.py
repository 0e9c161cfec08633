"""The encoders of an XDC run as extractors: the loop from raw video to features closes here.

Each takes exactly what it was trained on, as its file says: the same frames, or the same
spectrogram of as many seconds; the middle of the picture instead of a random cut, no flip.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from extractors.config import XdcAudioConfig, XdcVideoConfig
from extractors.errors import UsageError
from extractors.extractor import Blocks, Resources, TrackSpec
from extractors.log_mel import RATE, XDC_WINDOW, XdcLogMel
from extractors.torch_model import as_rows, forward, to_precision
from extractors.views import SoundView
from extractors.weights import weights_digest
from extractors.windows import Window, Windowing
from extractors.xdc_config import AudioEncoderConfig, xdc_view
from extractors.xdc_encoder_file import (
    load_audio_encoder,
    load_video_encoder,
    read_audio_config,
    read_video_config,
)

MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
"""Of pixels in 0..1: torchvision's for Kinetics, VMZ's too; what XDC had is not stated."""


class XdcVideo:
    """One row each `hop` seconds: the encoder's vector of the frames that begin there."""

    resources = Resources(gpus=0.25, memory_mb=1000)

    def __init__(self, config: XdcVideoConfig) -> None:
        self._config = config
        self._clip = read_video_config(Path(config.weights))
        self._network: nn.Module | None = None
        clip = self._clip
        step = round(config.hop * clip.rate)
        if step < 1:
            raise UsageError(
                f"extractors.*.hop = {config.hop}: at least a frame of {config.weights}, "
                f"{1 / clip.rate:.3g} seconds"
            )
        self.batch_size = config.batch_size
        # a step longer than a clip leaves frames out, which a window may not
        self.windowing = Windowing(size=max(clip.frames, step), step=step, tail="edge")
        self.view = xdc_view(clip)
        self.spec = TrackSpec(
            clip.widths[-1], config.dtype, start=clip.seconds / 2, hop=step / clip.rate, version=1
        )

    @property
    def weights_sha256(self) -> str:
        """Of the encoder's file."""
        return weights_digest("xdc", self._config.weights)

    def setup(self, device: torch.device) -> None:
        """Loads the encoder. Raises AbortError, UsageError."""
        network = load_video_encoder(Path(self._config.weights))
        self._device = device
        self._network = to_precision(network, device, self._config.precision)

    def extract(self, windows: Sequence[Window]) -> list[NDArray[np.float32]]:
        """(1, dim) a window."""
        assert self._network is not None, "extract before setup"
        clips = [middle(window.data[: self._clip.frames], self._clip.size) for window in windows]
        frames = torch.from_numpy(np.stack(clips)).to(self._device)
        rows = forward(self._network, normalise_frames(frames))
        return [row[None] for row in as_rows(rows, normalise=self._config.normalise)]

    def finish(self, blocks: Blocks) -> Blocks:
        """A row needs no other row."""
        return blocks

    def close(self) -> None:
        """Frees the encoder."""
        self._network = None


class XdcAudio:
    """One row each `hop` seconds: the encoder's vector of the sound that begins there."""

    resources = Resources(gpus=0.1, memory_mb=700)
    view = SoundView(RATE)

    def __init__(self, config: XdcAudioConfig) -> None:
        self._config = config
        self._heard = read_audio_config(Path(config.weights))
        self._mel = XdcLogMel(self._heard.mel)
        self._network: nn.Module | None = None
        mel_hop = round(self._heard.mel.hop * RATE)
        span, step = self._heard.rows * mel_hop, round(config.hop * RATE)
        if step > span:
            raise UsageError(
                f"extractors.*.hop = {config.hop}: at most the clip of {config.weights}, "
                f"{span / RATE:.3g} seconds; sound would be skipped"
            )
        self.batch_size = config.batch_size
        # the last row's window may end after its hop does
        self.windowing = Windowing(size=max(span, span - mel_hop + XDC_WINDOW), step=step)
        self._span = span
        self.spec = TrackSpec(
            self._heard.encoder.widths[-1], config.dtype, start=span / RATE / 2,
            hop=step / RATE, version=1,
        )  # fmt: skip

    @property
    def weights_sha256(self) -> str:
        """Of the encoder's file."""
        return weights_digest("xdc", self._config.weights)

    def setup(self, device: torch.device) -> None:
        """Loads the encoder. Raises AbortError, UsageError."""
        network = load_audio_encoder(Path(self._config.weights))
        self._device = device
        self._network = to_precision(network, device, self._config.precision)

    def extract(self, windows: Sequence[Window]) -> list[NDArray[np.float32]]:
        """(1, dim) a window."""
        assert self._network is not None, "extract before setup"
        clips = self._mel.extract([Window(window.data, self._span) for window in windows])
        # as the track lies in the shards that the encoder was trained on
        mel = torch.from_numpy(np.stack(clips).astype(np.float16)).to(self._device)
        inputs = normalise_mel(mel.transpose(1, 2), self._heard.encoder)
        rows = forward(self._network, inputs)
        return [row[None] for row in as_rows(rows, normalise=self._config.normalise)]

    def finish(self, blocks: Blocks) -> Blocks:
        """A row needs no other row."""
        return blocks

    def close(self) -> None:
        """Frees the encoder."""
        self._network = None


def middle(frames: NDArray[np.generic], size: int) -> NDArray[np.generic]:
    """(T, size, size, 3), the centre of (T, H, W, 3)."""
    top, left = (frames.shape[1] - size + 1) // 2, (frames.shape[2] - size + 1) // 2
    return frames[:, top : top + size, left : left + size]


def normalise_frames(frames: Tensor) -> Tensor:
    """uint8 (N, T, H, W, 3) to what a video encoder takes: float32 (N, 3, T, H, W)."""
    mean = torch.tensor(MEAN, device=frames.device)
    std = torch.tensor(STD, device=frames.device)
    return ((frames.float() / 255 - mean) / std).permute(0, 4, 1, 2, 3)


def normalise_mel(mel: Tensor, config: AudioEncoderConfig) -> Tensor:
    """Log-mel (N, bands, rows) to what an audio encoder takes: float32 (N, 1, bands, rows)."""
    return ((mel.float() - config.mean) / config.std)[:, None]
