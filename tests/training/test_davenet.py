"""training.davenet: the audio network."""

import pytest
import torch

from training.davenet import Davenet, MaskedBatchNorm


def spectrograms(*lengths: int, padded: int, value: float = -80.0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    out_BMT = torch.full((len(lengths), 8, padded), value)
    for i, length in enumerate(lengths):
        out_BMT[i, :, :length] = torch.randn(8, length, generator=rng) * 10 - 40
    return out_BMT


@pytest.mark.parametrize(("frames", "steps"), [(1000, 63), (1024, 64), (1, 1), (16, 1), (17, 2)])
def test_time_is_divided_by_sixteen(frames: int, steps: int) -> None:
    net = Davenet(8, (4, 4, 4, 4), blocks=2, mask_padding=True).eval()
    x_BCT, steps_B = net.features(torch.zeros(2, 8, frames), torch.tensor([frames, frames]))
    assert x_BCT.shape == (2, 4, steps)
    assert steps_B.tolist() == [steps, steps]


@pytest.mark.parametrize("training", [True, False])
def test_the_result_does_not_depend_on_the_padding(training: bool) -> None:
    torch.manual_seed(0)
    net = Davenet(8, (4, 6), blocks=2, mask_padding=True).train(training)
    lengths = torch.tensor([50, 33, 7])
    tight = net(spectrograms(50, 33, 7, padded=50), lengths)
    loose = net(spectrograms(50, 33, 7, padded=99, value=123.0), lengths)
    torch.testing.assert_close(tight, loose, rtol=1e-5, atol=1e-6)
    if not training:
        alone = net(spectrograms(50, padded=50), lengths[:1])
        torch.testing.assert_close(tight[:1], alone, rtol=1e-5, atol=1e-6)


def test_without_masking_training_counts_the_padding_and_evaluation_does_not() -> None:
    torch.manual_seed(0)
    net = Davenet(8, (4, 4), blocks=1, mask_padding=False)
    spectrogram_BMT, frames_B = spectrograms(24, 16, padded=64), torch.tensor([24, 16])
    features_BCT, _ = net.train().features(spectrogram_BMT, frames_B)
    torch.testing.assert_close(net(spectrogram_BMT, frames_B), features_BCT.mean(2))
    features_BCT, _ = net.eval().features(spectrogram_BMT, frames_B)
    expected = torch.stack([features_BCT[0, :, :6].mean(1), features_BCT[1, :, :4].mean(1)])
    torch.testing.assert_close(net(spectrogram_BMT, frames_B), expected)


def test_clips_without_sound_are_zero_and_leave_the_statistics_alone() -> None:
    torch.manual_seed(0)
    net = Davenet(8, (4, 4), blocks=1, mask_padding=True).train()
    with_silent = net(spectrograms(40, 30, 0, padded=40), torch.tensor([40, 30, 0]))
    without = net(spectrograms(40, 30, padded=40), torch.tensor([40, 30]))
    torch.testing.assert_close(with_silent[:2], without)
    assert not with_silent[2].any()
    all_silent = net(spectrograms(0, 0, padded=1), torch.tensor([0, 0]))
    assert not all_silent.any()
    all_silent.sum().backward()


def test_masked_batch_norm_is_batch_norm_of_the_valid_steps() -> None:
    torch.manual_seed(0)
    x_BCT = torch.randn(3, 5, 7)
    valid_BT = torch.arange(7) < torch.tensor([7, 4, 1])[:, None]
    rows_NC = x_BCT.transpose(1, 2)[valid_BT]
    out_BCT = MaskedBatchNorm(5)(x_BCT, valid_BT)
    expected_NC = (rows_NC - rows_NC.mean(0)) / (rows_NC.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(out_BCT.transpose(1, 2)[valid_BT], expected_NC)
    assert not out_BCT.transpose(1, 2)[~valid_BT].any()
