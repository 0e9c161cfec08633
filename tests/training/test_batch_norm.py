"""training.batch_norm: alone, the norm that spans ranks is the plain one.

On several ranks: test_distributed.
"""

import pytest
import torch
from torch import nn

from training.batch_norm import RankedBatchNorm, resting_statistics, span_ranks
from training.davenet import Davenet, MaskedBatchNorm


def pair() -> tuple[MaskedBatchNorm, RankedBatchNorm]:
    """The plain norm and the one that spans ranks, of the same weights."""
    torch.manual_seed(0)
    plain, ranked = MaskedBatchNorm(3), nn.Sequential(MaskedBatchNorm(3))
    for norm in (plain, ranked[0]):
        nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
        nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(2))
    span_ranks(ranked)
    return plain, ranked[0]


@pytest.mark.parametrize("steps", [[6, 2, 4], [6, 6, 6], [0, 1, 0], [0, 0, 0], None])
def test_alone_it_is_the_plain_norm(steps: list[int] | None) -> None:
    """A large mean: the mean of squares would cancel. Twice, for the running statistics."""
    plain, ranked = pair()
    x = 1000 + torch.randn(3, 3, 6)
    valid = None if steps is None else torch.arange(6) < torch.tensor(steps)[:, None]
    for _ in range(2):
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [norm(i, valid) for norm, i in zip((plain, ranked), inputs, strict=True)]
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-4)
        for y in outputs:
            (y**2).sin().sum().backward()
        torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(ranked.weight.grad, plain.weight.grad, rtol=1e-3, atol=1e-3)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ranked.state_dict()[name], value)


def test_evaluation_uses_the_running_statistics() -> None:
    plain, ranked = pair()
    x = torch.randn(3, 3, 6)
    assert torch.equal(plain.eval()(x), ranked.eval()(x))


def test_a_model_keeps_its_weights_and_their_names() -> None:
    model = Davenet(5, (4, 4), 1, mask_padding=True)
    before = {name: value.data_ptr() for name, value in model.state_dict().items()}
    weights = {id(weight) for weight in model.parameters()}
    span_ranks(model)
    assert {name: value.data_ptr() for name, value in model.state_dict().items()} == before
    assert {id(weight) for weight in model.parameters()} == weights
    norms = [module for module in model.modules() if isinstance(module, MaskedBatchNorm)]
    assert norms
    assert all(type(norm) is RankedBatchNorm for norm in norms)


@pytest.mark.parametrize("which", [0, 1])
def test_resting_statistics_stay(which: int) -> None:
    norm = pair()[which]
    x, before = torch.randn(3, 3, 6), {n: v.clone() for n, v in norm.state_dict().items()}
    with resting_statistics(norm):
        rested = norm(x)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    torch.testing.assert_close(norm(x), rested)  # the batch's own statistics either way
    assert not torch.equal(norm.running_mean, before["running_mean"])
    assert int(norm.num_batches_tracked) == 1
