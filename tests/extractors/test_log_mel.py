"""Both streamed log-mel front ends against librosa on the whole sound."""

import librosa
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from extractors.config import LogMelConfig
from extractors.log_mel import (
    BLOCK,
    HOP,
    RATE,
    WINDOW,
    XDC_GAIN,
    XDC_WINDOW,
    LogMel,
    htk_filters,
    log_mel,
    mel_filters,
)
from extractors.windows import WindowCutter

SECONDS_OF_BLOCK = BLOCK * HOP / RATE


def streamed(samples, chunk=50_000, **settings):
    """The track of int16 samples that arrive in chunks."""
    extractor = log_mel(LogMelConfig(**settings))
    extractor.setup(torch.device("cpu"))
    cutter = WindowCutter(extractor.windowing)
    windows = [window for first in range(0, len(samples), chunk)
               for window in cutter.push(samples[first : first + chunk])]  # fmt: skip
    windows += cutter.finish()
    blocks = [extractor.extract([window])[0] for window in windows]
    return np.concatenate(list(extractor.finish(blocks)))


def by_librosa(samples, bands=40):
    """The recipe on a whole sound: mean removed, pre-emphasis, power, mel, dB below the loudest."""
    sound = samples.astype(np.float64) / 32768
    sound = sound - sound.mean()
    sound = np.append(sound[0], sound[1:] - 0.97 * sound[:-1])
    spectrum = librosa.stft(sound, n_fft=WINDOW, hop_length=HOP, window="hamming", center=True,
                            pad_mode="constant")  # fmt: skip
    filters = librosa.filters.mel(sr=RATE, n_fft=WINDOW, n_mels=bands, fmin=20)
    return librosa.power_to_db(filters @ np.abs(spectrum) ** 2, ref=np.max).T


def speech_like(seconds, seed=0, offset=0.0):
    """Bursts of coloured noise and a gliding tone, int16."""
    rng = np.random.default_rng((seed, 0))
    t = np.arange(round(seconds * RATE)) / RATE
    noise = np.cumsum(rng.normal(size=len(t))) * 0.002
    noise -= np.linspace(noise[0], noise[-1], len(t))
    envelope = np.clip(np.sin(2 * np.pi * 1.3 * t), 0, 1)
    tone = np.sin(2 * np.pi * (300 * t + 200 * t**2 / max(1, seconds)))
    sound = 0.2 * envelope * tone + 0.1 * np.clip(noise, -1, 1) * envelope
    return np.round(np.clip(sound - sound.mean() + offset, -1, 1) * 32767).astype(np.int16)


