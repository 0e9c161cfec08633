"""3D features against torchvision's own network."""

import numpy as np
import pytest
import torch
import torchvision
from pydantic import ValidationError

from extractors.action_model import ActionModel, action_facts
from extractors.config import ActionModelConfig
from extractors.errors import AbortError, UsageError
from extractors.weights import registry
from extractors.windows import Window

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A network with random weights for each name, and its state dict's path."""
    folder = tmp_path_factory.mktemp("weights")

    def make(name):
        torch.manual_seed(0)
        network = torchvision.models.get_model(name).eval()
        torch.save(network.state_dict(), folder / f"{name}.pth")
        return network, str(folder / f"{name}.pth")

    return make


def windows(count, size=32, length=4):
    rng = np.random.default_rng((0, 0))
    shape = (length, size, size, 3)
    return [Window(rng.integers(0, 256, shape, np.uint8), length) for _ in range(count)]


def extracted(batch, **settings):
    model = ActionModel(ActionModelConfig(size=32, window=4, **settings))
    model.setup(CPU)
    rows = model.extract(batch)
    model.close()
    return np.concatenate(rows)


@pytest.mark.parametrize("name", ["r2plus1d_18", "r3d_18", "mc3_18"])
def test_rows_are_torchvisions(name, saved):
    network, path = saved(name)
    batch = windows(2)
    frames = torch.from_numpy(np.stack([window.data for window in batch]))
    preset = torchvision.transforms.functional.normalize
    pixels = frames.permute(0, 1, 4, 2, 3).float() / 255
    mean, std = [0.43216, 0.394666, 0.37645], [0.22803, 0.22145, 0.216989]
    inputs = preset(pixels, mean, std).permute(0, 2, 1, 3, 4)
    found = {}
    network.avgpool.register_forward_hook(lambda _m, _i, out: found.update(rows=out.flatten(1)))
    with torch.inference_mode():
        network(inputs)
    expected = torch.nn.functional.normalize(found["rows"], dim=1).numpy()
    rows = extracted(batch, model=name, weights=path)
    assert rows.shape == (2, 512)
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    alone = extracted(batch[1:], model=name, weights=path)
    np.testing.assert_allclose(rows[1:], alone, atol=1e-5)


def test_the_papers_facts():
    model = ActionModel(ActionModelConfig())
    assert (model.view.rate, model.view.height, model.view.width) == (24.0, 112, 112)
    assert model.windowing.size == model.windowing.step == 16
    assert model.windowing.tail == "zero"
    assert model.spec.hop == pytest.approx(16 / 24)


def test_an_unknown_model_is_a_wrong_configuration():
    with pytest.raises(ValidationError, match="not known; near it: r3d_18"):
        ActionModelConfig(model="r3d_19")


# the smallest windows that each can take; its own forward, without the last layer
CLASSIFIERS = {"s3d": ("classifier.1", 16, 224), "mvit_v2_s": ("head.1", 16, 224),
               "swin3d_t": ("head", 2, 32)}  # fmt: skip


@pytest.mark.parametrize(
    "name", ["s3d", "swin3d_t", pytest.param("mvit_v2_s", marks=pytest.mark.slow)]
)
def test_other_networks_are_torchvisions_too(name, saved):
    network, path = saved(name)
    layer, length, size = CLASSIFIERS[name]
    batch = windows(1, size, length)
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    frames = torch.from_numpy(np.stack([window.data for window in batch]))
    pixels = frames.permute(0, 1, 4, 2, 3).float() / 255
    inputs = torchvision.transforms.functional.normalize(pixels, preset.mean, preset.std)
    found = {}
    last = network.get_submodule(layer)
    last.register_forward_pre_hook(lambda _m, given: found.update(rows=given[0]))
    with torch.inference_mode():
        network(inputs.permute(0, 2, 1, 3, 4))
    features = found["rows"]
    if features.ndim == 5:
        features = features.mean((2, 3, 4))
    expected = torch.nn.functional.normalize(features, dim=1).numpy()
    model = ActionModel(ActionModelConfig(model=name, weights=path, size=size, window=length))
    model.setup(CPU)
    rows = np.concatenate(model.extract(batch))
    assert rows.shape == (1, model.spec.dim)
    np.testing.assert_allclose(rows, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "dim", "size"),
    [("r3d_18", 512, 112), ("mc3_18", 512, 112), ("r2plus1d_18", 512, 112), ("s3d", 1024, 224),
     ("mvit_v1_b", 768, 224), ("mvit_v2_s", 768, 224), ("swin3d_t", 768, 224),
     ("swin3d_b", 1024, 224)],
)  # fmt: skip
def test_facts_are_torchvisions(name, dim, size):
    facts = action_facts(name)
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    assert (facts.dim, facts.size) == (dim, size)
    assert [*facts.mean, *facts.std] == [*preset.mean, *preset.std]
    assert [facts.size] * 2 == preset.crop_size * (2 // len(preset.crop_size))
    assert ActionModelConfig(model=name).size == size


def test_the_registrys_files_are_those_that_torchvision_names():
    known = {weights.name: weights.source for weights in registry()}
    for name in ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v2_s", "swin3d_t"):
        assert torchvision.models.get_model_weights(name).DEFAULT.url == known[name]
        assert ActionModel(ActionModelConfig(model=name)).weights_sha256


def test_a_window_that_the_network_cannot_take():
    with pytest.raises(UsageError, match="mvit_v2_s cannot take 8 frames of 224x224") as caught:
        ActionModel(ActionModelConfig(model="mvit_v2_s", window=8))
    assert "use window=16 and size=224" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_weights_name_the_setting():
    with pytest.raises(AbortError, match=r"extractors\.\*\.weights: .*swin3d_b"):
        _ = ActionModel(ActionModelConfig(model="swin3d_b")).weights_sha256


def test_weights_of_another_network(saved):
    _, path = saved("r3d_18")
    with pytest.raises(AbortError, match="not the weights of r2plus1d_18") as caught:
        extracted(windows(1), model="r2plus1d_18", weights=path)
    assert "\n" not in str(caught.value)
