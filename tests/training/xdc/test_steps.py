"""training.xdc.steps: the loss of a step, the shares of ranks, encoders that rest."""

import numpy as np
import pytest
import torch

from training.xdc.clips import ClipRef
from training.xdc.pseudo_labels import PseudoLabels
from training.xdc.reading import ClipBatch
from training.xdc.state import XdcTraining, start_xdc
from training.xdc.steps import Share, head_counts, training_step, usable
from training.xdc.video_set import VideoSet

CPU = torch.device("cpu")


@pytest.fixture
def training(make_config, videos: VideoSet) -> XdcTraining:
    """XDC, before its first step; the labels are made up."""
    training = start_xdc(make_config(), CPU)
    labels = np.arange(len(videos)) % 3
    training.begin_iteration(
        {
            "video": PseudoLabels(np.where(videos.seen_N, labels, -1), 3),
            "audio": PseudoLabels(np.where(videos.heard_N, 2 - labels, -1), 3),
        }
    )
    return training


def batch_of(count: int, seed: int = 1) -> ClipBatch:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (count, 4, 24, 24, 3), generator=generator, dtype=torch.uint8)
    return ClipBatch(frames, (20 * torch.rand(count, 40, 40, generator=generator)).half())


def share_of(*numbers: int) -> Share:
    return Share([ClipRef(number) for number in numbers])


def test_the_loss_is_the_sum_of_the_heads_means(training: XdcTraining, videos) -> None:
    """Clip 4 has no sound and clip 7 no picture: in XDC neither trains anything."""
    share, batch = share_of(0, 4, 1, 7, 2), batch_of(5)
    expected = {}
    rows = [0, 2, 4]
    for head, target in (("video_from_audio", [2, 1, 0]), ("audio_from_video", [0, 1, 2])):
        encoder = head.split("_")[0]
        seen = [0, 1, 2, 4] if encoder == "video" else [0, 2, 3, 4]  # batch norm sees these
        vectors = training.model.encode(
            encoder, ClipBatch(batch.frames_BTHWC[seen], batch.mel_BMR[seen])
        )
        logits = training.model.heads[head](vectors)[[seen.index(row) for row in rows]]
        expected[head] = torch.nn.functional.cross_entropy(logits, torch.tensor(target)).item()
    report = training_step(training, share, batch, videos, 0.01, CPU)
    for head, loss in expected.items():
        assert report.numbers[f"loss_{head}"] == pytest.approx(loss, rel=1e-4)
    assert report.numbers["loss"] == pytest.approx(sum(expected.values()), rel=1e-4)


def test_steps_lower_the_loss_at_the_given_rate(training: XdcTraining, videos) -> None:
    share, batch = share_of(0, 1, 2, 3, 5, 6), batch_of(6)
    before = [weight.detach().clone() for weight in training.model.parameters()]
    losses = [
        training_step(training, share, batch, videos, 0.01, CPU).numbers["loss"] for _ in range(20)
    ]
    assert losses[-1] < 0.7 * losses[0]
    assert training.optimiser.param_groups[0]["lr"] == 0.01
    weights = list(training.model.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before, weights, strict=True))


def test_an_encoder_of_one_clip_rests(training: XdcTraining, videos: VideoSet) -> None:
    """Of clips 0 and 7 only one has a picture: batch norm could not train on it."""
    state = {n: v.clone() for n, v in training.model.encoders["video"].state_dict().items()}
    report = training_step(training, share_of(0, 7), batch_of(2), videos, 0.01, CPU)
    assert "loss_video_from_audio" not in report.numbers
    assert report.numbers["loss"] == report.numbers["loss_audio_from_video"]
    for name, value in training.model.encoders["video"].state_dict().items():
        assert torch.equal(value, state[name])


def test_what_is_usable_and_counted(training: XdcTraining, videos: VideoSet, make_config) -> None:
    found = usable(videos, training.labels, training.model.config)
    assert np.flatnonzero(~found).tolist() == [4, 7]
    clips = share_of(0, 4, 7, 8).whole
    assert head_counts(training, clips, videos) == {"video_from_audio": 2, "audio_from_video": 2}
    alone = make_config(method="sdc")
    assert usable(videos, training.labels, alone).all()


def test_a_rank_has_its_run_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    share = share_of(*range(7))
    runs = []
    for rank in range(3):
        monkeypatch.setattr("training.distributed.world", lambda rank=rank: (rank, 3))
        runs += [[clip.video for clip in share.own]]
    assert runs == [[0, 1], [2, 3], [4, 5, 6]]
