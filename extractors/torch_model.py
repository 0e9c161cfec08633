"""What the extractors that run a torch network share."""

from pathlib import Path

import torch
from torch import Tensor, nn

from extractors.config import Precision
from extractors.errors import AbortError


def model_dtype(precision: Precision) -> torch.dtype:
    """The dtype of a network's parameters and inputs."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[
        precision
    ]


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Reads a state dict without unpickling code. Raises AbortError where it is none."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError) as err:
        raise AbortError(f"{path}: cannot be read as weights: {err}") from err
    if not isinstance(state, dict):
        raise AbortError(f"{path}: holds a {type(state).__name__}, expected a state dict")
    return state


def forward(model: nn.Module, inputs: Tensor) -> Tensor:
    """One pass in the network's own precision, without gradients; float32 out."""
    dtype = next(model.parameters()).dtype
    with torch.inference_mode():
        outputs: Tensor = model(inputs.to(dtype))
    return outputs.float()
