"""Sizes of the frames that a view gives."""

import pytest

from extractors.views import FrameView


@pytest.mark.parametrize(("source", "size"), [
    ((720, 1280), (224, 398)),
    ((1280, 720), (398, 224)),
    ((480, 480), (224, 224)),
    ((1080, 1921), (224, 398)),
    ((10, 4000), (224, 89600)),
])  # fmt: skip
def test_whole_keeps_the_aspect(source, size):
    assert FrameView(1, 224, 224, "whole").frame_size(*source) == size


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_crop_and_stretch_are_of_the_size_asked(fit):
    assert FrameView(1, 27, 48, fit).frame_size(720, 1280) == (27, 48)
