"""2D features against timm and torchvision themselves."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from pydantic import ValidationError
from torch import nn

from extractors.config import ImageModelConfig
from extractors.errors import AbortError, UsageError
from extractors.image_model import ImageModel
from extractors.image_networks import DIMS, rename_lite
from extractors.torch_model import load_state_dict
from extractors.weights import locate
from extractors.windows import Window

CPU = torch.device("cpu")
# a convolution may sum in another order for another batch size: measured 2e-6 at most
TOLERANCE = 1e-5


def frames(count, height=64, width=64, seed=0):
    """Smooth random pictures, one a window."""
    rng = np.random.default_rng((seed, 0))
    coarse = torch.from_numpy(rng.uniform(0, 255, (count, 3, 5, 5)).astype(np.float32))
    fine = nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255)
    pictures = fine.permute(0, 2, 3, 1).numpy().astype(np.uint8)
    return [Window(picture[None], 1) for picture in pictures]


def embed(windows, **settings):
    """The rows (N, D) of a model that is set up and closed again."""
    model = ImageModel(ImageModelConfig(**settings))
    model.setup(CPU)
    rows = model.extract(windows)
    model.close()
    assert all(row.shape == (1, model.spec.dim) for row in rows)
    return np.concatenate(rows)


def as_input(windows, mean, std):
    """Normalised (N, 3, H, W)."""
    pixels = torch.from_numpy(np.concatenate([window.data for window in windows]))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - torch.tensor(mean).view(3, 1, 1)) / (
        torch.tensor(std).view(3, 1, 1)
    )


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    """A torchvision ResNet-18 with random weights and statistics, and its state dict's path."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(network.state_dict(), path)
    return network, str(path)


def test_efficientnet_lite_is_timms():
    windows = frames(3, 224, 224)
    names = list(timm.create_model("tf_efficientnet_lite0").state_dict())
    state = load_state_dict(locate("efficientnet_lite0", None, "-"))
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(rename_lite(state, names))
    with torch.inference_mode():
        maps = network.forward_features(as_input(windows, [127 / 255] * 3, [128 / 255] * 3))
    np.testing.assert_allclose(embed(windows), unit(maps.mean((2, 3)).numpy()), atol=TOLERANCE)


def test_efficientnet_lite_knows_a_cat():
    """The weights are the trained ones, in their places: a photograph gets its ImageNet class."""
    skimage_data = pytest.importorskip("skimage.data")
    photo = skimage_data.chelsea()
    top = photo[20:280, 95:355]
    state = load_state_dict(locate("efficientnet_lite0", None, "-"))
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(rename_lite(state, list(network.state_dict())))
    picture = torch.from_numpy(top.copy()).permute(2, 0, 1)[None].float()
    resized = nn.functional.interpolate(picture, (224, 224), mode="bilinear", antialias=True)
    row = embed([Window(resized.round().byte().permute(0, 2, 3, 1).numpy(), 1)])
    scores = row @ network.classifier.weight.detach().numpy().T
    assert 281 <= scores.argmax() <= 285  # the five kinds of domestic cat of ImageNet


def test_a_resnet_is_torchvisions(resnet18):
    network, path = resnet18
    windows = frames(3)
    inputs = as_input(windows, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    found = {}
    handle = network.avgpool.register_forward_hook(lambda _m, _i, out: found.update(rows=out))
    with torch.inference_mode():
        network(inputs)
    handle.remove()
    rows = embed(windows, model="resnet18", weights=path)
    np.testing.assert_allclose(rows, unit(found["rows"].flatten(1).numpy()), atol=TOLERANCE)


def test_rows_are_of_length_one_and_float32(resnet18):
    rows = embed(frames(2), model="resnet18", weights=resnet18[1])
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_a_row_depends_on_its_frame_only(resnet18):
    windows = frames(7)
    settings = {"model": "resnet18", "weights": resnet18[1]}
    together = embed(windows, **settings)
    alone = np.concatenate([embed([window], **settings) for window in windows])
    shuffled = embed(windows[::-1], **settings)[::-1]
    np.testing.assert_allclose(together, alone, atol=TOLERANCE)
    np.testing.assert_allclose(together, shuffled, atol=TOLERANCE)
    assert np.abs(together[0] - together[1]).max() > 100 * TOLERANCE  # frames do differ


def test_frames_of_several_sizes_in_one_batch(resnet18):
    settings = {"model": "resnet18", "weights": resnet18[1], "fit": "whole"}
    wide, tall = frames(2, 64, 96), frames(2, 96, 64, seed=1)
    mixed = embed([wide[0], tall[0], wide[1], tall[1]], **settings)
    np.testing.assert_allclose(mixed[[0, 2]], embed(wide, **settings), atol=TOLERANCE)
    np.testing.assert_allclose(mixed[[1, 3]], embed(tall, **settings), atol=TOLERANCE)


def test_bfloat16_is_close(resnet18):
    settings = {"model": "resnet18", "weights": resnet18[1]}
    exact = embed(frames(2), **settings)
    rough = embed(frames(2), precision="bfloat16", **settings)
    assert rough.dtype == np.float32
    assert np.sum(exact * rough, axis=1).min() > 0.99


def test_wrong_weights_are_one_line(resnet18, tmp_path):
    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(1)}, other)
    text = tmp_path / "text.pth"
    text.write_text("this is no state dict")
    listed = tmp_path / "list.pth"
    torch.save([1, 2], listed)
    for name, path in [("resnet50", resnet18[1]), ("resnet18", other), ("resnet18", text),
                       ("efficientnet_lite0", other), ("resnet18", listed)]:  # fmt: skip
        model = ImageModel(ImageModelConfig(model=name, weights=str(path)))
        with pytest.raises(AbortError) as caught:
            model.setup(CPU)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        model.close()


def test_no_weights_at_all():
    with pytest.raises(AbortError, match=r"extractors\.\*\.weights: .*resnet18"):
        ImageModel(ImageModelConfig(model="resnet18")).setup(CPU)
    with pytest.raises(UsageError, match="no such file"):
        ImageModel(ImageModelConfig(weights="/nowhere/x.pth")).setup(CPU)


@pytest.mark.parametrize("name", [name for name in DIMS if name.startswith("resnet")])
def test_dims(name):
    with torch.device("meta"):
        assert torchvision.models.get_model(name).fc.in_features == DIMS[name]


def test_an_unknown_model_is_a_wrong_configuration():
    with pytest.raises(ValidationError, match="resnet152"):
        ImageModelConfig(model="resnet19")


def test_names_of_lite_are_changed_only_where_they_are_lukemelas():
    state = {"_conv_stem.weight": torch.zeros(1), "b": torch.ones(1)}
    assert rename_lite(state, ["x", "y"]) == {"x": torch.zeros(1), "y": torch.ones(1)}
    assert rename_lite({"conv_stem.weight": torch.zeros(1)}, ["x"]).keys() == {"conv_stem.weight"}
    assert rename_lite(state, ["x"]) is state


@pytest.mark.gpu
def test_the_gpu_gives_the_rows_of_the_cpu(resnet18):
    windows = frames(4)
    settings = {"model": "resnet18", "weights": resnet18[1]}
    model = ImageModel(ImageModelConfig(**settings))
    model.setup(torch.device("cuda"))
    rows = np.concatenate(model.extract(windows))
    np.testing.assert_allclose(rows, embed(windows, **settings), atol=2e-3)  # TF32
