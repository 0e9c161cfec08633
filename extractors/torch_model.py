"""What the extractors that run a torch network share."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # the error alone: weights_only=True raises it

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from extractors.config import Precision
from extractors.errors import AbortError

# what torch's and safetensors' readers raise on files that are something else
UNREADABLE = (
    OSError, EOFError, RuntimeError, ValueError, LookupError, UnpicklingError, SafetensorError
)  # fmt: skip


DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16
}  # fmt: skip


def to_precision(model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
    """The network where and as it will run: parameters and inputs in one dtype, ready to give rows.

    Raises AbortError where the processor cannot compute in that dtype.
    """
    dtype = DTYPES[precision]
    if device.type == "cpu" and dtype != torch.float32:
        _check_cpu(dtype, precision)
    return model.to(device, dtype).eval()


def _check_cpu(dtype: torch.dtype, precision: Precision) -> None:
    """Tries what the networks are made of: which types a CPU knows depends on it and on torch."""
    volume = torch.ones(1, 1, 3, 3, 3, dtype=dtype)
    matrix = volume[0, 0, 0]
    try:
        with torch.inference_mode():
            nn.functional.conv3d(volume, volume)
            nn.functional.conv2d(volume[0], volume[0])
            nn.functional.layer_norm(matrix @ matrix, (3,))
            nn.functional.scaled_dot_product_attention(volume[0], volume[0], volume[0])
    except RuntimeError as err:
        raise AbortError(
            f"extractors.*.precision = {precision}: this processor cannot: {one_line(err)[:80]}; "
            "use float32, or a GPU"
        ) from err


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


def as_rows(outputs: Tensor, *, normalise: bool) -> NDArray[np.float32]:
    """(N, D) float32 on the CPU, each row of length 1 if asked: the last step of the papers'
    features (antoine77340/video_feature_extractor, `--l2_normalize`).

    Raises ArithmeticError where a number is none, as where float16 overflows.
    """
    if not torch.isfinite(outputs).all():
        raise ArithmeticError("rows that are not finite: another precision, or broken weights?")
    rows = nn.functional.normalize(outputs, dim=1) if normalise else outputs
    found: NDArray[np.float32] = rows.cpu().numpy()
    return found
