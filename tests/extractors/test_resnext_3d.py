"""3D ResNeXt-101 against a plain one that reads the published names, and through ActionModel."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from extractors.action_model import ActionModel
from extractors.config import ActionModelConfig
from extractors.errors import AbortError
from extractors.resnext_3d import ResNeXt3d, trunk_state
from extractors.windows import Window

CPU = torch.device("cpu")
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def published_shapes():
    """Name to shape of every tensor in resnext-101-kinetics.pth, as torch of 2017 saved it."""
    shapes = {"conv1.weight": (64, 3, 7, 7, 7)}
    shapes |= {f"bn1.{part}": (64,) for part in BATCH_NORM}
    channels = 64
    for layer, (planes, blocks) in enumerate([(128, 3), (256, 4), (512, 23), (1024, 3)], 1):
        for block in range(blocks):
            at = f"layer{layer}.{block}."
            shapes[f"{at}conv1.weight"] = (planes, channels, 1, 1, 1)
            shapes[f"{at}conv2.weight"] = (planes, planes // 32, 3, 3, 3)
            shapes[f"{at}conv3.weight"] = (2 * planes, planes, 1, 1, 1)
            widths = {"bn1": planes, "bn2": planes, "bn3": 2 * planes}
            if block == 0:
                shapes[f"{at}downsample.0.weight"] = (2 * planes, channels, 1, 1, 1)
                widths["downsample.1"] = 2 * planes
            channels = 2 * planes
            for name, width in widths.items():
                shapes |= {f"{at}{name}.{part}": (width,) for part in BATCH_NORM}
    return shapes | {"fc.weight": (400, 2048), "fc.bias": (400,)}


def random_state():
    """Tensors under which the activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in published_shapes().items():
        if len(shape) == 5:
            scale = math.sqrt(2 / math.prod(shape[1:]))
            state[name] = scale * torch.randn(shape, generator=generator)
        elif name.endswith(("running_var", "weight")) and len(shape) == 1:
            state[name] = 0.5 + torch.rand(shape, generator=generator)
        else:
            state[name] = 0.1 * torch.randn(shape, generator=generator)
    state["bn1.running_var"] *= 100**2  # of pixels less their mean
    for name in state:  # as after training: each block adds little to its shortcut
        if name.endswith("bn3.weight"):
            state[name] *= 0.2
    return state


def plain(state, x):
    """The network, step by step, from the published names."""

    def normalised(x, name):
        scale, shift, mean, var = (state[f"{name}.{part}"] for part in BATCH_NORM)
        return functional.batch_norm(x, mean, var, scale, shift)

    x = functional.conv3d(x, state["conv1.weight"], stride=(1, 2, 2), padding=3)
    x = functional.relu(normalised(x, "bn1"))
    x = functional.max_pool3d(x, 3, 2, 1)
    for layer, blocks in enumerate([3, 4, 23, 3], 1):
        for block in range(blocks):
            at, stride = f"layer{layer}.{block}.", 2 if layer > 1 and block == 0 else 1
            y = functional.conv3d(x, state[f"{at}conv1.weight"])
            y = functional.relu(normalised(y, f"{at}bn1"))
            y = functional.conv3d(y, state[f"{at}conv2.weight"], None, stride, 1, 1, groups=32)
            y = functional.relu(normalised(y, f"{at}bn2"))
            y = normalised(functional.conv3d(y, state[f"{at}conv3.weight"]), f"{at}bn3")
            if block == 0:
                x = functional.conv3d(x, state[f"{at}downsample.0.weight"], stride=stride)
                x = normalised(x, f"{at}downsample.1")
            x = functional.relu(x + y)
    return functional.avg_pool3d(x, (1, 4, 4), 1).flatten(1)


@pytest.fixture(scope="module")
def state():
    return random_state()


@pytest.fixture(scope="module", params=["kenshohara", "antoine77340"])
def checkpoint(request, state, tmp_path_factory):
    """A file of each publisher's layout."""
    content = state
    if request.param == "kenshohara":
        nested = {f"module.{name}": value for name, value in state.items()}
        content = {"epoch": 1, "arch": "resnext-101", "state_dict": nested, "optimizer": {}}
    path = tmp_path_factory.mktemp(request.param) / "resnext-101-kinetics.pth"
    torch.save(content, path)
    return str(path)


def test_names_and_shapes_are_the_published(state):
    wanted = trunk_state(state)
    ours = {name: value for name, value in ResNeXt3d().state_dict().items()
            if not name.endswith("num_batches_tracked")}  # fmt: skip
    assert {name: tuple(value.shape) for name, value in ours.items()} == {
        name: tuple(value.shape) for name, value in wanted.items()
    }
    assert sum(parameter.numel() for parameter in ResNeXt3d().parameters()) == 47_521_216


def chunk_of_a_short_video():
    """11 frames of 112 x 112, then black: the last chunk of a video."""
    frames = np.zeros((16, 112, 112, 3), np.uint8)
    frames[:11] = np.random.default_rng((0, 0)).integers(0, 256, (11, 112, 112, 3))
    return Window(frames, 11)


def test_rows_are_the_plain_networks(state, checkpoint):
    window = chunk_of_a_short_video()
    pixels = torch.from_numpy(window.data).permute(3, 0, 1, 2)[None].float()
    mean = torch.tensor([110.6, 103.2, 96.3]).view(1, 3, 1, 1, 1)
    with torch.inference_mode():
        outputs = plain(state, pixels - mean).numpy()
    assert outputs.std() > 0.01
    model = ActionModel(ActionModelConfig(model="resnext101_3d", weights=checkpoint))
    model.setup(CPU)
    (row,) = model.extract([window])
    assert row.shape == (1, 2048)
    assert (model.spec.dim, model.spec.dtype) == (2048, "float16")
    # unit rows of 101 layers in float32: measured 1e-7 at most
    np.testing.assert_allclose(row, outputs / np.linalg.norm(outputs), atol=1e-6)


def test_the_papers_sampling():
    model = ActionModel(ActionModelConfig(model="resnext101_3d"))
    assert 1 / model.spec.hop == pytest.approx(1.5)
    assert (model.view.rate, model.view.height, model.view.width) == (24.0, 112, 112)
    assert (model.view.fit, model.windowing.tail) == ("crop", "zero")
    assert model.windowing.size == model.windowing.step == 16


def test_the_registry_has_none():
    with pytest.raises(AbortError, match="none for resnext101_3d: set it to a local file"):
        _ = ActionModel(ActionModelConfig(model="resnext101_3d")).weights_sha256


def test_another_networks_weights_are_one_line(tmp_path):
    torch.save({"state_dict": {"module.conv1.weight": torch.zeros(1)}}, tmp_path / "x.pth")
    config = ActionModelConfig(model="resnext101_3d", weights=str(tmp_path / "x.pth"))
    with pytest.raises(AbortError, match="not the weights of resnext101_3d") as caught:
        ActionModel(config).setup(CPU)
    assert "\n" not in str(caught.value)
