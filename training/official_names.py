"""State dicts of MCN's released code, by name: to our network's names and back.

Its k-means model with three modalities (the one of its README), with or without reconstruction.
Convolutions over time are 2D there, with a kernel of one row; the first one collapses frequency.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from extractors.errors import UsageError
from training.clips import TrackDims
from training.config import ModelConfig
from training.model import Mcn

RULES = (
    (r"^video\.linear\.", "GU_video.fc."),
    (r"^video\.gate\.", "GU_video.cg.fc."),
    (r"^audio\.0\.linear\.", "GU_audio.fc."),
    (r"^audio\.0\.gate\.", "GU_audio.cg.fc."),
    (r"^audio\.1\.", "DAVEnet_projection."),
    (r"^text_rows\.", "text_pooling_caption.fc."),
    (r"^text\.linear\.", "GU_text_captions.fc."),
    (r"^text\.gate\.", "GU_text_captions.cg.fc."),
    (r"^decoders\.video\.", "recon_v."),
    (r"^decoders\.audio\.", "recon_a."),
    (r"^decoders\.text\.", "recon_t."),
    (r"^davenet\.collapse\.", "DAVEnet.conv1."),
    (r"^davenet\.norm\.", "DAVEnet.bn1."),
    (r"^(davenet\.stages\..*)\.norm([12])\.", r"\1.bn\2."),
    (r"^(davenet\.stages\..*)\.shortcut\.", r"\1.downsample.0."),
    (r"^(davenet\.stages\..*)\.shortcut_norm\.", r"\1.downsample.1."),
)
"""Our name to theirs, the first that fits; the stages' numbers follow."""

UNUSED = {
    "DAVEnet.batchnorm1.weight": torch.ones(1),
    "DAVEnet.batchnorm1.bias": torch.zeros(1),
    "DAVEnet.batchnorm1.running_mean": torch.zeros(1),
    "DAVEnet.batchnorm1.running_var": torch.ones(1),
    "DAVEnet.batchnorm1.num_batches_tracked": torch.tensor(0),
}
"""A batch norm that the released network holds and never calls: left out, and put back."""


@dataclass(frozen=True)
class OfficialSizes:
    """What a released state dict says of its network."""

    model: ModelConfig
    dims: TrackDims
    decoders: bool


def official_name(name: str) -> str:
    """The released name of one of our weights or buffers."""
    for pattern, replacement in RULES:
        changed, count = re.subn(pattern, replacement, name)
        if count:
            name = changed
            break
    return re.sub(
        r"^davenet\.stages\.(\d+)\.", lambda m: f"DAVEnet.layer{int(m.group(1)) + 1}.", name
    )


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our network's state dict under the released names and shapes.

    Raises UsageError for what that network does not have: cluster heads, a learned temperature.
    """
    foreign = [name for name in state if name.startswith("heads.") or name == "log_scale"]
    if foreign:
        raise UsageError(f"{_some(foreign)}: the released network has no such weights")
    made = {official_name(name): _widen(name, value) for name, value in state.items()}
    return made | {name: value.clone() for name, value in UNUSED.items()}


def from_official(official: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """A released state dict under our names and shapes, of a network of `read_sizes`.

    Raises UsageError, naming `source` and the first names that differ, where a name is missing
    or unknown or a shape is another.
    """
    sizes = read_sizes(official, source)
    with torch.device("meta"):
        empty = Mcn(sizes.model, sizes.dims, sizes.decoders).state_dict()
    shapes = {official_name(name): _widen(name, value).shape for name, value in empty.items()}
    shapes |= {name: value.shape for name, value in UNUSED.items()}
    found = {name: value.shape for name, value in official.items()}
    problems = {
        "missing": [name for name in shapes if name not in found],
        "unknown": [name for name in found if name not in shapes],
        "of another shape": [
            f"{name} {tuple(found[name])}, expected {tuple(shape)}"
            for name, shape in shapes.items()
            if name in found and found[name] != shape
        ],
    }
    said = [f"{what}: {_some(names)}" for what, names in problems.items() if names]
    if said:
        raise UsageError(f"{source}: not a state dict of the released MCN; {'; '.join(said)}")
    return {
        name: official[official_name(name)].reshape(value.shape) for name, value in empty.items()
    }


def read_sizes(official: Mapping[str, Tensor], source: str) -> OfficialSizes:
    """The network that a released state dict is of; its other settings are the released ones.

    The 2D and the 3D half of the picture are taken to be equally wide. Raises UsageError where a
    name that tells a size is missing.
    """
    wanted = ("GU_video.fc.weight", "text_pooling_caption.fc.weight", "DAVEnet.conv1.weight")
    missing = [name for name in wanted if name not in official]
    if missing:
        raise UsageError(f"{source}: not a state dict of the released MCN; missing: {missing[0]}")
    dim, columns = official[wanted[0]].shape
    stages = _numbers(official, r"^DAVEnet\.layer(\d+)\.")
    blocks = _numbers(official, r"^DAVEnet\.layer1\.(\d+)\.")
    widths = [
        official[name].shape[0]
        for name in (f"DAVEnet.layer{stage}.0.conv1.weight" for stage in sorted(stages))
        if name in official
    ]
    decoders = any(name.startswith("recon_") for name in official)
    hidden = official["recon_v.0.weight"].shape[0] if "recon_v.0.weight" in official else 1024
    return OfficialSizes(
        model=ModelConfig(
            embedding_dim=dim,
            audio_widths=tuple(widths),
            audio_blocks=len(blocks),
            decoder_dim=hidden,
            mask_padding=False,
            similarity="raw",
        ),
        dims=TrackDims(
            visual=(columns // 2, columns - columns // 2),
            audio=official["DAVEnet.conv1.weight"].shape[2],
            text=official["text_pooling_caption.fc.weight"].shape[1],
        ),
        decoders=decoders,
    )


def _widen(name: str, value: Tensor) -> Tensor:
    """Our 1D kernels as theirs: the first reads the mel bins as rows, the others have one row."""
    if value.ndim != 3:
        return value
    return value[:, None] if name == "davenet.collapse.weight" else value[:, :, None]


def _numbers(names: Iterable[str], pattern: str) -> set[int]:
    return {int(match.group(1)) for name in names if (match := re.match(pattern, name))}


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
