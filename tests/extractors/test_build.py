"""What holds of every kind: its rows depend on their own windows alone, in every precision."""

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torchvision

from extractors import plugins
from extractors.build import build_extractor
from extractors.config import (
    ActionModelConfig,
    AudioModelConfig,
    ExtractorConfig,
    ImageModelConfig,
    LogMelConfig,
    MeanColourConfig,
    MotionModelConfig,
    OnnxAudioConfig,
    PluginConfig,
    ShotsConfig,
    XdcAudioConfig,
    XdcVideoConfig,
)
from extractors.errors import AbortError
from extractors.views import FrameView
from extractors.windows import Window
from tests.extractors.test_audio_model import ast, wav2vec2
from tests.extractors.test_onnx_audio import sound_graph
from tests.extractors.test_resnext_3d import random_state
from tests.extractors.test_xdc_model import write_encoders

pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")
CPU = torch.device("cpu")
# Of the largest number of a row. A library may sum in another order for another batch size:
# float32 has 24 bits, of which such sums lose a few (measured 1e-6 at most); bfloat16 has 8 and
# float16 has 11, so that one sum in another order is one step of these (measured 0: none was).
TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 5e-3}
# Of unit rows against float32's: the rounding of all layers. Measured 7e-4 in float16; in bfloat16
# 0.011, but 0.18 for wav2vec2, which begins by rounding the sound itself to 8 bits.
AGAINST_FLOAT32 = {"bfloat16": 0.3, "float16": 5e-3}


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """A name to the settings of an extractor with small random weights, or the registry's."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name in ("resnet18", "mc3_18"):
        torch.save(torchvision.models.get_model(name).state_dict(), folder / f"{name}.pth")
    for build in (wav2vec2, ast):
        model, features = build()
        model.save_pretrained(folder / build.__name__)
        features.save_pretrained(folder / build.__name__)
    write_encoders(folder)
    graph = sound_graph(folder / "tagger.onnx", ["batch", None])
    image = {"model": "resnet18", "weights": str(folder / "resnet18.pth"), "size": 64}
    action = {"model": "mc3_18", "weights": str(folder / "mc3_18.pth"), "size": 32, "window": 4}
    resnext = {"model": "resnext101_3d", "weights": str(folder / "resnext.pth"), "size": 32}
    return {
        "image": ImageModelConfig(**image),
        "image whole": ImageModelConfig(**image, fit="whole", normalise=False),
        "action": ActionModelConfig(**action),
        "action resnext": ActionModelConfig(**resnext),
        "motion": MotionModelConfig(window=8),
        "shots": ShotsConfig(),
        "log_mel": LogMelConfig(),
        "log_mel xdc": LogMelConfig(front_end="xdc"),
        "onnx_audio": OnnxAudioConfig(weights=graph, output="embedding"),
        "audio_model": AudioModelConfig(weights=str(folder / "wav2vec2"), window=1.0),
        "audio_model ast": AudioModelConfig(weights=str(folder / "ast"), window=1.0),
        "xdc_video": XdcVideoConfig(run=str(folder)),
        "xdc_audio": XdcAudioConfig(run=str(folder), hop=0.8),
        "mean_colour": MeanColourConfig(),
        "plugin": PluginConfig(name="own", settings={"config": MeanColourConfig()}),
    }


NAMES = ("image", "image whole", "action", "action resnext", "motion", "shots", "log_mel",
         "log_mel xdc", "onnx_audio", "audio_model", "audio_model ast", "xdc_video",
         "xdc_audio", "mean_colour", "plugin")  # fmt: skip
SLOW = ("shots", "action resnext")  # billions of multiply-adds, or 190 MB of weights
PRECISE = ("image", "action", "audio_model", "xdc_video", "xdc_audio")
WITH_PRECISION = [name for name in NAMES if name.split()[0] in PRECISE]


@pytest.fixture
def built(configs, monkeypatch):
    """Builds by name and sets up, with settings changed; closes at the end."""
    point = EntryPoint("own", "extractors.mean_colour:MeanColour", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda **_: [point])
    open_ones = []

    def build(name, **changes):
        config = configs[name].model_copy(update=changes)
        if name == "action resnext" and not Path(config.weights).exists():
            torch.save(random_state(), config.weights)
        extractor = build_extractor(config)
        extractor.setup(CPU)
        open_ones.append(extractor)
        return extractor

    yield build
    for extractor in open_ones:
        extractor.close()


def windows_for(extractor, count):
    """Of different content; frames of `fit: whole` of different sizes."""
    rng = np.random.default_rng((0, 0))
    size, view = extractor.windowing.size, extractor.view
    made = []
    for number in range(count):
        if isinstance(view, FrameView):
            source = (90, 120) if number % 2 else (160, 90)
            shape = (size, *view.frame_size(*source), 3)
            data = rng.integers(0, 256 // (1 + number % 2), shape, np.uint8)
        else:
            data = (rng.normal(0, 3000 * (number + 1), size)).astype(np.int16)
        made.append(Window(data, extractor.windowing.step))
    return made


def test_every_kind_is_here(configs):
    kinds = {kind.model_fields["kind"].default for kind in get_args(get_args(ExtractorConfig)[0])}
    assert {name.split()[0] for name in NAMES} == kinds
    assert set(configs) == set(NAMES)


def check_independence(extractor, tolerance):
    """A window alone, and behind another one. Gives its rows."""
    first, second = windows_for(extractor, 2)
    (alone,) = extractor.extract([second])
    neighbour, behind = extractor.extract([first, second])
    assert behind.dtype == np.float32
    assert np.isfinite(behind).all()
    np.testing.assert_allclose(behind, alone, atol=tolerance * np.abs(alone).max(), rtol=0)
    assert not np.array_equal(neighbour, behind)
    return alone


def marked(names):
    return [pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW)) for each in names]


@pytest.mark.parametrize("name", marked(NAMES))
def test_rows_depend_on_their_window_alone(name, built):
    extractor = built(name)
    (rows,) = extractor.finish([check_independence(extractor, TOLERANCE["float32"])])
    assert rows.shape[1] == extractor.spec.dim


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", marked(WITH_PRECISION))
def test_every_precision(name, precision, built):
    exact = built(name, normalise=True)
    try:
        extractor = built(name, precision=precision, normalise=True)
    except AbortError:  # not every processor computes in float16
        assert precision == "float16"
        return
    check_independence(extractor, TOLERANCE[precision])
    windows = windows_for(exact, 1)
    (wanted,), (found,) = exact.extract(windows), extractor.extract(windows)
    assert np.linalg.norm(wanted - found) < AGAINST_FLOAT32[precision]


@pytest.mark.parametrize("name", marked([*WITH_PRECISION, "onnx_audio"]))
def test_the_papers_post_step_is_a_setting(name, built):
    raw, unit = built(name, normalise=False, dtype="float32"), built(name, normalise=True)
    (given,), (found,) = raw.extract(windows_for(raw, 1)), unit.extract(windows_for(unit, 1))
    assert abs(np.linalg.norm(given) - 1) > 0.01
    np.testing.assert_allclose(given / np.linalg.norm(given), found, atol=1e-6)
    assert (raw.spec.dtype, unit.spec.dtype) == ("float32", "float16")
