"""The 2D networks by name: torchvision's, timm's (`timm/NAME`), CLIP and SigLIP (`hf/FOLDER`).

What a network expects comes from its own metadata: torchvision's weights enumerations, timm's
pretrained_cfg, the JSON files beside a transformers model. Its row is what enters its classifier
(the last linear layer); for CLIP and SigLIP, the image's embedding.
"""

import difflib
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from extractors.errors import UsageError
from extractors.torch_model import load_state_dict, load_weights, one_line

RGB = tuple[float, float, float]
IMAGENET: tuple[RGB, RGB] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# EfficientNet-lite: (pixel - 127) / 128
LITE: tuple[RGB, RGB] = (127 / 255, 127 / 255, 127 / 255), (128 / 255, 128 / 255, 128 / 255)

# known without loading anything: what the presets use
DIMS = {
    "efficientnet_lite0": 1280,
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    "resnet152": 2048,
}
TIMM, HF = "timm/", "hf/"


@dataclass(frozen=True)
class ImageFacts:
    """What a network gives and what it expects."""

    dim: int
    size: int
    """Pixels of the square it was trained on."""
    mean: RGB
    """Of pixels in 0..1, subtracted."""
    std: RGB
    """Divided by."""


@functools.cache
def image_facts(name: str) -> ImageFacts:
    """Read without weights. Raises UsageError for a name that no library knows."""
    if name in DIMS:
        mean, std = LITE if name == "efficientnet_lite0" else IMAGENET
        return ImageFacts(DIMS[name], 224, mean, std)
    if name.startswith(HF):
        return _hf_facts(Path(name.removeprefix(HF)))
    if name.startswith(TIMM):
        network = empty_network(name)
        cfg: Any = network.pretrained_cfg
        return ImageFacts(
            _dim(network, cfg["input_size"][1]),
            cfg["input_size"][1],
            tuple(cfg["mean"]),
            tuple(cfg["std"]),
        )
    import torchvision

    network = empty_network(name)
    preset: Any = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    size = preset.crop_size[0]
    return ImageFacts(_dim(network, size), size, tuple(preset.mean), tuple(preset.std))


def check_size(name: str, height: int, width: int) -> None:
    """Raises UsageError where the network cannot take frames of this size."""
    if name in DIMS:
        return  # convolutions and a mean: any size
    facts = image_facts(name)
    if (height, width) == (facts.size, facts.size):
        return
    try:
        if name.startswith(HF):
            raise ValueError("its positions are learnt")
        _run_empty(empty_network(name), height, width)
    except (RuntimeError, ValueError, AssertionError) as err:
        raise UsageError(
            f"extractors.*.size, fit: {name} cannot take frames of {width}x{height} "
            f"({one_line(err)[:80]}); use size={facts.size} and fit=crop"
        ) from err


def load_network(name: str, path: Path) -> nn.Module:
    """The network that gives rows, with its weights. Raises AbortError where they do not fit."""
    if name.startswith(HF):
        return _load_tower(path)
    network = _build(name)
    state: Mapping[str, Tensor] = load_state_dict(path)
    if name == "efficientnet_lite0":
        state = rename_lite(state, list(network.state_dict()))
    load_weights(network, state, path, name)
    return headless(network)


@functools.cache
def empty_network(name: str) -> nn.Module:
    """The network that gives rows, on the meta device: shapes without numbers."""
    try:
        with torch.device("meta"):
            network = _build(name)
    except NotImplementedError:  # some compute their widths with tensors
        network = _build(name).to("meta")
    return headless(network).eval()


