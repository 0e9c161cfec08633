"""Graphs of YAMNet's layout, built here, against onnxruntime called directly."""

from pathlib import Path

import faster_whisper
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from extractors.config import OnnxAudioConfig
from extractors.errors import AbortError, UsageError
from extractors.onnx_audio import OnnxAudio, _providers, yamnet_patches
from extractors.windows import Window, WindowCutter

CPU = torch.device("cpu")
SAMPLES = 15_600
CLASSES, EMBEDDING = 521, 1024


def weights_of(*shape, seed=0):
    return np.random.default_rng((seed, len(shape))).normal(0, 0.05, shape).astype(np.float32)


def save(path, nodes, shape, constants, kind=TensorProto.FLOAT):
    """A graph with YAMNet's two outputs."""
    graph = helper.make_graph(
        nodes,
        "tagger",
        [helper.make_tensor_value_info("input", kind, shape)],
        [helper.make_tensor_value_info("scores", kind, ["n", CLASSES]),
         helper.make_tensor_value_info("embedding", kind, ["n", EMBEDDING])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return str(path)


HEAD = [
    helper.make_node("MatMul", ["pooled", "dense"], ["embedding"]),
    helper.make_node("MatMul", ["embedding", "classes"], ["logits"]),
    helper.make_node("Sigmoid", ["logits"], ["scores"]),
]


def head_weights(width):
    return {"dense": weights_of(width, EMBEDDING), "classes": weights_of(EMBEDDING, CLASSES)}


def sound_graph(path, shape):
    """A front end of 64 filters of 25 ms every 10 ms, averaged: (n,) or (batch, n) sound."""
    constants = {"filters": weights_of(64, 1, 400), "as_channel": np.array([-1, 1, SAMPLES])}
    nodes = [
        helper.make_node("Reshape", ["input", "as_channel"], ["channel"]),
        helper.make_node("Conv", ["channel", "filters"], ["bands"], strides=[160]),
        helper.make_node("Relu", ["bands"], ["rectified"]),
        helper.make_node("ReduceMean", ["rectified"], ["pooled"], axes=[2], keepdims=0),
    ]
    return save(path, [*nodes, *HEAD], shape, constants | head_weights(64))


def patch_graph(path, shape):
    """Log-mel patches of 96 x 64, flattened."""
    constants = {"flat": np.array([-1, 96 * 64]), "reduce": weights_of(96 * 64, 32)}
    nodes = [
        helper.make_node("Reshape", ["input", "flat"], ["flattened"]),
        helper.make_node("MatMul", ["flattened", "reduce"], ["pooled"]),
    ]
    return save(path, [*nodes, *HEAD], shape, constants | head_weights(32))


def sounds(count):
    rng = np.random.default_rng((1, 0))
    return [Window(rng.integers(-9000, 9000, SAMPLES).astype(np.int16), 7680) for _ in range(count)]


def extracted(batch, **settings):
    extractor = OnnxAudio(OnnxAudioConfig(**settings))
    extractor.setup(CPU)
    rows = extractor.extract(batch)
    extractor.close()
    assert all(row.shape == (1, extractor.spec.dim) for row in rows)
    return np.concatenate(rows)


def directly(path, inputs, output):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run([output], {"input": given})[0] for given in inputs])


@pytest.mark.parametrize("shape", [[None], ["batch", None], [1, SAMPLES], ["batch", SAMPLES]])
@pytest.mark.parametrize(("output", "dim"), [(None, CLASSES), ("embedding", EMBEDDING)])
def test_sound_in(shape, output, dim, tmp_path):
    path = sound_graph(tmp_path / "x.onnx", shape)
    batch = sounds(3)
    given = [window.data.astype(np.float32) / 32768 for window in batch]
    expected = directly(path, given if len(shape) == 1 else [g[None] for g in given],
                        output or "scores")  # fmt: skip
    rows = extracted(batch, weights=path, output=output)
    assert rows.shape == (3, dim)
    np.testing.assert_allclose(rows, expected, atol=1e-6)  # another batch, another order of sums


@pytest.mark.parametrize("shape", [["b", 96, 64], [1, 96, 64], [96, 64], ["b", 1, 96, 64],
                                   ["b", 96, 64, 1], [1, 1, 96, 64]], ids=str)  # fmt: skip
def test_patches_in(shape, tmp_path):
    path = patch_graph(tmp_path / "x.onnx", shape)
    batch = sounds(2)
    patches = yamnet_patches(np.stack([window.data for window in batch]).astype(np.float32) / 32768)
    full = [1 if isinstance(length, str) else length for length in shape]
    expected = directly(path, [patch.reshape(full) for patch in patches], "scores")
    rows = extracted(batch, weights=path, input="yamnet_patch")
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    unit = extracted(batch, weights=path, input="yamnet_patch", normalise=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)


