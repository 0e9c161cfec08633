"""training.clustering_losses against slow numpy written from the formulas."""

import math
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
import torch

from training.clustering_losses import (
    cluster_cross_entropy,
    kmeans_loss,
    prediction_pairs,
    sinkhorn_codes,
    sinkhorn_loss,
)
from training.config import LossConfig, SinkhornConfig
from training.model import McnOutput
from training.online_clustering import ABSENT, FUSED, Assignment

MARGIN = 0.3  # larger than the paper's, so that a wrong sign shows
PRESENT = {
    "video": [True, True, False, True, True],
    "audio": [True, False, True, True, True],
    "text": [True, True, True, True, False],
}
LABELS = np.array([0, 3, 1, 1, 2])


def slow_cluster(x, centroids, labels, margin, scale=1.0) -> float:
    total = 0.0
    for row, label in zip(x, labels, strict=True):
        logits = [scale * float(np.dot(row, c)) for c in centroids]
        logits[label] -= margin
        total -= math.log(math.exp(logits[label]) / sum(map(math.exp, logits)))
    return total / len(x)


def random_output(unit_length: bool = False) -> McnOutput:
    rng = np.random.default_rng(0)
    present = {name: torch.tensor(mask) for name, mask in PRESENT.items()}
    rows = {name: torch.tensor(rng.normal(size=(5, 3)), requires_grad=True) for name in PRESENT}
    heads = {name: torch.tensor(rng.normal(size=(5, 3)), requires_grad=True) for name in PRESENT}
    prototypes = {n: torch.tensor(rng.normal(size=(4, 3)), requires_grad=True) for n in PRESENT}
    return McnOutput(rows, present, torch.tensor(1.0), {}, heads, prototypes, unit_length)


def clusters(names: list[str]) -> dict[str, Assignment]:
    rng, found = np.random.default_rng(1), {}
    for shift, name in enumerate(names):
        labels = torch.tensor((LABELS + shift) % 4)
        if name in PRESENT:
            labels[~torch.tensor(PRESENT[name])] = ABSENT
        found[name] = Assignment(torch.tensor(rng.normal(size=(4, 3))), labels)
    return found


@pytest.mark.parametrize("unit_length", [False, True])
def test_joint_kmeans_on_each_modality(unit_length: bool) -> None:
    """The temperature is that of normalised similarity alone."""
    output, found = random_output(unit_length), clusters([FUSED])
    centroids, scale = found[FUSED].centroids_KD.numpy(), 2.0 if unit_length else 1.0
    expected = sum(
        slow_cluster(
            z.detach().numpy()[PRESENT[name]], centroids, LABELS[PRESENT[name]], MARGIN, scale
        )
        for name, z in output.embeddings.items()
    )
    config = LossConfig(clustering_temperature=0.5)
    loss = kmeans_loss(output, found, "joint", config, MARGIN)
    assert loss.item() == pytest.approx(expected / 3, rel=1e-9)


def test_joint_kmeans_on_the_fused_vector() -> None:
    output, found = random_output(), clusters([FUSED])
    fused = []
    for i in range(5):
        there = [output.embeddings[m][i].detach().numpy() for m in PRESENT if PRESENT[m][i]]
        fused.append(sum(there) / len(there))
    config = LossConfig(clustering_on="fused")
    loss = kmeans_loss(output, found, "joint", config, MARGIN)
    slow = slow_cluster(fused, found[FUSED].centroids_KD.numpy(), LABELS, MARGIN)
    assert loss.item() == pytest.approx(slow, rel=1e-9)


PAIRS = {
    "swapped": list(permutations(PRESENT, 2)),
    "own": [(name, name) for name in PRESENT],
    "all": list(product(PRESENT, PRESENT)),
}


@pytest.mark.parametrize("prediction", PAIRS)
def test_kmeans_of_each_modality(prediction: str) -> None:
    """Σ over (source, predictor), over clips that have both, of l with the source's clusters."""
    output, found = random_output(), clusters(list(PRESENT))
    expected = 0.0
    for source, name in PAIRS[prediction]:
        both = np.array(PRESENT[source]) & np.array(PRESENT[name])
        x = output.embeddings[name].detach().numpy()[both]
        labels = found[source].labels_N.numpy()[both]
        expected += slow_cluster(x, found[source].centroids_KD.numpy(), labels, MARGIN)
    loss = kmeans_loss(output, found, prediction, LossConfig(), MARGIN)
    assert loss.item() == pytest.approx(expected / 3, rel=1e-9)
    assert sorted(prediction_pairs(prediction, list(PRESENT))) == sorted(PAIRS[prediction])


