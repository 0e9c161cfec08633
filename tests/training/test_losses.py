"""training.losses against slow numpy written from the formulas."""

import math

import numpy as np
import pytest
import torch

from training.config import LossConfig
from training.losses import (
    cluster_cross_entropy,
    clustering_loss,
    contrastive_loss,
    mms,
    reconstruction_loss,
)
from training.model import McnOutput, Reconstruction

MARGIN = 0.3  # larger than the paper's, so that a wrong sign shows
PRESENT = {
    "video": [True, True, False, True, True],
    "audio": [True, False, True, True, True],
    "text": [True, True, True, True, False],
}


def slow_mms(x, y, margin, scale=1.0, ignored=None) -> float:
    """-1/B sum_i [log e^(S_ii - d) / (e^(S_ii - d) + sum_j e^S_ij) + the same over columns]."""
    total, count = 0.0, len(x)
    for i in range(count):
        own = scale * float(np.dot(x[i], y[i])) - margin
        others = [j for j in range(count) if j != i and not (ignored is not None and ignored[i, j])]
        row = sum(math.exp(scale * float(np.dot(x[i], y[j]))) for j in others)
        column = sum(math.exp(scale * float(np.dot(x[j], y[i]))) for j in others)
        total -= math.log(math.exp(own) / (math.exp(own) + row))
        total -= math.log(math.exp(own) / (math.exp(own) + column))
    return total / count


def slow_cluster(x, centroids, labels, margin, scale=1.0) -> float:
    total = 0.0
    for row, label in zip(x, labels, strict=True):
        logits = [scale * float(np.dot(row, c)) for c in centroids]
        logits[label] -= margin
        total -= math.log(math.exp(logits[label]) / sum(map(math.exp, logits)))
    return total / len(x)


def random_output(scale: float = 1.0) -> McnOutput:
    rng = np.random.default_rng(0)
    present = {name: torch.tensor(mask) for name, mask in PRESENT.items()}
    rows = {name: torch.tensor(rng.normal(size=(5, 3)), requires_grad=True) for name in PRESENT}
    return McnOutput(rows, present, torch.tensor(scale), {})


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_mms(scale: float) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 6, 3))
    loss = mms(torch.tensor(x), torch.tensor(y), MARGIN, scale)
    assert float(loss) == pytest.approx(slow_mms(x, y, MARGIN, scale), rel=1e-9)


def test_mms_ignores_marked_pairs() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 4, 3))
    ignored = np.zeros((4, 4), dtype=bool)
    ignored[0, 2] = ignored[2, 0] = True
    loss = mms(torch.tensor(x), torch.tensor(y), MARGIN, 1.0, torch.tensor(ignored))
    assert float(loss) == pytest.approx(slow_mms(x, y, MARGIN, 1.0, ignored), rel=1e-9)


def test_mms_of_a_constant_is_chance_and_of_nothing_is_zero() -> None:
    x = torch.zeros(8, 3)
    assert float(mms(x, x, 0.0)) == pytest.approx(2 * math.log(8))
    empty = torch.zeros(0, 3, requires_grad=True)
    loss = mms(empty, empty, MARGIN)
    loss.backward()
    assert float(loss.detach()) == 0


def test_contrastive_loss_pairs_only_clips_that_have_both() -> None:
    output = random_output(scale=2.0)
    ignored = torch.zeros(5, 5, dtype=torch.bool)
    ignored[0, 3] = ignored[3, 0] = True
    losses = contrastive_loss(output, MARGIN, ignored)
    assert set(losses) == {"mms_text_video", "mms_audio_text", "mms_audio_video"}
    for name, loss in losses.items():
        _, a, b = name.split("_")
        both = np.array(PRESENT[a]) & np.array(PRESENT[b])
        x, y = (output.embeddings[m].detach().numpy()[both] for m in (a, b))
        slow = slow_mms(x, y, MARGIN, 2.0, ignored.numpy()[both][:, both])
        assert float(loss.detach()) == pytest.approx(slow, rel=1e-9)