def test_patches_are_those_of_transformers_audio_utils():
    sound = sounds(1)[0].data.astype(np.float32) / 32768
    filters = mel_filter_bank(257, 64, 125.0, 7500.0, 16_000, mel_scale="htk",
                              triangularize_in_mel_space=True)  # fmt: skip
    expected = spectrogram(sound, window_function(400, "hann"), 400, 160, 512, power=1.0,
                           center=False, mel_filters=filters, mel_floor=0.0).T  # fmt: skip
    found = yamnet_patches(sound[None])
    assert found.shape == (1, 96, 64)
    np.testing.assert_allclose(found[0], np.log(expected + 0.001), atol=1e-5)


def test_a_file_is_cut_into_rows_at_their_times(tmp_path):
    extractor = OnnxAudio(OnnxAudioConfig(weights=sound_graph(tmp_path / "x.onnx", ["b", None])))
    assert extractor.spec.hop == pytest.approx(0.48)
    assert extractor.spec.start == pytest.approx(0.4875)
    cutter = WindowCutter(extractor.windowing)
    windows = [*cutter.push(np.ones(3 * 7680 + 1, np.int16)), *cutter.finish()]
    assert len(windows) == 4
    assert windows[-1].data[0] == 1
    assert not windows[-1].data[1:].any()


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    one = OnnxAudio(OnnxAudioConfig(weights=sound_graph(tmp_path / "one.onnx", [None])))
    moved = Path(one._config.weights).rename(tmp_path / "moved.onnx")
    two = OnnxAudio(OnnxAudioConfig(weights=str(moved)))
    other = OnnxAudio(OnnxAudioConfig(weights=patch_graph(tmp_path / "p.onnx", ["b", 96, 64]),
                                      input="yamnet_patch"))  # fmt: skip
    assert two.weights_sha256 != other.weights_sha256
    digest = two.weights_sha256
    moved.rename(tmp_path / "one.onnx")
    assert one.weights_sha256 == digest


def test_weights_in_a_second_file_are_refused(tmp_path):
    model = onnx.load(sound_graph(tmp_path / "whole.onnx", [None]))
    onnx.save(model, tmp_path / "split.onnx", save_as_external_data=True, location="split.data",
              size_threshold=0)  # fmt: skip
    with pytest.raises(AbortError, match=r"split.onnx: not one whole .onnx file"):
        OnnxAudio(OnnxAudioConfig(weights=str(tmp_path / "split.onnx")))


def test_a_real_model_that_is_no_tagger():
    """Silero's voice activity detector carries its state from call to call."""
    path = Path(faster_whisper.__file__).parent / "assets/silero_vad_v6.onnx"
    with pytest.raises(AbortError, match=r"takes input tensor\(float\), h .*one tensor of floats"):
        OnnxAudio(OnnxAudioConfig(weights=str(path)))


def test_what_does_not_fit_is_one_line(tmp_path):
    path = sound_graph(tmp_path / "x.onnx", ["b", SAMPLES])
    (tmp_path / "text.onnx").write_text("not a graph")
    (tmp_path / "empty.onnx").touch()
    wrong = [
        ({"weights": "/nowhere/x.onnx"}, "/nowhere/x.onnx: no such file"),
        ({"weights": str(tmp_path / "text.onnx")}, "not one whole .onnx file"),
        ({"weights": str(tmp_path / "empty.onnx")}, "not one whole .onnx file"),
        ({"weights": path, "output": "mel"}, "output = mel: .* has scores, embedding"),
        ({"weights": path, "window": 2.0}, r"its input input is \['b', 15600\], not \[1, 32000\]"),
        ({"weights": path, "window": 2.0, "input": "yamnet_patch"}, "a YAMNet patch takes 0.975"),
    ]
    for settings, message in wrong:
        with pytest.raises((AbortError, UsageError), match=message) as caught:
            OnnxAudio(OnnxAudioConfig(**settings))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValidationError, match="at most window"):
        OnnxAudioConfig(weights=path, hop=1.0)


def test_providers_follow_the_device(monkeypatch, caplog):
    assert _providers(CPU) == ["CPUExecutionProvider"]
    cuda = torch.device("cuda", 1)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert _providers(cuda) == ["CPUExecutionProvider"]
    assert "onnxruntime-gpu" in caplog.text
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert _providers(cuda)[0] == ("CUDAExecutionProvider", {"device_id": 1})


def test_threads_are_torchs(monkeypatch, tmp_path):
    path, seen = sound_graph(tmp_path / "x.onnx", [None]), []
    real = onnxruntime.InferenceSession

    def session(model, options, **rest):
        seen.append((options.intra_op_num_threads, options.inter_op_num_threads))
        return real(model, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    extracted(sounds(1), weights=path)
    assert set(seen) == {(torch.get_num_threads(), 1)}
