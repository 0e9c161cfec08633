"""The extractors of an XDC run: rows of the encoders on exactly the clips they were trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.build import build_extractor
from extractors.config import LogMelConfig, XdcAudioConfig, XdcVideoConfig
from extractors.errors import UsageError
from extractors.log_mel import XdcLogMel
from extractors.windows import Window, WindowCutter
from extractors.xdc_config import AudioEncoderConfig, HeardConfig, VideoEncoderConfig
from extractors.xdc_encoder_file import encoder_bytes
from extractors.xdc_model import MEAN, STD
from extractors.xdc_networks import AudioEncoder, VideoEncoder

CPU = torch.device("cpu")
VIDEO = VideoEncoderConfig(widths=(4, 8), blocks=(1, 1), frames=4, rate=8, short_side=32, size=24)
HEARD = HeardConfig(
    encoder=AudioEncoderConfig(widths=(4, 8), blocks=(1, 1), seconds=0.8),
    mel=LogMelConfig(front_end="xdc"),
)


def write_encoders(run: Path) -> Path:
    """The part of a run's folder that extractors read."""
    torch.manual_seed(3)
    (run / "encoders").mkdir()
    video, audio = VideoEncoder(VIDEO), AudioEncoder(HEARD.encoder)
    (run / "encoders" / "video.safetensors").write_bytes(encoder_bytes(video, VIDEO))
    (run / "encoders" / "audio.safetensors").write_bytes(encoder_bytes(audio, HEARD))
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoders(tmp_path_factory.mktemp("run"))


def rows_of(extractor, items: np.ndarray) -> np.ndarray:
    cutter = WindowCutter(extractor.windowing)
    windows = [*cutter.push(items), *cutter.finish()]
    return np.concatenate(extractor.extract(windows))


@pytest.mark.parametrize(("hop", "count"), [(0.25, 10), (0.5, 5), (1.0, 3)])
def test_rows_are_the_middle_of_the_frames_that_begin_there(
    run: Path, hop: float, count: int
) -> None:
    """20 frames at 8 a second; hops shorter than, as long as and longer than a clip."""
    extractor = build_extractor(XdcVideoConfig(run=str(run), hop=hop, normalise=False))
    assert (extractor.spec.dim, extractor.spec.start, extractor.spec.hop) == (8, 0.25, hop)
    assert (extractor.view.rate, extractor.view.height, extractor.view.fit) == (8, 32, "whole")
    frames = np.random.default_rng(1).integers(0, 256, (20, 32, 43, 3), dtype=np.uint8)
    extractor.setup(CPU)
    rows = rows_of(extractor, frames)
    assert rows.shape == (count, 8)
    network = extractor._network
    for k, row in enumerate(rows):
        index = np.minimum(round(k * hop * 8) + np.arange(4), 19)  # the last frame stays
        clip = frames[index][:, 4:28, 10:34]
        inputs = (torch.from_numpy(clip / 255) - torch.tensor(MEAN)) / torch.tensor(STD)
        with torch.no_grad():
            (expected,) = network(inputs.float().permute(3, 0, 1, 2)[None])
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-5)


def test_videos_of_several_sizes_share_a_batch(run: Path) -> None:
    extractor = build_extractor(XdcVideoConfig(run=str(run)))
    extractor.setup(CPU)
    windows = [Window(np.zeros((4, 32, w, 3), np.uint8), 4) for w in (32, 60)]
    windows.append(Window(np.zeros((4, 50, 32, 3), np.uint8), 4))
    rows = extractor.extract(windows)
    np.testing.assert_allclose(np.concatenate(rows), np.tile(rows[0], (3, 1)), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=2), 1, atol=1e-5)
    extractor.close()


def test_sound_is_the_stored_spectrogram_s_rows(run: Path) -> None:
    """The mel of a window is the cut of the whole file's mel, as training reads it from a shard:
    a row needs its own 16 ms only, and both are rounded to float16."""
    extractor = build_extractor(XdcAudioConfig(run=str(run), hop=0.4, normalise=False))
    assert (extractor.spec.start, extractor.spec.hop) == (0.4, 0.4)
    samples = np.random.default_rng(2).integers(-9000, 9000, 16_000 * 2 + 100).astype(np.int16)
    extractor.setup(CPU)
    rows = rows_of(extractor, samples)
    assert rows.shape == (6, 8)
    whole = XdcLogMel(HEARD.mel)
    cutter = WindowCutter(whole.windowing)
    mel = np.concatenate(whole.extract([*cutter.push(samples), *cutter.finish()]))
    mel = np.concatenate([mel, np.zeros((40, 40), np.float32)]).astype(np.float16)
    for k in range(5):  # the last window's sound ends inside a row
        clip = torch.from_numpy(mel[k * 20 : k * 20 + 40].T.astype(np.float32))
        with torch.no_grad():
            (expected,) = extractor._network(((clip - 12.5) / 6.5)[None, None])
        np.testing.assert_allclose(rows[k], expected, rtol=1e-4, atol=1e-5)


def test_the_fingerprint_is_the_encoders_not_the_folders(run: Path, tmp_path: Path) -> None:
    config = XdcVideoConfig(run=str(run))
    assert config.run is None
    assert config.weights == f"{run}/encoders/video.safetensors"
    assert XdcVideoConfig.model_validate(config.model_dump()) == config
    copy = tmp_path / "other.safetensors"
    copy.write_bytes(Path(config.weights).read_bytes())
    elsewhere = XdcVideoConfig(weights=str(copy))
    digest = build_extractor(config).weights_sha256
    assert build_extractor(elsewhere).weights_sha256 == digest
    without = {"weights"}
    assert config.model_dump(exclude=without) == elsewhere.model_dump(exclude=without)
    trained_on = VideoEncoder(VIDEO)
    copy.write_bytes(encoder_bytes(trained_on, VIDEO))
    assert build_extractor(XdcVideoConfig(weights=str(copy))).weights_sha256 != digest


def test_wrong_settings_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give one of them"):
        XdcVideoConfig(run=str(run), weights="video.safetensors")
    with pytest.raises(ValueError, match="weights"):
        XdcVideoConfig()
    with pytest.raises(UsageError, match="no such encoder"):
        build_extractor(XdcAudioConfig(run=str(tmp_path)))
    with pytest.raises(UsageError, match=r"hop = 0\.01: at least a frame"):
        build_extractor(XdcVideoConfig(run=str(run), hop=0.01))
    with pytest.raises(UsageError, match=r"hop = 1\.0: at most the clip of .*, 0\.8 seconds"):
        build_extractor(XdcAudioConfig(run=str(run)))
