"""training.batches: padding, and which clips repeat each other."""

from collections.abc import Callable

import numpy as np
import torch

from training.batches import TrainBatch, collate
from training.clips import Clip, TrackDims, clip_inputs
from training.config import TrainConfig

DIMS = TrackDims((24, 16), 40, 20)


def test_clips_are_padded_with_silence_to_the_longest(
    make_sample: Callable, make_config: Callable[..., TrainConfig]
) -> None:
    config = make_config()
    whole, silent = make_sample(0, segments=3), make_sample(1, sound=False, segments=0)
    inputs = [
        clip_inputs(whole, Clip(0, 2), config.sampling, DIMS),
        clip_inputs(whole, Clip(0, 6), config.sampling, DIMS),
        clip_inputs(silent, Clip(0, 6), config.sampling, DIMS),
    ]
    batch = collate(inputs, DIMS, config)
    assert batch.spectrogram_BMT.shape == (3, 40, 600)
    assert batch.frames_B.tolist() == [200, 600, 0]
    np.testing.assert_array_equal(batch.spectrogram_BMT[0, :, :200], inputs[0].spectrogram)
    assert (batch.spectrogram_BMT[0, :, 200:] == -80).all()
    assert batch.text_BSE.shape == (3, 3, 20)
    assert batch.rows_B.tolist() == [1, 3, 0]
    assert not batch.text_BSE[0, 1:].any()
    present = {name: mask.tolist() for name, mask in batch.present.items()}
    assert present == {
        "video": [True, True, True],
        "audio": [True, True, False],
        "text": [True, True, False],
    }


def test_official_padding_has_fixed_sizes(make_sample: Callable, make_config: Callable) -> None:
    config = make_config(
        model__mask_padding=False, sampling__audio_frames=700, sampling__padding_decibel=0.0
    )
    inputs = [clip_inputs(make_sample(0), Clip(0, 6), config.sampling, DIMS)]
    batch = collate(inputs, DIMS, config)
    assert batch.spectrogram_BMT.shape == (1, 40, 700)
    assert (batch.spectrogram_BMT[0, :, 600:] == 0).all()
    assert batch.text_BSE.shape == (1, 20, 20)


def named(*clips: tuple[str, float, float]) -> TrainBatch:
    keys = tuple(key for key, _, _ in clips)
    return TrainBatch(None, keys, tuple(Clip(start, end) for _, start, end in clips))


def test_overlapping_clips_of_one_video_repeat_each_other() -> None:
    batch = named(("a", 0, 2), ("a", 1, 3), ("a", 2, 4), ("b", 0, 2), ("b", 0, 2))
    pairs = {tuple(pair) for pair in batch.repeated().nonzero().tolist()}
    assert pairs == {(0, 1), (1, 0), (1, 2), (2, 1), (3, 4), (4, 3)}


def test_first_clips_of_each_video() -> None:
    batch = named(("a", 0, 1), ("a", 1, 2), ("b", 0, 1), ("a", 2, 3), ("b", 1, 2))
    assert batch.first_of_each_video(1).tolist() == [True, False, True, False, False]
    assert batch.first_of_each_video(2).tolist() == [True, True, True, False, True]
    assert torch.all(batch.first_of_each_video(9))
