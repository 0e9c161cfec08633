"""The file of a trained XDC encoder, and the published ones.

Ours is a .safetensors file whose metadata holds, as JSON, what the encoder is and what it was
trained on, so that nothing else of the run is needed. Published video encoders
(HumamAlwassel/XDC: r2plus1d_18_xdc_*.pth) are plain state dicts under torchvision's names.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import safetensors
from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor, nn

from extractors.errors import AbortError, UsageError
from extractors.settings import Settings
from extractors.torch_model import UNREADABLE, load_state_dict, one_line
from extractors.xdc_config import HeardConfig, VideoEncoderConfig
from extractors.xdc_networks import AudioEncoder, VideoEncoder

ConfigT = TypeVar("ConfigT", bound=Settings)

ABOUT = "xdc_encoder"
"""The metadata's only key: several would be stored in any order, and so change the digest."""
FORMAT = 1
PAPER_CLIPS = VideoEncoderConfig(frames=8, rate=30.0, short_side=256, size=224)
"""What published encoders were trained on, as far as it is known (methods: 8 frames at 30 a second,
224 of 256 pixels)."""


def encoder_bytes(network: nn.Module, about: VideoEncoderConfig | HeardConfig) -> bytes:
    """The file of a trained encoder. The same weights give the same bytes."""
    modality = "video" if isinstance(about, VideoEncoderConfig) else "audio"
    facts = {"format": FORMAT, "modality": modality, "about": about.model_dump(mode="json")}
    # channels-last weights are stored as they lie, so plain order first
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    return save(tensors, {ABOUT: json.dumps(facts, sort_keys=True)})


def read_video_config(path: Path) -> VideoEncoderConfig:
    """What a video encoder's file says; of a published one, the paper's clips.

    Raises UsageError for the file of an audio encoder, AbortError for one that is no encoder.
    """
    facts = _facts(path)
    if facts is None:
        return PAPER_CLIPS
    _check_modality(path, facts, "video")
    return _parse(VideoEncoderConfig, facts, path)


def read_audio_config(path: Path) -> HeardConfig:
    """What an audio encoder's file says. Raises as `read_video_config`."""
    facts = _facts(path)
    if facts is None:
        raise UsageError(
            f"{path}: not the audio encoder of an XDC run (audio.safetensors); no other can be read"
        )
    _check_modality(path, facts, "audio")
    return _parse(HeardConfig, facts, path)


def load_video_encoder(path: Path) -> VideoEncoder:
    """The network with its weights, on the CPU. Raises AbortError, UsageError."""
    network = VideoEncoder(read_video_config(path))
    fill_video_encoder(network, path)
    return network


def load_audio_encoder(path: Path) -> AudioEncoder:
    """The network with its weights, on the CPU. Raises AbortError, UsageError."""
    network = AudioEncoder(read_audio_config(path).encoder)
    _fill(network, load_state_dict(path), path)
    return network


def fill_video_encoder(network: VideoEncoder, path: Path) -> None:
    """Weights of a file of ours or a published one into a network, by name.

    A published file's classifier (`fc`) is left out, and the wrapping of nn.DataParallel. Raises
    UsageError, naming the first that differ, where names or shapes are others.
    """
    _fill(network, from_published(load_state_dict(path)), path)


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict under our names: torchvision's without the classifier."""
    named = {name.removeprefix("module."): value for name, value in state.items()}
    return {name: value for name, value in named.items() if not name.startswith("fc.")}


def _fill(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    own = network.state_dict()
    # counters of batches seen: older files have none, and nothing is computed from them
    needed = {name for name in own if not name.endswith("num_batches_tracked")}
    wrong = [name for name in own if name in needed and name not in state]
    wrong += [name for name in state if name not in own]
    if not wrong:
        wrong = [name for name in needed if state[name].shape != own[name].shape]
    if wrong:
        raise UsageError(
            f"{path}: another network than this encoder; the first names that differ: "
            f"{', '.join(_described(name, state, own) for name in sorted(wrong)[:3])}"
        )
    network.load_state_dict({**own, **state})


def _described(name: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    if name not in state:
        return f"{name} (missing)"
    if name not in own:
        return f"{name} (unknown)"
    return f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"


def _facts(path: Path) -> dict[str, object] | None:
    """The metadata of a file of ours; None for a file of another kind."""
    if not path.is_file():
        raise UsageError(f"{path}: no such encoder; `run train --method xdc` writes it")
    if path.suffix != ".safetensors":
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except UNREADABLE as err:
        raise AbortError(f"{path}: cannot be read as weights: {one_line(err)}") from err
    if ABOUT not in metadata:
        return None
    facts: dict[str, object] = json.loads(metadata[ABOUT])
    if facts.get("format") != FORMAT:
        raise AbortError(f"{path}: format {facts.get('format')!r}, this program reads {FORMAT}")
    return facts


def _check_modality(path: Path, facts: Mapping[str, object], wanted: str) -> None:
    if facts["modality"] != wanted:
        raise UsageError(
            f"{path}: the {facts['modality']} encoder of an XDC run, expected its {wanted} encoder"
        )


def _parse(kind: type[ConfigT], facts: Mapping[str, object], path: Path) -> ConfigT:
    try:
        return kind.model_validate(facts["about"])
    except ValidationError as err:
        wrong = err.errors()[0]
        where = ".".join(map(str, wrong["loc"]))
        raise AbortError(f"{path}: not an encoder's settings: {where}: {wrong['msg']}") from err
