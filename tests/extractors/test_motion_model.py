"""Motion rows: facts, independence of the batch, wrong weights (the trunk: test_transnet.py)."""

import numpy as np
import pytest
import torch

from extractors.config import MotionModelConfig
from extractors.errors import AbortError
from extractors.motion_model import MotionModel
from extractors.windows import Window

CPU = torch.device("cpu")


def windows(count, seed=0):
    """Moving noise, 16 frames of 27 x 48."""
    rng = np.random.default_rng((seed, 0))
    return [Window(rng.integers(0, 256, (16, 27, 48, 3), np.uint8), 16) for _ in range(count)]


def extracted(batch):
    model = MotionModel(MotionModelConfig())
    model.setup(CPU)
    rows = model.extract(batch)
    model.close()
    return np.concatenate(rows)


def test_rows_are_unit_and_independent_of_the_batch():
    batch = windows(3)
    rows = extracted(batch)
    assert rows.shape == (3, 768)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    alone = np.concatenate([extracted([window]) for window in batch])
    np.testing.assert_allclose(rows, alone, atol=1e-5)


def test_wrong_weights(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(AbortError, match="not the weights of TransNet V2"):
        MotionModel(MotionModelConfig(weights=str(path))).setup(CPU)


def test_facts():
    model = MotionModel(MotionModelConfig(rate=8, window=16))
    assert (model.spec.start, model.spec.hop) == (1.0, 2.0)
    assert model.windowing.tail == "edge"
