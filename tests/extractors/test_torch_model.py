"""State dicts are read without running code, from both formats."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from extractors.errors import AbortError
from extractors.torch_model import as_rows, forward, load_state_dict, load_weights, to_precision

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_both_formats(name, tmp_path):
    path = tmp_path / name
    save_file(STATE, path) if name.endswith("safetensors") else torch.save(STATE, path)
    loaded = load_state_dict(path)
    assert loaded.keys() == STATE.keys()
    for key, value in STATE.items():
        torch.testing.assert_close(loaded[key], value)


class Hostile:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("code of the file was run",))


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize("content", [b"", b"text\n" * 9, b"PK\x03\x04" + b"\0" * 99, bytes(99),
                                     pickle.dumps(Hostile(), 2), pickle.dumps([1, 2], 2)],
                         ids=["empty", "text", "zip", "zeros", "hostile", "list"])  # fmt: skip
def test_what_is_no_state_dict(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AbortError) as caught:
        load_state_dict(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_must_fit_exactly(tmp_path):
    layer = nn.Linear(3, 2)
    load_weights(layer, STATE, tmp_path, "linear")
    torch.testing.assert_close(layer.weight.detach(), STATE["weight"])
    for wrong in ({"weight": STATE["weight"]}, STATE | {"extra": torch.ones(1)}):
        with pytest.raises(AbortError, match="not the weights of linear"):
            load_weights(layer, wrong, tmp_path, "linear")


def test_forward_computes_in_the_networks_precision_and_gives_float32():
    layer = nn.Linear(3, 2).to(torch.bfloat16)
    outputs = forward(layer, torch.ones(1, 3))
    assert outputs.dtype == torch.float32
    assert not outputs.requires_grad


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_every_precision_on_this_cpu_or_a_reason(precision):
    layer = nn.Linear(3, 2)
    try:
        layer = to_precision(layer, torch.device("cpu"), precision)
    except AbortError:  # which CPUs know float16 depends on torch
        assert precision == "float16"
        return
    assert str(layer.weight.dtype) == f"torch.{precision}"
    assert not layer.training


def test_a_cpu_that_cannot_is_one_line(monkeypatch):
    def refused(*_args):
        raise RuntimeError("\"slow_conv3d\" not implemented\nfor 'Half'")

    monkeypatch.setattr(nn.functional, "conv3d", refused)
    with pytest.raises(AbortError, match=r"precision = float16: this processor cannot") as caught:
        to_precision(nn.Linear(3, 2), torch.device("cpu"), "float16")
    assert "\n" not in str(caught.value)
    to_precision(nn.Linear(3, 2), torch.device("cpu"), "float32")


def test_the_papers_last_step():
    outputs = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(as_rows(outputs, normalise=True), [[0.6, 0.8], [0, 0]], atol=1e-7)
    np.testing.assert_array_equal(as_rows(outputs, normalise=False), outputs)
    for wrong in (torch.inf, torch.nan):
        with pytest.raises(ArithmeticError, match="not finite"):
            as_rows(torch.tensor([[1.0, wrong]]), normalise=True)
