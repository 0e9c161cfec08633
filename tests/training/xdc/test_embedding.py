"""training.xdc.embedding: a vector a video, the mean of its clips, by the encoders as they are."""

from pathlib import Path

import numpy as np
import torch

from training.xdc.clips import uniform_clips
from training.xdc.embedding import embed_set
from training.xdc.labelling import scratch_folder
from training.xdc.reading import ClipLoader, ClipReader
from training.xdc.state import start_xdc
from training.xdc.video_set import VideoSet

CPU = torch.device("cpu")


def test_rows_are_the_means_of_uniform_clips(videos: VideoSet, make_config, tmp_path: Path) -> None:
    """Three clips a video, one video a block: the same as each video on its own."""
    config = make_config()
    model = start_xdc(config, CPU).model
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with ClipLoader(videos, config, CPU) as loader:
        features = embed_set(model, videos, loader, 3, CPU, tmp_path)
    assert model.training
    for name, value in model.state_dict().items():  # batch norm has learned nothing
        assert torch.equal(value, state[name])
    reader = ClipReader(videos, config)
    model.eval()
    np.testing.assert_array_equal(features.seen_N, videos.seen_N)
    for modality, path in features.files.items():
        rows = np.load(path)
        assert rows.shape == (len(videos), 8)
        for i, row in enumerate(rows):
            if not videos.has(modality)[i]:
                assert not row.any()
                continue
            with torch.no_grad():
                vectors = model.encode(modality, reader.__getitems__(uniform_clips(i, 3)))
            np.testing.assert_allclose(row, vectors.mean(0), rtol=1e-4, atol=1e-6)


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".features"
    left.mkdir()
    (left / "video.npy").write_bytes(b"gigabytes")
    with scratch_folder(str(tmp_path)) as folder:
        assert list(folder.iterdir()) == []
    assert not left.exists()
    with scratch_folder("memory://run") as folder:
        assert folder.is_dir()
    assert not folder.exists()
