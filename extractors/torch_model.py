"""What the extractors that run a torch network share."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # the error alone: weights_only=True raises it

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from extractors.config import Precision
from extractors.errors import AbortError

# what torch's and safetensors' readers raise on files that are something else
UNREADABLE = (
    OSError, EOFError, RuntimeError, ValueError, LookupError, UnpicklingError, SafetensorError
)  # fmt: skip


def model_dtype(precision: Precision) -> torch.dtype:
    """The dtype of a network's parameters and inputs."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[
        precision
    ]


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Reads a state dict without unpickling code. Raises AbortError where it is none."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as err:
        raise AbortError(f"{path}: cannot be read as weights: {one_line(err)}") from err
    if not isinstance(state, dict):
        raise AbortError(f"{path}: holds a {type(state).__name__}, expected a state dict")
    return state


def load_weights(model: nn.Module, state: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Fills a network, strictly. Raises AbortError where the weights are another network's."""
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as err:
        raise AbortError(f"{path}: not the weights of {name}: {one_line(err)}") from err


def one_line(err: Exception) -> str:
    """The beginning of a message, which torch spreads over many lines."""
    return " ".join(str(err).split())[:300]


def forward(model: nn.Module, inputs: Tensor) -> Tensor:
    """One pass in the network's own precision, without gradients; float32 out."""
    dtype = next(model.parameters()).dtype
    with torch.inference_mode():
        outputs: Tensor = model(inputs.to(dtype))
    return outputs.float()