def test_absent_rows_have_no_gradient() -> None:
    output = random_output()
    loss = sum(contrastive_loss(output, MARGIN).values())
    centroids, labels = torch.randn(2, 3).double(), torch.tensor([0, 1, 0, 1, 0])
    loss = loss + clustering_loss(output, centroids, labels, LossConfig(), 1.0)
    loss.backward()
    for name, mask in PRESENT.items():
        moved = output.embeddings[name].grad.abs().sum(1) > 0
        assert moved.tolist() == mask


def test_absent_rows_do_not_count_whatever_they_hold() -> None:
    output, other = random_output(), random_output()
    for name, mask in PRESENT.items():
        other.embeddings[name].data[~torch.tensor(mask)] = 1e3
    a, b = contrastive_loss(output, MARGIN), contrastive_loss(other, MARGIN)
    assert {k: v.item() for k, v in a.items()} == {k: v.item() for k, v in b.items()}


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_clustering_loss_of_each_modality(scale: float) -> None:
    output, rng = random_output(), np.random.default_rng(1)
    centroids, labels = rng.normal(size=(4, 3)), np.array([0, 3, 1, 1, 2])
    expected = sum(
        slow_cluster(
            z.detach().numpy()[PRESENT[name]], centroids, labels[PRESENT[name]], 0.3, scale
        )
        for name, z in output.embeddings.items()
    )
    config = LossConfig(margin=MARGIN)
    loss = clustering_loss(output, torch.tensor(centroids), torch.tensor(labels), config, scale)
    assert loss.item() == pytest.approx(expected / 3, rel=1e-9)


def test_clustering_loss_of_the_fused_vector() -> None:
    output, rng = random_output(), np.random.default_rng(1)
    centroids, labels = rng.normal(size=(4, 3)), np.array([0, 3, 1, 1, 2])
    fused = []
    for i in range(5):
        there = [output.embeddings[m][i].detach().numpy() for m in PRESENT if PRESENT[m][i]]
        fused.append(sum(there) / len(there))
    config = LossConfig(margin=MARGIN, clustering_on="fused")
    loss = clustering_loss(output, torch.tensor(centroids), torch.tensor(labels), config, 1.0)
    assert loss.item() == pytest.approx(slow_cluster(fused, centroids, labels, MARGIN), rel=1e-9)


def test_centroids_carry_no_gradient() -> None:
    centroids = torch.randn(2, 3, requires_grad=True)
    x = torch.randn(4, 3, requires_grad=True)
    cluster_cross_entropy(x, centroids, torch.tensor([0, 1, 1, 0]), MARGIN).backward()
    assert centroids.grad is None
    assert x.grad is not None


def test_reconstruction_loss_leaves_unknown_columns_and_rows_out() -> None:
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=(2, 3, 4))
    weight = np.array([[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]], dtype=float)
    rows = [
        np.mean((prediction[0] - target[0]) ** 2),
        np.mean((prediction[1, 2:] - target[1, 2:]) ** 2),
    ]
    audio_p, audio_t, audio_w = rng.normal(size=(3, 2)), rng.normal(size=(3, 2)), [[1], [0], [1]]
    audio_rows = np.mean((audio_p - audio_t) ** 2, axis=1)[[0, 2]]
    parts = {
        "video": Reconstruction(*map(torch.tensor, (prediction, target, weight))),
        "audio": Reconstruction(*map(torch.tensor, (audio_p, audio_t, np.array(audio_w, float)))),
    }
    loss = reconstruction_loss(parts, detach_targets=True)
    assert float(loss) == pytest.approx(np.mean(rows) + np.mean(audio_rows), rel=1e-6)


@pytest.mark.parametrize("detach", [True, False])
def test_reconstruction_targets_are_detached_or_not(detach: bool) -> None:
    prediction, target = torch.ones(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    part = Reconstruction(prediction, target, torch.ones(2, 1))
    reconstruction_loss({"audio": part}, detach).backward()
    assert (target.grad is None) == detach
    assert prediction.grad is not None
