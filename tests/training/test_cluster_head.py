"""training.cluster_head: heads and prototypes."""

import pytest
import torch

from training.cluster_head import ClusterHead, ClusterHeads
from training.config import SinkhornConfig

MODALITIES = ("video", "text")


def rows(seed: int = 0) -> torch.Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))


def test_a_head_is_linear_norm_relu_linear_and_unit_length() -> None:
    torch.manual_seed(0)
    head, z = ClusterHead(5, 7, 3), rows()
    hidden = head.hidden(z)
    normed = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    expected = head.out(torch.relu(normed))
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(head(z, torch.ones(6, dtype=torch.bool)), expected)


def test_absent_rows_are_not_in_the_batch_norm() -> None:
    head, z = ClusterHead(5, 7, 3), rows()
    there = torch.tensor([True, True, False, True, True, False])
    found = head(z, there)[there]
    torch.testing.assert_close(found, head(z[there], there[there]))


def test_prototypes_have_unit_length_when_told() -> None:
    heads = ClusterHeads(MODALITIES, 5, 7, SinkhornConfig(head_dim=3))
    for prototypes in heads.prototypes(MODALITIES).values():
        prototypes.data.mul_(3)
    heads.normalise_prototypes()
    for prototypes in heads.prototypes(MODALITIES).values():
        torch.testing.assert_close(prototypes.norm(dim=1), torch.ones(7))


@pytest.mark.parametrize("shared", [True, False])
def test_heads_are_shared_or_not(shared: bool) -> None:
    heads = ClusterHeads(MODALITIES, 5, 7, SinkhornConfig(head_dim=3, shared_head=shared))
    prototypes = heads.prototypes(MODALITIES)
    assert (prototypes["video"] is prototypes["text"]) == shared
    everywhere = torch.ones(6, dtype=torch.bool)
    made = heads.eval()(dict.fromkeys(MODALITIES, rows()), dict.fromkeys(MODALITIES, everywhere))
    assert torch.equal(made["video"], made["text"]) == shared