def _build(name: str) -> nn.Module:
    """With random weights, whole. Raises UsageError for an unknown name."""
    if name.startswith(HF):
        return _HfTower(Path(name.removeprefix(HF)))
    if name == "efficientnet_lite0":
        name = "timm/tf_efficientnet_lite0"
    if name.startswith(TIMM):
        import timm

        architecture = name.removeprefix(TIMM)
        if not timm.is_model(architecture.partition(".")[0]):
            raise _unknown(name, [TIMM + known for known in timm.list_models()])
        try:
            model: nn.Module = timm.create_model(architecture)
        except RuntimeError as err:  # the tag behind the dot
            known = timm.list_pretrained(architecture.partition(".")[0] + ".*")
            raise _unknown(name, [TIMM + each for each in known]) from err
        return model
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise _unknown(name, [*known, *DIMS])
    if name not in ("googlenet", "inception_v3"):
        network: nn.Module = torchvision.models.get_model(name)
        return network
    network = torchvision.models.get_model(name, init_weights=False)
    # as torchvision sets it for its published weights
    setattr(network, "transform_input", True)  # noqa: B010
    return network


def headless(network: nn.Module) -> nn.Module:
    """The same network without what follows its features."""
    if isinstance(network, _HfTower):
        return network
    timms: Any = network
    if hasattr(timms, "reset_classifier"):
        timms.reset_classifier(0)
        return network
    linear = [key for key, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    if linear:
        network.set_submodule(linear[-1], nn.Identity())
    else:  # SqueezeNet, whose classifier is a convolution
        network.classifier = nn.AdaptiveAvgPool2d(1)
    return network


def _dim(network: nn.Module, size: int) -> int:
    return _run_empty(network, size, size).shape[1]


def _run_empty(network: nn.Module, height: int, width: int) -> Tensor:
    with torch.inference_mode():
        rows: Tensor = network(torch.zeros(2, 3, height, width, device="meta"))
    if rows.ndim != 2:
        raise ValueError(f"gives {tuple(rows.shape)} and not rows")
    return rows


def _unknown(name: str, known: Sequence[str]) -> UsageError:
    near = ", ".join(difflib.get_close_matches(name, known, n=4, cutoff=0.5)) or "none near it"
    return UsageError(
        f"image model {name!r}: not known (near it: {near}); a torchvision model, timm/NAME, or "
        "hf/FOLDER with a CLIP or SigLIP"
    )


def rename_lite(state: Mapping[str, Tensor], names: Sequence[str]) -> Mapping[str, Tensor]:
    """From the names of lukemelas' EfficientNet to timm's: both list the same layers in order."""
    if "_conv_stem.weight" not in state or len(state) != len(names):
        return state
    return dict(zip(names, state.values(), strict=True))


HF_KINDS = ("clip", "siglip")


def _hf_facts(folder: Path) -> ImageFacts:
    """From config.json and preprocessor_config.json. Raises UsageError."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        images = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        kind, vision = config["model_type"], config["vision_config"]
        # what a config.json leaves out is transformers' default
        dim = (
            config.get("projection_dim", 512) if kind == "clip" else vision.get("hidden_size", 768)
        )
        size = int(vision.get("image_size", 224))
        facts = ImageFacts(dim, size, tuple(images["image_mean"]), tuple(images["image_std"]))
    except (OSError, ValueError, KeyError, TypeError) as err:
        message = f"image model hf/{folder}: not a CLIP or SigLIP folder: {one_line(err)}"
        raise UsageError(message) from err
    if kind not in HF_KINDS:
        raise UsageError(f"image model hf/{folder}: a {kind}; allowed: {', '.join(HF_KINDS)}")
    return facts


class _HfTower(nn.Module):
    """CLIP's or SigLIP's image tower as a network that gives rows; random weights."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        import transformers

        config: Any = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        self.model: Any = transformers.AutoModel.from_config(config)  # type: ignore[no-untyped-call]
        self.model.text_model = nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, size, size) to (N, dim)."""
        rows: Tensor = self.model.get_image_features(pixel_values=pixels).pooler_output
        return rows


def _load_tower(folder: Path) -> nn.Module:
    """With its weights. Raises AbortError where they do not fit."""
    path = folder / "model.safetensors"
    state = load_state_dict(path)
    tower = _HfTower(folder)
    wanted = tower.model.state_dict()
    state = {key: value for key, value in state.items() if key in wanted}
    load_weights(tower.model, state, path, tower.model.config.model_type)
    return tower
