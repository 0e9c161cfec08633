"""Runs of small models that were never trained: what they give is random but fixed."""

from collections.abc import Callable

import pytest
import torch

from training.checkpoints import Run
from training.clips import TrackDims
from training.model import Mcn

DIMS = TrackDims(visual=(24, 16), audio=40, text=20)


@pytest.fixture(scope="session")
def make_run(make_config) -> Callable[..., Run]:
    """`changes` as of make_config."""

    def make(dims: TrackDims = DIMS, **changes: object) -> Run:
        config = make_config(**changes)
        torch.manual_seed(0)
        model = Mcn(config.model, dims).eval()
        return Run(model=model, config=config, card={"dataset": "the run's dataset"})

    return make
