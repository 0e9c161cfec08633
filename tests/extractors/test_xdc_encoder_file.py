"""Files of encoders: ours tell what they are, published ones load by name, others are refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.video import r2plus1d_18

from extractors.config import LogMelConfig
from extractors.errors import AbortError, UsageError
from extractors.xdc_config import AudioEncoderConfig, HeardConfig, VideoEncoderConfig
from extractors.xdc_encoder_file import (
    PAPER_CLIPS,
    encoder_bytes,
    fill_video_encoder,
    load_audio_encoder,
    load_video_encoder,
    read_audio_config,
    read_video_config,
)
from extractors.xdc_networks import AudioEncoder, VideoEncoder

VIDEO = VideoEncoderConfig(widths=(4, 8), blocks=(1, 1), frames=4, rate=6, short_side=32, size=24)
HEARD = HeardConfig(
    encoder=AudioEncoderConfig(widths=(4, 8), blocks=(1, 1), seconds=0.8),
    mel=LogMelConfig(front_end="xdc"),
)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """Laid out as r2plus1d_18_xdc_*.pth: all layers, and a classifier that does not matter."""
    torch.manual_seed(1)
    state = {name: value.clone() for name, value in VideoEncoder(PAPER_CLIPS).state_dict().items()}
    state |= {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}
    path = tmp_path_factory.mktemp("published") / "r2plus1d_18_xdc_ig65m_random.pth"
    torch.save(state, path)
    return path, state


def test_a_file_of_ours_tells_what_it_is(tmp_path: Path) -> None:
    network, path = VideoEncoder(VIDEO), tmp_path / "video.safetensors"
    path.write_bytes(encoder_bytes(network, VIDEO))
    assert path.read_bytes() == encoder_bytes(network, VIDEO)
    assert read_video_config(path) == VIDEO
    frames = torch.rand(2, 3, 4, 24, 24)
    loaded = load_video_encoder(path).eval()
    assert torch.equal(loaded(frames), network.eval()(frames))


def test_an_audio_encoder_keeps_its_front_end(tmp_path: Path) -> None:
    network, path = AudioEncoder(HEARD.encoder), tmp_path / "audio.safetensors"
    path.write_bytes(encoder_bytes(network, HEARD))
    assert read_audio_config(path) == HEARD
    assert HEARD.rows == 40
    mel = torch.rand(2, 1, 40, 40)
    assert torch.equal(load_audio_encoder(path).eval()(mel), network.eval()(mel))
    with pytest.raises(UsageError, match="the audio encoder of an XDC run, expected its video"):
        read_video_config(path)


def test_published_weights_load_by_name(published) -> None:
    path, state = published
    assert read_video_config(path) == PAPER_CLIPS
    loaded = load_video_encoder(path).state_dict()
    assert len(loaded) == len(state) - 2
    for name, value in loaded.items():
        assert torch.equal(value, state[name])


def test_older_and_wrapped_files_load_too(published, tmp_path: Path) -> None:
    """From before batch norm counted its batches, and as nn.DataParallel names its weights."""
    _, state = published
    old = {f"module.{n}": v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    loaded = load_video_encoder(tmp_path / "old.pth").state_dict()
    assert torch.equal(loaded["layer4.1.conv2.0.3.weight"], state["layer4.1.conv2.0.3.weight"])


def test_another_network_is_refused_with_the_first_names(published, tmp_path: Path) -> None:
    """torchvision's own Kinetics network has other channels between its convolutions."""
    torch.save(r2plus1d_18().state_dict(), tmp_path / "kinetics.pth")
    with pytest.raises(UsageError, match=r"layer2\.0\.conv2\.0\.0\.weight \(230, 128, 1, 3, 3\) "
                                         r"for \(288, 128, 1, 3, 3\)"):  # fmt: skip
        load_video_encoder(tmp_path / "kinetics.pth")
    _, state = published
    renamed = {name.replace("stem.0", "first.0"): value for name, value in state.items()}
    torch.save(renamed, tmp_path / "renamed.pth")
    with pytest.raises(UsageError, match=r"first\.0\.weight \(unknown\), stem\.0\.weight"):
        load_video_encoder(tmp_path / "renamed.pth")
    with pytest.raises(UsageError, match="another network than this encoder"):
        fill_video_encoder(VideoEncoder(VIDEO), published[0])


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such encoder; `run train --method xdc` writes it"):
        read_video_config(tmp_path / "video.safetensors")
    (tmp_path / "broken.safetensors").write_text("no weights at all")
    with pytest.raises(AbortError, match="cannot be read as weights"):
        read_video_config(tmp_path / "broken.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UsageError, match="not the audio encoder of an XDC run"):
        read_audio_config(tmp_path / "foreign.safetensors")
    newer = encoder_bytes(VideoEncoder(VIDEO), VIDEO).replace(rb"\"format\": 1", rb"\"format\": 9")
    (tmp_path / "newer.safetensors").write_bytes(newer)
    with pytest.raises(AbortError, match="format 9, this program reads 1"):
        read_video_config(tmp_path / "newer.safetensors")
