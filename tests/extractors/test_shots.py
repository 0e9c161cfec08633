"""Shots against TransNet V2 written plainly: 3D convolutions, loops, the published weights."""

import numpy as np
import pytest
import torch
from torch import nn

from extractors.config import ShotsConfig
from extractors.errors import AbortError
from extractors.shots import Shots, cut_shots
from extractors.torch_model import load_state_dict
from extractors.tracks import Track
from extractors.weights import locate
from extractors.windows import WindowCutter
from tests.extractors.test_transnet import Stage

CPU = torch.device("cpu")


def banded(rows):
    """(T, 101): similarities of each row to those 50 before it to 50 after it."""
    found = torch.zeros(len(rows), 101)
    for t in range(len(rows)):
        for other in range(max(0, t - 50), min(len(rows), t + 51)):
            found[t, other - t + 50] = rows[t] @ rows[other]
    return found


class Published(nn.Module):
    """TransNet V2 for one window of (T, 27, 48, 3) uint8."""

    def __init__(self):
        super().__init__()
        self.SDDCNN = nn.ModuleList([Stage(3, 16), Stage(64, 32), Stage(128, 64)])
        self.frame_sim_layer = nn.ModuleDict(
            {"projection": nn.Linear(448, 128), "fc": nn.Linear(101, 128)}
        )
        self.color_hist_layer = nn.ModuleDict({"fc": nn.Linear(101, 128)})
        self.fc1, self.cls_layer1 = nn.Linear(4864, 1024), nn.Linear(1024, 1)
        self.cls_layer2 = nn.Linear(1024, 1)

    def forward(self, frames):
        x = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 255
        means = []
        for stage in self.SDDCNN:
            x = stage(x)
            means.append(x.mean((3, 4))[0].T)
        projected = self.frame_sim_layer["projection"](torch.cat(means, dim=1))
        by_features = self.frame_sim_layer["fc"](banded(nn.functional.normalize(projected, dim=1)))
        histograms = np.stack([
            np.histogramdd(frame.reshape(-1, 3) // 32, bins=8, range=[(0, 8)] * 3)[0].ravel()
            for frame in frames
        ])  # fmt: skip
        counts = nn.functional.normalize(torch.from_numpy(histograms).float(), dim=1)
        by_colours = self.color_hist_layer["fc"](banded(counts))
        flat = x[0].permute(1, 2, 3, 0).reshape(len(frames), -1)
        z = torch.cat([torch.relu(by_colours), torch.relu(by_features), flat], dim=1)
        return torch.sigmoid(self.cls_layer1(torch.relu(self.fc1(z))))[:, 0].numpy()


def scenes(lengths, seed=0):
    """Pictures with a slow drift, another one from shot to shot."""
    rng = np.random.default_rng((seed, 0))
    shots = []
    for length in lengths:
        coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 5, 7)).astype(np.float32))
        wide = nn.functional.interpolate(coarse, (27, 48 + length), mode="bicubic").clamp(0, 255)
        picture = wide[0].permute(1, 2, 0).byte().numpy()
        shots += [picture[:, i // 4 : i // 4 + 48] for i in range(length)]
    return np.stack(shots)


@pytest.fixture(scope="module")
def model():
    extractor = Shots(ShotsConfig())
    extractor.setup(CPU)
    return extractor


def track_of(model, frames, chunk=33):
    cutter = WindowCutter(model.windowing)
    windows = [w for i in range(0, len(frames), chunk) for w in cutter.push(frames[i : i + chunk])]
    windows += cutter.finish()
    blocks = [model.extract([window])[0] for window in windows]
    return Track(np.concatenate(list(model.finish(blocks))), model.spec.start, model.spec.hop)


def test_rows_are_the_published_networks(model):
    published = Published().eval()
    published.load_state_dict(load_state_dict(locate("transnetv2", None, "-")))
    frames = scenes([40, 35, 45])
    # as published: the ends repeated, windows of 100 from 50 to 50, their middles
    padded = np.concatenate([frames[:1].repeat(25, 0), frames, frames[-1:].repeat(75, 0)])
    with torch.inference_mode():
        parts = [published(padded[k : k + 100])[25:75] for k in range(0, len(frames), 50)]
    expected = np.concatenate(parts)[: len(frames)]
    track = track_of(model, frames)
    assert track.rows.shape == (120, 1)
    assert expected.max() > 0.5
    np.testing.assert_allclose(track.rows[:, 0], expected, atol=1e-4)


def test_shots_are_found_where_they_were_cut(model):
    track = track_of(model, scenes([40, 35, 45], seed=1))
    found = np.array(cut_shots(track, 0.5)) * 25
    np.testing.assert_allclose(found, [[0, 40], [40, 75], [75, 120]], atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([0, 0, 1, 0, 0], [(0, 3), (3, 5)]),
        ([0, 0, 1, 1, 1, 0], [(0, 3), (5, 6)]),  # a dissolve
        ([0, 0, 0], [(0, 3)]),
        ([1, 1], [(0, 2)]),
        ([1, 0, 0, 1], [(1, 4)]),
        ([0, 1], [(0, 2)]),
        ([], []),
    ],
)
def test_cutting(rows, expected):
    track = Track(np.array(rows, np.float32).reshape(-1, 1), start=0.25, hop=0.5)
    found = [(start * 2, end * 2) for start, end in cut_shots(track, 0.5)]
    assert found == expected


def test_wrong_weights(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(AbortError, match="not the weights of TransNet V2"):
        Shots(ShotsConfig(weights=str(path))).setup(CPU)


def test_what_stands_before_the_first_frame_is_the_first_frame():
    from extractors.windows import Windowing

    cutter = WindowCutter(Windowing(size=5, step=2, before=2, head="edge", tail="edge"))
    windows = [*cutter.push(np.array([7, 8])), *cutter.push(np.array([9])), *cutter.finish()]
    assert [window.data.tolist() for window in windows] == [[7, 7, 7, 8, 9], [7, 8, 9, 9, 9]]
