"""Any torchvision or timm network, CLIP and SigLIP: rows against the libraries' own forward."""

import json

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from pydantic import ValidationError
from torch import nn

from extractors.config import ImageModelConfig
from extractors.errors import AbortError, UsageError
from extractors.image_model import ImageModel
from extractors.image_networks import image_facts
from extractors.windows import Window

CPU = torch.device("cpu")


def frames(count, size, seed=0):
    rng = np.random.default_rng((seed, 0))
    return [Window(rng.integers(0, 256, (1, size, size, 3), np.uint8), 1) for _ in range(count)]


def rows_of(windows, **settings):
    model = ImageModel(ImageModelConfig(**settings))
    model.setup(CPU)
    rows = np.concatenate(model.extract(windows))
    model.close()
    assert rows.shape == (len(windows), model.spec.dim)
    return rows


def unit(rows):
    return nn.functional.normalize(rows, dim=1).numpy()


def inputs(windows, mean, std):
    pixels = torch.from_numpy(np.concatenate([window.data for window in windows]))
    pixels = pixels.permute(0, 3, 1, 2).float() / 255
    return torchvision.transforms.functional.normalize(pixels, list(mean), list(std))


# torchvision: what enters the classifier, by its own metadata


@pytest.mark.parametrize(
    ("name", "size"),
    [("mobilenet_v3_small", 96), ("squeezenet1_1", 96), ("regnet_y_400mf", 64),
     ("googlenet", 96)],
)  # fmt: skip
def test_rows_are_what_enters_torchvisions_classifier(name, size, tmp_path):
    torch.manual_seed(0)
    published = {"init_weights": False, "transform_input": True} if name == "googlenet" else {}
    network = torchvision.models.get_model(name, **published).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    windows = frames(2, size)
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    x = inputs(windows, preset.mean, preset.std)
    found = {}
    last = {"mobilenet_v3_small": "classifier.3", "regnet_y_400mf": "fc", 
            "googlenet": "fc"}.get(name)  # fmt: skip
    if last:
        layer = network.get_submodule(last)
        layer.register_forward_pre_hook(lambda _m, given: found.update(rows=given[0]))
    with torch.inference_mode():
        network(x)
        expected = found["rows"] if last else network.features(x).mean((2, 3))
    rows = rows_of(windows, model=name, weights=str(tmp_path / "weights.pth"), size=size)
    np.testing.assert_allclose(rows, unit(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "dim", "size", "mean"),
    [
        ("inception_v3", 2048, 299, 0.485),
        ("efficientnet_b3", 1536, 300, 0.485),
        ("vit_b_16", 768, 224, 0.485),
        ("vgg11", 4096, 224, 0.485),
        ("timm/vit_base_patch16_clip_224.openai", 768, 224, 0.48145466),
        ("timm/tf_efficientnet_lite0", 1280, 224, 0.5),
        ("timm/mobilenetv3_small_100", 1024, 224, 0.485),
    ],
)
def test_facts_are_the_networks_own(name, dim, size, mean):
    facts = image_facts(name)
    assert (facts.dim, facts.size, facts.mean[0]) == (dim, size, mean)
    assert ImageModelConfig(model=name).size == size
    assert ImageModelConfig(model=name, size=64).size == 64


# timm


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "vit_tiny_patch16_224", "resnet10t"])
def test_rows_are_timms_pooled_features(name, tmp_path):
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    cfg = timm.data.resolve_data_config(model=network)
    windows = frames(2, cfg["input_size"][1])
    with torch.inference_mode():
        x = inputs(windows, cfg["mean"], cfg["std"])
        expected = network.forward_head(network.forward_features(x), pre_logits=True)
    rows = rows_of(windows, model=f"timm/{name}", weights=str(tmp_path / "weights.pth"))
    np.testing.assert_allclose(rows, unit(expected), atol=1e-5)


# transformers


def save_tower(folder, kind):
    torch.manual_seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
              "num_attention_heads": 2, "image_size": 64, "patch_size": 16}  # fmt: skip
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "vocab_size": 64,
            "bos_token_id": None, "eos_token_id": None}  # fmt: skip
    if kind == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        model = transformers.CLIPModel(config)
    else:
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        model = transformers.SiglipModel(config)
    model.eval().save_pretrained(folder)
    preset = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
    (folder / "preprocessor_config.json").write_text(json.dumps(preset))
    return model


@pytest.mark.parametrize(("kind", "dim"), [("clip", 24), ("siglip", 32)])
def test_rows_are_the_towers_embeddings(kind, dim, tmp_path):
    model = save_tower(tmp_path, kind)
    windows = frames(2, 64)
    with torch.inference_mode():
        found = model.get_image_features(inputs(windows, [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]))
    expected = found if isinstance(found, torch.Tensor) else found.pooler_output
    name = f"hf/{tmp_path}"
    assert ImageModelConfig(model=name).size == 64
    rows = rows_of(windows, model=name)
    assert rows.shape == (2, dim)
    np.testing.assert_allclose(rows, unit(expected), atol=1e-5)
    first = ImageModel(ImageModelConfig(model=name)).weights_sha256
    (tmp_path / "model.safetensors").write_bytes(b"other")
    changed = ImageModel(ImageModelConfig(model=name))
    assert changed.weights_sha256 != first
    with pytest.raises(AbortError, match="cannot be read as weights"):
        changed.setup(CPU)


# what cannot be


@pytest.mark.parametrize(
    "name", ["resnet19", "timm/resnet5", "timm/vit_base_patch16_224.x", "r3d_18"]
)
def test_an_unknown_name_is_answered_with_near_ones(name):
    with pytest.raises(ValidationError, match="not known"):
        ImageModelConfig(model=name)


def test_a_folder_that_is_no_tower(tmp_path):
    with pytest.raises(ValidationError, match="not a CLIP or SigLIP folder"):
        ImageModelConfig(model=f"hf/{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "bert", "vision_config": {}}')
    preset = {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preset))
    with pytest.raises(ValidationError, match="bert; allowed: clip, siglip"):
        ImageModelConfig(model=f"hf/{tmp_path}")


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "timm/resnet10t"])
def test_missing_weights_name_the_setting_before_anything_loads(name):
    with pytest.raises(AbortError, match=r"extractors\.\*\.weights") as caught:
        _ = ImageModel(ImageModelConfig(model=name)).weights_sha256
    assert "\n" not in str(caught.value)


def test_a_size_that_the_network_cannot_take(tmp_path):
    save_tower(tmp_path, "clip")
    for settings in ({"model": "vit_b_16", "size": 96},
                     {"model": "timm/vit_tiny_patch16_224", "fit": "whole"},
                     {"model": f"hf/{tmp_path}", "size": 96}):  # fmt: skip
        with pytest.raises(UsageError, match="cannot take frames of") as caught:
            ImageModel(ImageModelConfig(**settings))
        assert "\n" not in str(caught.value)
    ImageModel(ImageModelConfig(model="mobilenet_v3_small", size=96, fit="whole"))
