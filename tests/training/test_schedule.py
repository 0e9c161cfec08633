"""training.schedule: the learning rate."""

from itertools import pairwise

import pytest
import torch

from training.config import OptimiserConfig
from training.schedule import lr_factor, make_optimiser, make_schedule


def test_warm_up_then_cosine_to_zero() -> None:
    factors = [lr_factor(step, 4, 104) for step in range(105)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[54] == pytest.approx(0.5)
    assert factors[104] == pytest.approx(0.0)
    assert all(a >= b for a, b in pairwise(factors[4:]))


def test_the_warm_up_is_at_most_a_tenth_of_a_run() -> None:
    assert lr_factor(1, 5000, 20) == 1.0
    assert lr_factor(0, 5000, 3) == 1.0


@pytest.mark.parametrize(("name", "kind"), [("adam", "Adam"), ("adamw", "AdamW")])
def test_the_schedule_drives_the_optimiser(name: str, kind: str) -> None:
    config = OptimiserConfig.model_validate({"name": name, "lr": 0.5, "weight_decay": 0.1})
    optimiser = make_optimiser(torch.nn.Linear(2, 2), config)
    schedule = make_schedule(optimiser, warmup_steps=2, total_steps=20)
    assert type(optimiser).__name__ == kind
    assert optimiser.param_groups[0]["weight_decay"] == 0.1
    rates = []
    for _ in range(3):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert rates == [0.25, 0.5, 0.5]
