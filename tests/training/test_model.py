"""training.model: the branches and the fused vector."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pipeline.samples import VideoSample
from training.batches import ClipBatch, collate
from training.clips import Clip, TrackDims, clip_inputs
from training.config import ModelConfig, TrainConfig
from training.model import GatedUnit, Mcn, join

DIMS = TrackDims((24, 16), 40, 20)

MakeSample = Callable[..., VideoSample]
MakeConfig = Callable[..., TrainConfig]


def batch_of(config: TrainConfig, *samples: VideoSample) -> ClipBatch:
    clips = [clip_inputs(sample, Clip(0, 6), config.sampling, DIMS) for sample in samples]
    return collate(clips, DIMS, config)


def test_gated_unit() -> None:
    torch.manual_seed(0)
    unit = GatedUnit(5, 3)
    x = torch.randn(4, 5)
    W1, b1 = unit.linear.weight.detach().numpy(), unit.linear.bias.detach().numpy()
    W2, b2 = unit.gate.weight.detach().numpy(), unit.gate.bias.detach().numpy()
    y = x.numpy() @ W1.T + b1
    expected = y / (1 + np.exp(-(y @ W2.T + b2)))
    np.testing.assert_allclose(unit(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_sizes_of_the_paper() -> None:
    """148.7 M projections, 44.7 M audio network, 30.4 M decoders (derived from the shapes)."""
    with torch.device("meta"):
        model = Mcn(ModelConfig(), TrackDims((2048, 2048), 40, 300))

    def millions(*names: str) -> float:
        modules = [model.get_submodule(name) for name in names]
        return sum(p.numel() for module in modules for p in module.parameters()) / 1e6

    assert millions("video", "audio", "text_rows", "text") == pytest.approx(148.7, abs=0.05)
    assert millions("davenet") == pytest.approx(44.7, abs=0.05)
    assert millions("decoders") == pytest.approx(30.4, abs=0.05)


def test_embeddings_have_unit_length_or_not(make_sample: MakeSample, make_config) -> None:
    for similarity, scale in (("normalised", 20.0), ("raw", 1.0)):
        config = make_config(model__similarity=similarity)
        torch.manual_seed(0)
        output = Mcn(config.model, DIMS).eval()(batch_of(config, make_sample(0), make_sample(1)))
        norms = torch.cat([z.norm(dim=1) for z in output.embeddings.values()])
        assert torch.allclose(norms, torch.ones(6)) == (similarity == "normalised")
        assert float(output.scale) == pytest.approx(scale)


def test_a_learned_temperature_learns(make_sample: MakeSample, make_config: MakeConfig) -> None:
    config = make_config(model__learn_temperature=True)
    model = Mcn(config.model, DIMS)
    assert float(model.scale().detach()) == pytest.approx(20.0)
    model.scale().backward()
    assert float(model.log_scale.grad) == pytest.approx(20.0)


def test_absent_modalities_are_zero_and_said_to_be(make_sample: MakeSample, make_config) -> None:
    config = make_config()
    batch = batch_of(
        config,
        make_sample(0, sound=False),
        make_sample(1, segments=0),
        make_sample(2, picture=False),
    )
    output = Mcn(config.model, DIMS).eval()(batch)
    absent = [("audio", 0), ("text", 1), ("video", 2)]
    for name, z_BD in output.embeddings.items():
        for row in range(3):
            there = (name, row) not in absent
            assert bool(output.present[name][row]) == there
            assert bool(z_BD[row].any()) == there
    assert output.reconstructions["video"].weight_BF[:, 0].tolist() == [1, 1, 0]
    assert output.reconstructions["audio"].weight_BF[:, 0].tolist() == [0, 1, 1]


def test_an_absent_visual_track_has_no_weight(make_sample: MakeSample, make_config) -> None:
    config, sample = make_config(), make_sample(0)
    del sample.tracks["visual_2d"]
    output = Mcn(config.model, DIMS).eval()(batch_of(config, sample))
    assert output.reconstructions["video"].weight_BF[0].tolist() == [0.0] * 24 + [1.0] * 16


def test_text_padding_is_masked_and_leaks_without(make_config: MakeConfig) -> None:
    rows_BSE = torch.zeros(1, 4, 20)
    rows_BSE[0, 0] = torch.randn(20, generator=torch.Generator().manual_seed(1))
    for masked in (True, False):
        torch.manual_seed(0)
        model = Mcn(make_config(model__mask_padding=masked).model, DIMS)
        q_BD = model.pool_text(rows_BSE, torch.tensor([1]))
        alone_BD = torch.relu(model.text_rows(rows_BSE[:, 0]))
        leaked_BD = torch.maximum(alone_BD, torch.relu(model.text_rows.bias))
        torch.testing.assert_close(q_BD, alone_BD if masked else leaked_BD)
        assert not torch.allclose(alone_BD, leaked_BD)


def test_without_a_modality_there_is_no_branch(make_config: MakeConfig) -> None:
    model = Mcn(make_config().model, TrackDims((24, 16), 40, 0))
    assert model.modalities == ("video", "audio")
    assert not any("text" in name for name, _ in model.named_parameters())


def test_join_is_the_mean_of_what_is_there() -> None:
    v, a = torch.tensor([[3.0], [3.0], [0.0]]), torch.tensor([[9.0], [5.0], [0.0]])
    present = {"video": torch.tensor([True, True, False])}
    present["audio"] = torch.tensor([True, False, False])
    assert join({"video": v, "audio": a}, present).tolist() == [[6.0], [3.0], [0.0]]
