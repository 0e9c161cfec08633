"""Log-mel spectrograms: MCN's front end and XDC's, one row a hop.

MCN (Multimodal Clustering Networks, after DAVEnet):

    waveform − its mean ▸ y[t] − 0.97 y[t−1] ▸ 25 ms Hamming, 10 ms hop, power ▸ 40 mel bands
    (Slaney, 20 Hz to 8 kHz) ▸ dB below the loudest bin of the file, floor −80

The mean and the loudest bin need the whole file, the rest does not, so that a sound of any length
is streamed: rows leave `extract` as mel powers and are finished once the file has ended. A mean m
adds the constant −0.03 m to the pre-emphasised signal; under a Hamming window of the transform's
own length a constant touches the Fourier bins 0 and ±1 only, so it is enough to carry bin 1 along
and to correct it at the end (bin 0 has no weight: 20 Hz is above it). Exact but for the two rows at
either end of the file, whose windows reach beyond it; there it is a full window's correction.

XDC (Cross-Modal Audio-Video Clustering; its paper's audio code was not released, this is the front
end of its group's library, VMZ):

    16 ms symmetric Hann windows, not centred, power of 256 bins ▸ 40 bands of unit sum, 0 to 8 kHz,
    mel = 1127 ln(1 + f / 700), each flank at least one bin wide ▸ x = 1.08e9 power ▸ ln x above e,
    x / e below

A row needs its own 16 ms only. 100 rows are one of XDC's clips: 2 s at a hop of 20 ms. VMZ itself
has 10 ms and leaves out the last bin of each band; where the two differ this follows the text.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.config import LogMelConfig
from extractors.extractor import Blocks, Resources, TrackSpec
from extractors.views import SoundView
from extractors.windows import Window, Windowing

RATE = 16_000
WINDOW = 400
HOP = 160
BLOCK = 1000  # rows of one window: bounds memory, changes no number
PRE_EMPHASIS = 0.97
MIN_POWER = 1e-10
XDC_WINDOW = 256
XDC_GAIN = 1080674186.3482928


def log_mel(config: LogMelConfig) -> "LogMel | XdcLogMel":
    """The front end that the settings name."""
    return XdcLogMel(config) if config.front_end == "xdc" else LogMel(config)


class LogMel:
    """MCN's: one row each 10 ms: dB below the loudest bin of the file."""

    batch_size = 1
    resources = Resources(memory_mb=200)
    weights_sha256 = None
    view = SoundView(RATE)
    # half a window on both sides of each row's centre, one sample more for the pre-emphasis
    windowing = Windowing(size=1 + WINDOW // 2 + BLOCK * HOP + WINDOW // 2, step=BLOCK * HOP,
                          before=1 + WINDOW // 2)  # fmt: skip

    def __init__(self, config: LogMelConfig) -> None:
        self._config = config
        self._filters = mel_filters(config.bands)
        self.spec = TrackSpec(config.bands, "float16", start=0.0, hop=HOP / RATE, version=1)

    def setup(self, device: torch.device) -> None:
        """Nothing to load; a transform this small runs where the sound is, on the CPU."""

    def extract(self, windows: Sequence[Window]) -> list[NDArray[np.float32]]:
        """(n, bands + 3): mel powers without bin 1, bin 1 (re, im), sum of the row's samples."""
        return [self._block(window) for window in windows]

    def _block(self, window: Window) -> NDArray[np.float32]:
        num_rows = -(-window.num_own // HOP)
        samples = window.data.astype(np.float32) / 32768
        emphasised = samples[1:] - np.float32(PRE_EMPHASIS) * samples[:-1]
        if window.num_own < self.windowing.step:  # the file ends here, and so does its emphasis
            emphasised[self.windowing.before + window.num_own - 1] = 0
        frames = np.lib.stride_tricks.sliding_window_view(emphasised, WINDOW)[::HOP][:num_rows]
        spectrum = np.fft.rfft(frames * hamming(), axis=1).astype(np.complex64)
        power = np.abs(spectrum) ** 2
        first = spectrum[:, 1]
        power[:, 1] = 0
        own = samples[self.windowing.before :][: num_rows * HOP]
        sums = np.pad(own, (0, num_rows * HOP - len(own))).reshape(num_rows, HOP).sum(axis=1)
        columns = (power @ self._filters.T, np.stack([first.real, first.imag, sums], axis=1))
        rows: NDArray[np.float32] = np.concatenate(columns, axis=1, dtype=np.float32)
        return rows

    def finish(self, blocks: Blocks) -> Blocks:
        """(T, bands) dB in [floor, 0]."""
        total = sum(block[:, -1].sum(dtype=np.float64) for block in blocks)
        mean = total / max(1, sum(len(block) for block in blocks) * HOP)
        constant = mean * (1 - PRE_EMPHASIS) * np.fft.rfft(hamming())[1]
        loudest = max((float(self._powers(block, constant).max()) for block in blocks), default=0.0)
        for block in blocks:
            yield to_decibels(self._powers(block, constant), loudest, self._config.floor_db)

    def _powers(self, block: NDArray[np.float32], constant: complex) -> NDArray[np.float32]:
        """(n, bands): with bin 1, of which the spectrum of the file's mean is taken off."""
        bin_1 = np.abs(block[:, -3] + 1j * block[:, -2] - constant) ** 2
        powers: NDArray[np.float32] = (
            block[:, :-3] + bin_1[:, None].astype(np.float32) * self._filters[:, 1]
        )
        return powers

    def close(self) -> None:
        """Nothing to free."""


class XdcLogMel:
    """XDC's: one row a hop, the logarithm of the bands' power."""

    batch_size = 1
    resources = Resources(memory_mb=200)
    weights_sha256 = None
    view = SoundView(RATE)

    def __init__(self, config: LogMelConfig) -> None:
        self._hop = round(config.hop * RATE)
        self._filters = htk_filters(config.bands)
        # the last row's window may end before its hop does: no sound may be left out between
        size = max(BLOCK * self._hop, (BLOCK - 1) * self._hop + XDC_WINDOW)
        self.windowing = Windowing(size=size, step=BLOCK * self._hop)
        centre, hop = XDC_WINDOW / 2 / RATE, self._hop / RATE
        self.spec = TrackSpec(config.bands, "float16", start=centre, hop=hop, version=1)

    def setup(self, device: torch.device) -> None:
        """Nothing to load."""

    def extract(self, windows: Sequence[Window]) -> list[NDArray[np.float32]]:
        """(n, bands): as many rows as hops begin in the window."""
        return [self._block(window) for window in windows]

    def _block(self, window: Window) -> NDArray[np.float32]:
        num_rows = -(-window.num_own // self._hop)
        samples = window.data.astype(np.float32) / 32768
        frames = np.lib.stride_tricks.sliding_window_view(samples, XDC_WINDOW)
        spectrum = np.fft.rfft(frames[:: self._hop][:num_rows] * np.hanning(XDC_WINDOW), axis=1)
        loudness = np.abs(spectrum) ** 2 @ self._filters.T * XDC_GAIN
        logarithm = np.log(np.maximum(loudness, np.e))
        return np.where(loudness > np.e, logarithm, loudness / np.e).astype(np.float32)

    def finish(self, blocks: Blocks) -> Blocks:
        """A row needs no other row."""
        return blocks

    def close(self) -> None:
        """Nothing to free."""


def hamming() -> NDArray[np.float32]:
    """The periodic Hamming window of 25 ms."""
    phase = 2 * np.pi * np.arange(WINDOW) / WINDOW
    window: NDArray[np.float32] = (0.54 - 0.46 * np.cos(phase)).astype(np.float32)
    return window


def to_decibels(
    powers: NDArray[np.float32], loudest: float, floor_db: float
) -> NDArray[np.float32]:
    """10 log10(power / loudest), clipped at the floor (librosa's power_to_db with ref=max)."""
    reference = 10 * np.log10(max(loudest, MIN_POWER))
    decibels = 10 * np.log10(np.maximum(powers, MIN_POWER)) - reference
    clipped: NDArray[np.float32] = np.maximum(decibels, floor_db).astype(np.float32)
    return clipped


def mel_filters(bands: int, low: float = 20.0, high: float = RATE / 2) -> NDArray[np.float32]:
    """(bands, WINDOW // 2 + 1) triangles of unit area on Slaney's mel scale."""
    edges = mel_to_hertz(np.linspace(hertz_to_mel(low), hertz_to_mel(high), bands + 2))
    bins = np.arange(WINDOW // 2 + 1) * RATE / WINDOW
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def hertz_to_mel(hertz: float) -> float:
    """Slaney's scale: linear to 1 kHz (15 mel), logarithmic above."""
    if hertz < 1000:
        return hertz * 3 / 200
    return float(15 + 27 * np.log(hertz / 1000) / np.log(6.4))


def mel_to_hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `hertz_to_mel`."""
    return np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))


def htk_filters(bands: int) -> NDArray[np.float64]:
    """(bands, XDC_WINDOW // 2 + 1) triangles of unit sum on HTK's mel scale, 0 to 8 kHz."""
    top = 1127 * np.log(1 + RATE / 2 / 700)
    edges = 700 * (np.exp(np.linspace(0, top, bands + 2) / 1127) - 1) * XDC_WINDOW / RATE  # in bins
    start, middle, end = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    distance = np.arange(XDC_WINDOW // 2 + 1) - middle
    flank = np.where(distance < 0, middle - start, end - middle)
    triangles = np.maximum(0, 1 - np.abs(distance) / np.maximum(1, flank))
    found: NDArray[np.float64] = triangles / triangles.sum(axis=1, keepdims=True)
    return found
