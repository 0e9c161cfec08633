"""training.objective: which terms there are, what they weigh, what does not go together."""

import math

import pytest
import torch

from extractors.errors import UsageError
from training.losses import margin_at
from training.objective import check_losses
from training.sampling import ClipSampler, open_training_set
from training.steps import start_training, training_step

CPU = torch.device("cpu")
PAIRS = ("text_video", "audio_text", "audio_video")


def first_step(dataset: str, config):
    training_set = open_training_set(dataset, config.sampling)
    sampler = ClipSampler(training_set, config)
    training = start_training(training_set, sampler, config, CPU)
    before = {n: w.detach().clone() for n, w in training.model.named_parameters()}
    losses = training_step(training, next(sampler.batches(0)), config, CPU).losses
    return training, before, losses


ALONE = {
    "contrastive": {f"mms_{pair}" for pair in PAIRS},
    "clustering": {"clustering"},
    "reconstruction": {"reconstruction"},
}


@pytest.mark.parametrize("left_out", ALONE)
def test_each_term_can_be_left_out(dataset: str, make_config, left_out: str) -> None:
    _, _, losses = first_step(dataset, make_config(**{f"loss__{left_out}_weight": 0.0}))
    kept = [names for term, names in ALONE.items() if term != left_out]
    assert losses.keys() == {"loss"}.union(*kept)
    assert losses["loss"] == pytest.approx(sum(v for n, v in losses.items() if n != "loss"))


@pytest.mark.parametrize("kept", ALONE)
def test_each_term_alone(dataset: str, make_config, kept: str) -> None:
    others = {f"loss__{term}_weight": 0.0 for term in ALONE if term != kept}
    training, before, losses = first_step(dataset, make_config(**others))
    assert losses.keys() == {"loss"} | ALONE[kept]
    assert any(
        not torch.equal(weight, before[name]) for name, weight in training.model.named_parameters()
    )


def test_the_weights_weigh(dataset: str, make_config) -> None:
    weights = {"contrastive": 0.5, "clustering": 3.0, "reconstruction": 7.0}
    config = make_config(**{f"loss__{name}_weight": value for name, value in weights.items()})
    _, _, losses = first_step(dataset, config)
    expected = sum(weights[term] * losses[name] for term, names in ALONE.items() for name in names)
    assert losses["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["nce", "mil_nce"])
def test_the_other_contrastive_losses(dataset: str, make_config, kind: str) -> None:
    _, _, losses = first_step(dataset, make_config(loss__contrastive=kind))
    assert {f"{kind}_{pair}" for pair in PAIRS} < losses.keys()


def test_nce_is_mms_without_a_margin(dataset: str, make_config) -> None:
    _, _, a = first_step(dataset, make_config(loss__contrastive="nce"))
    _, _, b = first_step(dataset, make_config(loss__margin=0.0))
    _, _, c = first_step(dataset, make_config(loss__margin=0.2))
    assert a["nce_text_video"] == b["mms_text_video"] < c["mms_text_video"]


def test_the_margin_of_a_later_step(dataset: str, make_config) -> None:
    config = make_config(loss__margin=0.01, loss__margin_growth=3.0)
    training_set = open_training_set(dataset, config.sampling)
    sampler = ClipSampler(training_set, config)
    found = []
    for changed, step in ((config, 2000), (make_config(loss__margin=0.09), 0)):
        training = start_training(training_set, sampler, changed, CPU)
        training.step = step
        found.append(training_step(training, next(sampler.batches(0)), changed, CPU).losses)
    assert margin_at(2000, config.loss) == pytest.approx(0.09)
    assert found[0]["mms_text_video"] == pytest.approx(found[1]["mms_text_video"], rel=1e-6)


@pytest.mark.parametrize("method", ["kmeans", "sinkhorn"])
@pytest.mark.parametrize("prediction", ["joint", "swapped", "own", "all"])
def test_the_clustering_family(dataset: str, make_config, method: str, prediction: str) -> None:
    config = make_config(clustering__method=method, clustering__prediction=prediction)
    training, _, losses = first_step(dataset, config)
    assert math.isfinite(losses["clustering"])
    suffix = "" if prediction == "joint" else "_video"
    assert f"cluster_entropy{suffix}" in training.statistics
    assert (training.model.heads is None) == (method == "kmeans")


@pytest.mark.parametrize("left_out", ["video", "audio", "text"])
@pytest.mark.parametrize("method", ["kmeans", "sinkhorn"])
def test_two_modalities(dataset: str, make_config, method: str, left_out: str) -> None:
    kept = [name for name in ("video", "audio", "text") if name != left_out]
    config = make_config(sampling__modalities=kept, clustering__method=method)
    training, _, losses = first_step(dataset, config)
    pairs = [name for name in losses if name.startswith("mms_")]
    assert [set(name.split("_")[1:]) for name in pairs] == [set(kept)]
    assert math.isfinite(losses["loss"])
    assert set(training.model.modalities) == set(kept)


@pytest.mark.parametrize("frozen", [0, 1])
def test_prototypes_are_frozen_in_the_first_epochs(dataset: str, make_config, frozen: int) -> None:
    config = make_config(clustering__method="sinkhorn", clustering__sinkhorn__frozen_epochs=frozen)
    training, before, _ = first_step(dataset, config)
    moved = {  # by more than the rounding of another scaling to unit length
        name: not torch.allclose(weight, before[name], rtol=0, atol=1e-6)
        for name, weight in training.model.named_parameters()
        if name.startswith("heads.")
    }
    prototypes = [name for name in moved if name.endswith("prototypes.weight")]
    assert len(prototypes) == 3
    assert all(moved[name] == (frozen == 0) for name in prototypes)
    assert all(moved[name] for name in moved if name.endswith(("hidden.weight", "out.weight")))


def test_what_does_not_go_together_is_refused(make_config) -> None:
    nothing = {f"loss__{term}_weight": 0.0 for term in ALONE}
    with pytest.raises(UsageError, match="are all 0"):
        check_losses(make_config(**nothing))
    fused = {"loss__clustering_on": "fused"}
    for changes in ({"clustering__method": "sinkhorn"}, {"clustering__prediction": "swapped"}):
        with pytest.raises(UsageError, match="clustering_on = fused"):
            check_losses(make_config(**fused, **changes))
    check_losses(make_config(**fused))
