"""training.steps: what a step does when numbers go wrong, half precision, compilation."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from extractors.errors import AbortError
from training.batches import TrainBatch
from training.config import TrainConfig
from training.sampling import ClipSampler, open_training_set
from training.steps import Training, start_training, training_step

CPU = torch.device("cpu")


def begin(dataset: str, config: TrainConfig) -> tuple[Training, list[TrainBatch]]:
    training_set = open_training_set(dataset, config.sampling)
    sampler = ClipSampler(training_set, config)
    return start_training(training_set, sampler, config, CPU), list(sampler.batches(0))


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in training.model.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.items())


def test_a_gradient_that_is_not_finite_stops_before_the_update(dataset: str, make_config) -> None:
    """The loss is a number all the same."""
    training, batches = begin(dataset, make_config())
    before = weights(training)
    training.model.video.gate.bias.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(AbortError, match=r"step 1: the gradient's norm is nan.*video0"):
        training_step(training, batches[0], make_config(), CPU)
    assert same(before, weights(training))


def test_a_batch_without_anything_stops(
    tmp_path: Path, make_dataset, make_sample, make_config
) -> None:
    """Four videos, three of them empty, one in a batch: the order decides when."""
    nothing = {"sound": False, "picture": False, "segments": 0}
    videos = [make_sample(0), *(make_sample(i, **nothing) for i in range(1, 4))]
    config = make_config(sampling__batch_videos=1)
    training, batches = begin(make_dataset(tmp_path / "set", videos), config)
    empty = next(batch for batch in batches if not batch.keys)
    with pytest.raises(AbortError, match=rf"has anything to train on; .*{empty.videos[0]}"):
        training_step(training, empty, config, CPU)


@pytest.mark.parametrize("clips", [None, 3])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_trains_near_float32(dataset: str, make_config, kind, clips) -> None:
    """As on CUDA, where `precision` sets these fields. bfloat16 has 8 bits: 1e-2 of a loss."""
    config = make_config(optimiser__microbatch_clips=clips)
    (full, batches), (half, _) = begin(dataset, config), begin(dataset, config)
    half.autocast = kind
    # a scale that these gradients survive, so that no update is skipped
    half.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=kind is torch.float16)
    before = weights(half)
    for batch in batches[:2]:
        a, b = (training_step(training, batch, config, CPU) for training in (full, half))
        assert b.losses["loss"] == pytest.approx(a.losses["loss"], rel=2e-2)
        assert b.losses["loss"] != a.losses["loss"]
        assert b.gradient_norm == pytest.approx(a.gradient_norm, rel=5e-2)
    assert not same(before, weights(half))
    assert all(weight.dtype == torch.float32 for weight in half.model.parameters())


def test_float16_skips_an_update_that_overflows(dataset: str, make_config) -> None:
    training, batches = begin(dataset, make_config())
    training.autocast = torch.float16
    training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = weights(training)
    report = training_step(training, batches[0], make_config(), CPU)
    assert report.gradient_norm == float("inf") or report.gradient_norm != report.gradient_norm
    assert same(before, weights(training))
    assert training.state()["scaler"]["scale"] == 2.0**39
    other, _ = begin(dataset, make_config())
    other.scaler = torch.amp.GradScaler("cpu")
    other.restore(training.state())
    assert other.scaler.get_scale() == 2.0**39


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("clips", [None, 3])
def test_a_compiled_model_trains_alike(
    dataset: str, make_config: Callable[..., TrainConfig], clips: int | None
) -> None:
    """Fused kernels round differently: 1e-4."""
    results = []
    for compiled in (False, True):
        config = make_config(compile=compiled, optimiser__microbatch_clips=clips)
        training, batches = begin(dataset, config)
        losses = [training_step(training, batch, config, CPU).losses for batch in batches]
        results.append((losses, training.state()["model"]))
    for a, b in zip(results[0][0], results[1][0], strict=True):
        assert b == pytest.approx(a, rel=1e-4)
    assert results[0][1].keys() == results[1][1].keys()
