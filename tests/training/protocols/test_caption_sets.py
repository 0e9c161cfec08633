"""training.protocols.caption_sets on small pickles in the published formats."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.errors import UsageError
from training.clips import TrackDims
from training.protocols.caption_sets import (
    CaptionedClip,
    caption_clip_inputs,
    read_captioned_clips,
)

DIMS = TrackDims(visual=(4, 3), audio=5, text=6)


def write(folder: Path, items: object) -> str:
    (folder / "set.pkl").write_bytes(pickle.dumps(items))
    return str(folder / "set.pkl")


def youcook2_item(**changes: object) -> dict[str, object]:
    item = {
        "2d": np.array([3, 0, 4, 0], dtype=np.float16),
        "3d": np.array([0, 2, 0], dtype=np.float16),
        "audio": torch.full((5, 30), -20.0, dtype=torch.float16),
        "caption": "cut the onion",
        "id": "abcdefghijk_3",
    }
    return {name: value for name, value in (item | changes).items() if value is not None}


def test_youcook2_as_mcn_reads_it(tmp_path: Path) -> None:
    (clip,) = read_captioned_clips(write(tmp_path, [youcook2_item()]), trust_pickle=True)
    assert (clip.id, clip.video, clip.caption) == ("abcdefghijk_3", "abcdefghijk", "cut the onion")
    inputs = caption_clip_inputs(clip, np.arange(6.0)[None], DIMS, frames=20)
    np.testing.assert_allclose(inputs.visual, [0.6, 0, 0.8, 0, 0, 1, 0])  # each of length one
    assert inputs.visual.dtype == inputs.spectrogram.dtype == np.float32
    assert inputs.spectrogram.shape == (5, 20)
    assert (inputs.spectrogram == -20).all()
    np.testing.assert_array_equal(inputs.text, [np.arange(6)])
    assert inputs.present == {"video": True, "audio": True, "text": True}


def test_msrvtt_has_pooled_features_and_a_caption_to_evaluate(tmp_path: Path) -> None:
    item = youcook2_item(
        id="video7020",
        caption=["a man sings", "someone sings"],
        eval_caption="a person is singing",
    ) | {
        "2d": np.ones((9, 4), np.float32),
        "2d_pooled": np.array([0, 0, 0, 2], np.float32),
        "3d_pooled": torch.tensor([5.0, 0, 0]),
    }
    (clip,) = read_captioned_clips(write(tmp_path, [item]), trust_pickle=True)
    assert clip.caption == "a person is singing"
    np.testing.assert_array_equal(clip.visual[0], [0, 0, 0, 2])
    np.testing.assert_array_equal(clip.visual[1], [5, 0, 0])


def test_features_over_time_are_pooled_by_their_maximum(tmp_path: Path) -> None:
    over_time = np.array([[1, 5, 0, 0], [3, 2, 0, 0]], dtype=np.float32)
    item = youcook2_item(**{"2d": over_time})
    (clip,) = read_captioned_clips(write(tmp_path, [item]), trust_pickle=True)
    np.testing.assert_array_equal(clip.visual[0], [3, 5, 0, 0])


@pytest.mark.parametrize(
    "changes",
    [{"audio": None}, {"audio": torch.zeros(5, 0)}, {"has_audio": False}],
    ids=["no key", "no frames", "said so"],
)
def test_clips_without_sound(tmp_path: Path, changes: dict[str, object]) -> None:
    (clip,) = read_captioned_clips(write(tmp_path, [youcook2_item(**changes)]), trust_pickle=True)
    inputs = caption_clip_inputs(clip, np.zeros((1, 6)), DIMS, frames=20)
    assert inputs.present == {"video": True, "audio": False, "text": True}


def test_clips_without_one_of_the_features(tmp_path: Path) -> None:
    (clip,) = read_captioned_clips(write(tmp_path, [youcook2_item(**{"3d": None})]), True)
    inputs = caption_clip_inputs(clip, np.zeros((1, 6)), DIMS, frames=20)
    assert inputs.visual_parts.tolist() == [True, False]
    np.testing.assert_allclose(inputs.visual, [0.6, 0, 0.8, 0, 0, 0, 0])


def test_a_run_without_picture_or_sound_leaves_them_out() -> None:
    clip = CaptionedClip("a", "b", (np.ones(4, np.float32),) * 2, np.zeros((5, 9), np.float32))
    inputs = caption_clip_inputs(clip, np.zeros((1, 6)), TrackDims((0, 0), 0, 6), frames=20)
    assert inputs.present == {"video": False, "audio": False, "text": True}


def test_other_widths_than_the_runs_are_refused(tmp_path: Path) -> None:
    (clip,) = read_captioned_clips(write(tmp_path, [youcook2_item()]), trust_pickle=True)
    for dims, message in [
        (TrackDims((4, 8), 5, 6), "clip abcdefghijk_3: 3d has width 3, the run takes 8"),
        (TrackDims((4, 3), 40, 6), "audio has width 5, the run takes 40"),
        (TrackDims((4,), 5, 6), "takes 1 visual tracks, this file has 2"),
    ]:
        with pytest.raises(UsageError, match=message):
            caption_clip_inputs(clip, np.zeros((1, 6)), dims, frames=20)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"a": 1}, "a list of dicts is wanted, got dict"),
        ([], "a list of dicts is wanted"),
        ([1], "item 0: a dict is wanted, got int"),
        ([youcook2_item(), youcook2_item(caption=None)], "item 1: needs .* it has 2d, 3d, audio"),
        ([youcook2_item(caption=["a", "b"])], "a text `caption`"),
        ([youcook2_item(audio=torch.zeros(5))], r"`audio` is \(mels, frames\), got \(5,\)"),
        ([youcook2_item(**{"2d": np.zeros((1, 2, 3))})], "`2d` is"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, items: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_captioned_clips(write(tmp_path, items), trust_pickle=True)


def test_trust_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--trust-pickle"):
        read_captioned_clips(write(tmp_path, [youcook2_item()]), trust_pickle=False)