def test_clusters_that_have_not_started_are_left_out() -> None:
    output, found = random_output(), clusters(list(PRESENT))
    del found["audio"]
    loss = kmeans_loss(output, found, "own", LossConfig(), MARGIN)
    loss.backward()
    assert output.embeddings["audio"].grad is None
    assert output.embeddings["video"].grad is not None


def test_centroids_carry_no_gradient() -> None:
    centroids = torch.randn(2, 3, requires_grad=True)
    x = torch.randn(4, 3, requires_grad=True)
    cluster_cross_entropy(x, centroids, torch.tensor([0, 1, 1, 0]), MARGIN).backward()
    assert centroids.grad is None
    assert x.grad is not None


def slow_codes(similarity: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """Sinkhorn-Knopp on exp(S / eps): columns to sums of N / K, rows to sums of 1."""
    codes = np.exp(similarity / epsilon)
    rows, columns = codes.shape
    for _ in range(iterations):
        codes = codes / codes.sum(0, keepdims=True) * rows / columns
        codes = codes / codes.sum(1, keepdims=True)
    return codes


def test_sinkhorn_codes() -> None:
    similarity = np.random.default_rng(0).normal(size=(12, 4))
    codes = sinkhorn_codes(torch.tensor(similarity), 0.5, 3).numpy()
    np.testing.assert_allclose(codes, slow_codes(similarity, 0.5, 3), rtol=1e-9)
    balanced = sinkhorn_codes(torch.tensor(similarity), 0.5, 200).numpy()
    np.testing.assert_allclose(balanced.sum(1), 1.0, rtol=1e-9)
    np.testing.assert_allclose(balanced.sum(0), 3.0, rtol=1e-6)
    extreme = sinkhorn_codes(torch.tensor(similarity * 1e4).float(), 0.05, 3)
    assert bool(extreme.isfinite().all())


@pytest.mark.parametrize("labels", ["soft", "hard"])
@pytest.mark.parametrize("prediction", ["joint", *PAIRS])
def test_sinkhorn(prediction: str, labels: str) -> None:
    """-1/3 Σ over pairs (m, m') of the mean over clips that have both of Σ_k Q_m log p_m'."""
    output, config = random_output(), SinkhornConfig(labels=labels, epsilon=0.5)
    logits = {
        name: (h @ output.prototypes[name].T).detach().numpy()
        for name, h in output.projections.items()
    }
    pairs, sources, there = PAIRS.get(prediction, []), dict(logits), dict(PRESENT)
    if prediction == "joint":
        pairs = [(FUSED, name) for name in PRESENT]
        weights = np.array([PRESENT[name] for name in logits], dtype=float)[:, :, None]
        sources = {FUSED: (np.stack(list(logits.values())) * weights).sum(0) / weights.sum(0)}
        there[FUSED] = [True] * 5
    codes = {}
    for name, similarity in sources.items():
        codes[name] = np.zeros((5, 4))
        made = slow_codes(similarity[there[name]], 0.5, 3)
        codes[name][there[name]] = np.eye(4)[made.argmax(1)] if labels == "hard" else made
    expected = 0.0
    for source, name in pairs:
        both = [i for i in range(5) if there[source][i] and there[name][i]]
        for i in both:
            p = np.exp(logits[name][i] / 0.1)
            expected -= float(codes[source][i] @ np.log(p / p.sum())) / len(both)
    loss, found = sinkhorn_loss(output, prediction, config, 0.1)
    assert loss.item() == pytest.approx(expected / 3, rel=1e-9)
    assert {name: len(code) for name, code in found.items()} == {
        name: sum(there[name]) for name in sources
    }


def test_sinkhorns_absent_rows_have_no_gradient_and_do_not_count() -> None:
    output, config = random_output(), SinkhornConfig()
    loss, _ = sinkhorn_loss(output, "joint", config, 0.1)
    loss.backward()
    for name, mask in PRESENT.items():
        moved = output.projections[name].grad.abs().sum(1) > 0
        assert moved.tolist() == mask
        assert bool(output.prototypes[name].grad.any())
    changed = {}
    for name, mask in PRESENT.items():
        changed[name] = output.projections[name].detach().clone()
        changed[name][~torch.tensor(mask)] = 7.0
    other, _ = sinkhorn_loss(replace(output, projections=changed), "joint", config, 0.1)
    assert other.item() == pytest.approx(loss.item(), rel=1e-12)
