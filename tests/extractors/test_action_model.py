"""3D features against torchvision's own network."""

import numpy as np
import pytest
import torch
import torchvision
from pydantic import ValidationError

from extractors.action_model import DIM, ActionModel
from extractors.config import ActionModelConfig
from extractors.errors import AbortError
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
    assert rows.shape == (2, DIM)
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
    with pytest.raises(ValidationError, match="r3d_18"):
        ActionModelConfig(model="s3d")


def test_weights_of_another_network(saved):
    _, path = saved("r3d_18")
    with pytest.raises(AbortError, match="not the weights of r2plus1d_18") as caught:
        extracted(windows(1), model="r2plus1d_18", weights=path)
    assert "\n" not in str(caught.value)
