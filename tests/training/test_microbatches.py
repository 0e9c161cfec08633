"""training.microbatches: a batch in parts has the losses and the gradients of the batch.

What equals what: without sound the model has no batch norm, and parts give what the whole batch
gives. With sound every part is normalised by its own statistics; the gradients are then those of
one pass that embeds the parts one by one, keeps the whole graph, and goes backward once.
"""

from collections.abc import Callable, Sequence

import pytest
import torch

from training.batches import TrainBatch
from training.config import TrainConfig
from training.losses import reconstruction_loss
from training.microbatches import deal, embedding_pass, gather_facts, gather_output, merge
from training.objective import joint_losses, weighted
from training.sampling import ClipSampler, open_training_set
from training.steps import Training, start_training, training_step

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def silent(tmp_path_factory, make_dataset, make_sample) -> str:
    videos = [make_sample(i, sound=False, segments=3) for i in range(12)]
    return make_dataset(tmp_path_factory.mktemp("silent") / "set", videos)


def begin(dataset: str, config: TrainConfig) -> tuple[Training, list[TrainBatch]]:
    training_set = open_training_set(dataset, config.sampling)
    sampler = ClipSampler(training_set, config)
    return start_training(training_set, sampler, config, CPU), list(sampler.batches(0))


def gradients(training: Training) -> dict[str, torch.Tensor]:
    return {
        name: weight.grad.clone()
        for name, weight in training.model.named_parameters()
        if weight.grad is not None
    }


def one_backward(
    training: Training, batch: TrainBatch, config: TrainConfig
) -> tuple[float, dict[str, torch.Tensor]]:
    """The same parts with their graphs kept: what GradCache must come to."""
    facts = gather_facts(batch, CPU)
    parts = deal(batch, training.microbatches, CPU)
    if training.model.heads is not None:  # as a step does; Sinkhorn magnifies the rounding of it
        training.model.heads.normalise_prototypes()
    outputs = [training.model(part.inputs) for part in parts]
    rebuilt = [reconstruction_loss(o.reconstructions, True, facts.counts()) for o in outputs]
    whole = gather_output(merge(parts, outputs), facts)
    joint = joint_losses(whole, facts, training.clustering, config, 0, 0)
    total = weighted(joint.terms, whole, config.loss) + torch.stack(rebuilt).sum()
    training.optimiser.zero_grad()
    total.backward()
    return float(total.detach()), gradients(training)


VARIANTS: dict[str, dict[str, object]] = {
    "mms, k-means": {},
    "nce, k-means of each": {"loss__contrastive": "nce", "clustering__prediction": "swapped"},
    "mil_nce, sinkhorn": {
        "loss__contrastive": "mil_nce",
        "clustering__method": "sinkhorn",
        "clustering__sinkhorn__frozen_epochs": 0,
    },
    "sinkhorn alone, one head": {
        "loss__contrastive_weight": 0.0,
        "clustering__method": "sinkhorn",
        "clustering__prediction": "all",
        "clustering__sinkhorn__labels": "hard",
        "clustering__sinkhorn__shared_head": True,
        "clustering__sinkhorn__frozen_epochs": 0,
    },
    "reconstruction alone": {"loss__contrastive_weight": 0.0, "loss__clustering_weight": 0.0},
}


def settings(
    make_config: Callable[..., TrainConfig], clips: int | None, **changes: object
) -> TrainConfig:
    return make_config(
        **changes,
        sampling__batch_videos=6,
        sampling__clips_per_video=3,
        sampling__min_time=1.0,
        model__learn_temperature=True,
        optimiser__microbatch_clips=clips,
    )