@pytest.mark.parametrize("seconds", [0.3, 3.217, 2.5 * SECONDS_OF_BLOCK])
def test_agrees_with_librosa(seconds):
    samples = speech_like(seconds)
    rows = streamed(samples)
    expected = by_librosa(samples)[: len(rows)]
    assert len(rows) == -(-len(samples) // HOP)
    np.testing.assert_allclose(rows, expected, atol=0.05)  # float32 sums at -80 dB


@pytest.mark.parametrize("offset", [0.3, -0.1])
def test_a_constant_offset_is_removed(offset):
    samples = speech_like(3.0, offset=offset)
    rows, expected = streamed(samples), by_librosa(samples)
    # two rows at each end reach beyond the file, where no mean should be taken off
    np.testing.assert_allclose(rows[2:-2], expected[2 : len(rows) - 2], atol=0.05)


@pytest.mark.parametrize("chunk", [1_000, 7_777, 160_001])
def test_the_chunks_do_not_matter(chunk):
    samples = speech_like(2 * SECONDS_OF_BLOCK + 0.333)
    np.testing.assert_array_equal(streamed(samples, chunk), streamed(samples, 10**7))


def test_row_i_is_centred_on_its_time():
    samples = np.zeros(RATE, np.int16)
    samples[8000:8003] = 20_000
    loudest = streamed(samples).mean(axis=1).argmax()
    spec = LogMel(LogMelConfig()).spec
    assert spec.start + loudest * spec.hop == pytest.approx(8001 / RATE, abs=spec.hop / 2)


def test_silence_is_zero_decibels_of_nothing():
    rows = streamed(np.zeros(RATE, np.int16))
    np.testing.assert_allclose(rows, np.zeros((100, 40)), atol=1e-4)  # as power_to_db does


def test_values_lie_between_the_floor_and_zero():
    rows = streamed(speech_like(2.0), floor_db=-40.0)
    assert rows.min() == pytest.approx(-40)
    assert rows.max() == pytest.approx(0, abs=1e-4)
    assert rows.dtype == np.float32


@pytest.mark.parametrize("bands", [40, 64])
def test_filters_are_librosas(bands):
    expected = librosa.filters.mel(sr=RATE, n_fft=WINDOW, n_mels=bands, fmin=20)
    np.testing.assert_allclose(mel_filters(bands), expected, atol=1e-6)


def by_librosa_as_xdc(samples, hop):
    """The recipe on a whole sound that is as long as its last row needs."""
    num_rows = -(-len(samples) // hop)
    sound = np.zeros((num_rows - 1) * hop + XDC_WINDOW)
    kept = min(len(samples), len(sound))
    sound[:kept] = samples[:kept] / 32768
    spectrum = librosa.stft(sound, n_fft=XDC_WINDOW, hop_length=hop, center=False,
                            window=np.hanning(XDC_WINDOW))  # fmt: skip
    x = filters_written_plainly(40) @ np.abs(spectrum) ** 2 * XDC_GAIN
    return np.array([[np.log(v) if v > np.e else v / np.e for v in row] for row in x]).T


def filters_written_plainly(bands):
    """VMZ's loops over bands and bins, at the bins' true frequencies."""
    top = 1127 * np.log(1 + 8000 / 700)
    points = [700 * (np.exp(top * k / (bands + 1) / 1127) - 1) / 62.5 for k in range(bands + 2)]
    filters = np.zeros((bands, 129))
    for band in range(bands):
        start, middle, end = points[band : band + 3]
        for i in range(129):
            width = max(1.0, middle - start) if i < middle else max(1.0, end - middle)
            filters[band, i] = max(0, 1 - abs(i - middle) / width)
        filters[band] /= filters[band].sum()
    return filters


@pytest.mark.parametrize("hop", [0.01, 0.02, 0.0125])
@pytest.mark.parametrize("seconds", [0.005, 0.3, 3.217, 1.3 * SECONDS_OF_BLOCK])
def test_xdc_agrees_with_librosa(seconds, hop):
    samples = speech_like(seconds)
    rows = streamed(samples, front_end="xdc", hop=hop)
    expected = by_librosa_as_xdc(samples, round(hop * RATE))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected, atol=2e-3)  # float32 samples, logarithms up to 20


def test_xdcs_wide_bands_are_librosas():
    """Where a band's flanks are wider than a bin, VMZ's bands are HTK's, of unit sum."""
    expected = librosa.filters.mel(sr=RATE, n_fft=XDC_WINDOW, n_mels=40, fmin=0, fmax=8000,
                                   htk=True, norm=1)  # fmt: skip
    np.testing.assert_allclose(htk_filters(40)[20:], expected[20:], atol=1e-6)
    np.testing.assert_allclose(htk_filters(40).sum(axis=1), 1, atol=1e-12)


def test_100_rows_of_xdc_are_two_seconds():
    config = LogMelConfig(front_end="xdc")
    assert (config.hop, config.bands) == (0.02, 40)
    spec = log_mel(config).spec
    assert spec.hop * 100 == pytest.approx(2)
    assert len(streamed(speech_like(2.0), front_end="xdc")) == 100


def test_an_xdc_row_is_centred_on_its_time():
    samples = np.zeros(RATE, np.int16)
    samples[8000:8003] = 20_000
    loudest = streamed(samples, front_end="xdc", hop=0.01).mean(axis=1).argmax()
    spec = log_mel(LogMelConfig(front_end="xdc", hop=0.01)).spec
    assert spec.start + loudest * spec.hop == pytest.approx(8001 / RATE, abs=spec.hop / 2 + 1e-9)


@pytest.mark.parametrize("chunk", [1_000, 7_777])
def test_the_chunks_do_not_matter_to_xdc(chunk):
    samples = speech_like(1.2 * SECONDS_OF_BLOCK)
    found = streamed(samples, chunk, front_end="xdc")
    np.testing.assert_array_equal(found, streamed(samples, 10**7, front_end="xdc"))


def test_mcn_has_one_hop():
    with pytest.raises(ValidationError, match=r"front_end mcn has 0.01"):
        LogMelConfig(hop=0.02)
    with pytest.raises(ValidationError, match="front_end"):
        LogMelConfig(front_end="vggish")
