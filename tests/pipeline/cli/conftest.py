from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    """What anyone may have: a folder of .npy."""
    folder = tmp_path / "theirs" / "img_emb"
    folder.mkdir(parents=True)
    np.save(folder / "img_emb_0.npy", np.random.default_rng(1).standard_normal((40, 16)))
    return folder.parent
