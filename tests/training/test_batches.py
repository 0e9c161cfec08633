"""training.batches: padding, and which clips repeat each other."""

from collections.abc import Callable

import numpy as np
import torch

from training.batches import TrainBatch, collate, neighbouring, overlapping
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
    places = tuple(ord(key) for key in keys)
    return TrainBatch(None, keys, tuple(Clip(start, end) for _, start, end in clips), places, keys)


def test_overlapping_clips_of_one_video_repeat_each_other() -> None:
    batch = named(("a", 0, 2), ("a", 1, 3), ("a", 2, 4), ("b", 0, 2), ("b", 0, 2))
    pairs = {tuple(pair) for pair in overlapping(batch.spans()).nonzero().tolist()}
    assert pairs == {(0, 1), (1, 0), (1, 2), (2, 1), (3, 4), (4, 3)}


def test_clips_are_numbered_in_their_video() -> None:
    batch = named(("a", 0, 1), ("a", 1, 2), ("a", 2, 3), ("c", 0, 1), ("c", 1, 2))
    assert batch.numbers().tolist() == [0, 1, 2, 0, 1]
    first = batch.places[0]
    assert (batch.turns() - first).tolist() == [0, 1, 2, 2, 3]


def test_a_batch_may_have_no_clips(make_config: Callable[..., TrainConfig]) -> None:
    for masked in (True, False):
        inputs = collate([], DIMS, make_config(model__mask_padding=masked))
        batch = TrainBatch(inputs, (), (), (), ())
        assert inputs.visual_BV.shape == (0, 40)
        assert inputs.present["audio"].dtype == torch.bool
        assert batch.spans().shape == (0, 3)
        assert batch.turns().shape == (0,)


def test_rows_of_a_batch_keep_their_padding(make_sample: Callable, make_config: Callable) -> None:
    config = make_config()
    clips = [Clip(0, 2), Clip(0, 6), Clip(2, 3)]
    inputs = [clip_inputs(make_sample(0), clip, config.sampling, DIMS) for clip in clips]
    batch = collate(inputs, DIMS, config)
    some = batch.rows(torch.tensor([2, 0]))
    assert some.frames_B.tolist() == [100, 200]
    assert torch.equal(some.spectrogram_BMT, batch.spectrogram_BMT[[2, 0]])
    assert some.present["text"].tolist() == batch.present["text"][[2, 0]].tolist()


def test_neighbouring_clips_are_the_nearest_of_the_video() -> None:
    """Video 0 has middles 1, 2, 5, 9; video 1 has 2 and 3."""
    spans = torch.tensor(
        [[0, 0, 2], [0, 1, 3], [0, 4, 6], [1, 1, 3], [0, 8, 10], [1, 2, 4]], dtype=torch.float64
    )
    assert torch.equal(neighbouring(spans, 1), torch.eye(6, dtype=torch.bool))
    found = {i: row.nonzero()[:, 0].tolist() for i, row in enumerate(neighbouring(spans, 2))}
    assert found == {0: [0, 1], 1: [0, 1], 2: [1, 2], 3: [3, 5], 4: [2, 4], 5: [3, 5]}
    every = neighbouring(spans, 50)
    assert torch.equal(every, spans[:, None, 0] == spans[:, 0])


def test_a_clip_comes_first_among_equal_ones() -> None:
    """The same interval drawn twice: each is its own first answer."""
    spans = torch.tensor([[0, 0, 2], [0, 0, 2]], dtype=torch.float64)
    assert torch.equal(neighbouring(spans, 1), torch.eye(2, dtype=torch.bool))