@pytest.mark.parametrize("clips", [1, 5, 9])
def test_without_batch_norm_parts_are_the_whole(silent: str, make_config, clips: int) -> None:
    """Sums in another order: equal to 1e-5 (seen: 1e-6)."""
    runs = [begin(silent, settings(make_config, number)) for number in (None, clips)]
    assert runs[1][0].microbatches == -(-18 // clips)
    for batches in zip(*(batches for _, batches in runs), strict=True):
        reports = [
            training_step(training, batch, settings(make_config, number), CPU)
            for (training, _), batch, number in zip(runs, batches, (None, clips), strict=True)
        ]
        assert reports[1].losses == pytest.approx(reports[0].losses, rel=1e-5)
        assert reports[1].clips == reports[0].clips
        expected = gradients(runs[0][0])
        assert "log_scale" in expected
        for name, gradient in gradients(runs[1][0]).items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_batch_norm_parts_are_normalised_alone(
    dataset: str, make_config, variant: str
) -> None:
    """Every kind of loss; those of the heads' vectors and prototypes are carried on too.

    Parts of 9, so that each holds two clips of every modality: batch norm over one row takes the
    running statistics, which move between the two passes.
    """
    config = settings(make_config, 9, **VARIANTS[variant])
    (training, batches), (slow, _) = begin(dataset, config), begin(dataset, config)
    assert training.microbatches > 1
    expected_loss, expected = one_backward(slow, batches[0], config)
    report = training_step(training, batches[0], config, CPU)
    assert report.losses["loss"] == pytest.approx(expected_loss, rel=1e-5)
    found = gradients(training)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)
    for (name, buffer), other in zip(
        training.model.named_buffers(), slow.model.buffers(), strict=True
    ):  # the running statistics have seen each part once
        torch.testing.assert_close(buffer, other, msg=name)


def test_batch_norm_is_where_parts_and_whole_differ(dataset: str, make_config) -> None:
    """Should this fail, the caveat of optimiser.microbatch_clips is out of date."""
    losses = []
    for clips in (None, 4):
        config = settings(make_config, clips)
        training, batches = begin(dataset, config)
        losses.append(training_step(training, batches[0], config, CPU).losses)
    assert losses[1]["mms_text_video"] == pytest.approx(losses[0]["mms_text_video"], rel=1e-5)
    assert losses[1]["mms_audio_video"] != pytest.approx(losses[0]["mms_audio_video"], rel=1e-3)


@pytest.mark.parametrize("number", [1, 2, 4, 50])
def test_every_clip_is_in_one_part(dataset: str, make_config, number: int) -> None:
    _, batches = begin(dataset, settings(make_config, None))
    parts = deal(batches[0], number, CPU)
    clips = len(batches[0].keys)
    together = torch.cat([part.index_P for part in parts])
    assert sorted(together.tolist()) == list(range(clips))
    sizes = [len(part.index_P) for part in parts]
    assert min(sizes) > 0
    assert max(sizes) <= clips / number + 6 / 2  # a video's clips are dealt in turn
    for part in parts:
        frames_B = batches[0].inputs.frames_B[part.index_P]
        assert torch.equal(part.inputs.frames_B, frames_B)


def test_parts_do_not_hang_on_the_number_of_ranks(dataset: str, make_config) -> None:
    config = settings(make_config, 5)
    training_set = open_training_set(dataset, config.sampling)

    def parts(rank: int, world_size: int) -> Sequence[set]:
        batch = next(ClipSampler(training_set, config, rank, world_size).batches(0))
        dealt = (batch.turns() % 4).tolist()
        clips = list(zip(batch.keys, batch.clips, strict=True))
        return [{clip for clip, at in zip(clips, dealt, strict=True) if at == i} for i in range(4)]

    alone = parts(0, 1)
    shares = [parts(rank, 3) for rank in range(3)]
    assert [set.union(*(share[i] for share in shares)) for i in range(4)] == alone


def test_an_embedding_pass_keeps_no_graph_only_where_it_is_cached(dataset, make_config) -> None:
    training, _ = begin(dataset, settings(make_config, None))
    for cached in (True, False):
        with embedding_pass(training.model, cached):
            assert torch.is_grad_enabled() != cached
    assert torch.is_grad_enabled()
