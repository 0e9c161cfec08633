"""training.losses against slow numpy written from the formulas."""

import math

import numpy as np
import pytest
import torch

from training.config import LossConfig
from training.losses import contrastive_loss, margin_at, mil_nce, mms, reconstruction_loss
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


def slow_mil_nce(x, y, positive, scale, ignored) -> float:
    """-1/B sum_i log [sum over positives e^S_ij / sum over all e^S_ij], and over columns."""
    total, count = 0.0, len(x)
    for i in range(count):
        row = [math.exp(scale * float(np.dot(x[i], y[j]))) for j in range(count)]
        column = [math.exp(scale * float(np.dot(x[j], y[i]))) for j in range(count)]
        for terms in (row, column):
            right = sum(terms[j] for j in range(count) if positive[i, j])
            every = sum(terms[j] for j in range(count) if positive[i, j] or not ignored[i, j])
            total -= math.log(right / every)
    return total / count


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


def bags() -> tuple[np.ndarray, np.ndarray]:
    """Positives, not symmetric, and ignored pairs, one of which is positive too."""
    positive = np.eye(5, dtype=bool)
    positive[0, 1] = positive[1, 0] = positive[3, 4] = True
    ignored = np.zeros((5, 5), dtype=bool)
    ignored[0, 2] = ignored[2, 0] = ignored[3, 4] = ignored[4, 3] = True
    return positive, ignored


def test_mil_nce() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 5, 3))
    positive, ignored = bags()
    loss = mil_nce(*map(torch.tensor, (x, y, positive)), 1.7, torch.tensor(ignored))
    assert float(loss) == pytest.approx(slow_mil_nce(x, y, positive, 1.7, ignored), rel=1e-9)


def test_mil_nce_of_one_right_answer_is_nce() -> None:
    x, y = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)).double()
    alone = mil_nce(x, y, torch.eye(6, dtype=torch.bool), 2.0)
    assert float(alone) == pytest.approx(float(mms(x, y, 0.0, 2.0)), rel=1e-12)
    empty = mil_nce(x[:0], y[:0], torch.zeros(0, 0, dtype=torch.bool))
    assert float(empty) == 0


def test_mil_nce_and_its_gradient_stay_finite_at_large_similarities() -> None:
    x = (torch.eye(4) * 40).requires_grad_()
    loss = mil_nce(x, x, torch.eye(4, dtype=torch.bool))
    loss.backward()
    assert math.isfinite(loss.item())
    assert bool(x.grad.isfinite().all())


@pytest.mark.parametrize("kind", ["nce", "mil_nce"])
def test_other_contrastive_losses_of_clips_that_have_both(kind: str) -> None:
    output, (positive, ignored) = random_output(scale=2.0), bags()
    config = LossConfig(contrastive=kind, margin=MARGIN)
    losses = contrastive_loss(output, config, MARGIN, *map(torch.tensor, (ignored, positive)))
    assert set(losses) == {f"{kind}_{pair}" for pair in ("text_video", "audio_text", "audio_video")}
    for name, loss in losses.items():
        a, b = name.removeprefix(f"{kind}_").split("_")
        both = np.array(PRESENT[a]) & np.array(PRESENT[b])
        x, y = (output.embeddings[m].detach().numpy()[both] for m in (a, b))
        others = ignored[both][:, both]
        slow = slow_mil_nce(x, y, positive[both][:, both], 2.0, others)
        if kind == "nce":  # no margin, whatever is set
            slow = slow_mms(x, y, 0.0, 2.0, others)
        assert float(loss.detach()) == pytest.approx(slow, rel=1e-9)


def test_the_margin_grows_every_thousand_steps() -> None:
    config = LossConfig(margin=0.01, margin_growth=2.0)
    assert [margin_at(step, config) for step in (0, 999, 1000, 3500)] == [0.01, 0.01, 0.02, 0.08]
    assert margin_at(10**6, LossConfig()) == 0.001


def test_contrastive_loss_pairs_only_clips_that_have_both() -> None:
    output = random_output(scale=2.0)
    ignored = torch.zeros(5, 5, dtype=torch.bool)
    ignored[0, 3] = ignored[3, 0] = True
    losses = contrastive_loss(output, LossConfig(), MARGIN, ignored)
    assert set(losses) == {"mms_text_video", "mms_audio_text", "mms_audio_video"}
    for name, loss in losses.items():
        _, a, b = name.split("_")
        both = np.array(PRESENT[a]) & np.array(PRESENT[b])
        x, y = (output.embeddings[m].detach().numpy()[both] for m in (a, b))
        slow = slow_mms(x, y, MARGIN, 2.0, ignored.numpy()[both][:, both])
        assert float(loss.detach()) == pytest.approx(slow, rel=1e-9)


def test_absent_rows_have_no_gradient() -> None:
    output = random_output()
    sum(contrastive_loss(output, LossConfig(), MARGIN).values()).backward()
    for name, mask in PRESENT.items():
        moved = output.embeddings[name].grad.abs().sum(1) > 0
        assert moved.tolist() == mask


def test_absent_rows_do_not_count_whatever_they_hold() -> None:
    output, other = random_output(), random_output()
    for name, mask in PRESENT.items():
        other.embeddings[name].data[~torch.tensor(mask)] = 1e3
    a, b = (contrastive_loss(made, LossConfig(), MARGIN) for made in (output, other))
    assert {k: v.item() for k, v in a.items()} == {k: v.item() for k, v in b.items()}


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
