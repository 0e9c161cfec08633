"""The example extractor, from file to track."""

import numpy as np
import torch

from extractors.build import build_extractor
from extractors.config import MeanColourConfig
from extractors.windows import WindowCutter


def test_the_colour_of_each_second(media, decode_all):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128]], np.uint8)
    frames = np.repeat(np.broadcast_to(colours[:, None, None], (4, 64, 64, 3)), 25, axis=0)
    path = media.video("colours.mkv", ["-c:v", "ffv1", "-pix_fmt", "bgr0"], frames=frames)
    extractor = build_extractor(MeanColourConfig(rate=2))
    extractor.setup(torch.device("cpu"))
    cutter = WindowCutter(extractor.windowing)
    windows = [*cutter.push(decode_all(path, extractor.view).views[extractor.view]),
               *cutter.finish()]  # fmt: skip
    track = np.concatenate(list(extractor.finish(extractor.extract(windows))))
    np.testing.assert_allclose(track, np.repeat(colours, 2, axis=0) / 255, atol=0.01)
    assert (extractor.spec.start, extractor.spec.hop, extractor.spec.dim) == (0.25, 0.5, 3)
    assert extractor.weights_sha256 is None
    extractor.close()
