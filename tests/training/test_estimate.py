import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from extractors.config import ActionModelConfig, ImageModelConfig, LogMelConfig
from extractors.errors import UsageError
from pipeline.config import ExtractConfig
from training.batches import ClipBatch
from training.clips import TrackDims
from training.config import LossConfig, ModelConfig, SamplingConfig, TrainConfig
from training.estimate import clips_per_second, forward_gflop, track_widths, training_cost
from training.model import build_model

SMALL = TrainConfig(
    epochs=3,
    model=ModelConfig(embedding_dim=4, audio_widths=(8, 8), audio_blocks=1, decoder_dim=5),
    sampling=SamplingConfig(batch_videos=4, clips_per_video=2, audio_frames=32, max_text_rows=3),
)


def test_operations_by_hand() -> None:
    """Picture of 3 columns and text of 2, no sound: gated units of two products each."""
    loss = LossConfig(reconstruction_weight=0)
    config = SMALL.model_copy(update={"loss": loss})
    picture = 2 * (3 * 4 + 4 * 4)
    text = 2 * (3 * 2 * 4) + 2 * (4 * 4 + 4 * 4)
    found = forward_gflop(config, (3, 0, 2), decoders=True)
    assert found * 1e9 == pytest.approx(picture + text)


def test_operations_are_those_of_a_real_pass() -> None:
    """Decoders too: counted on the CPU, where nothing has to be left out."""
    model = build_model(SMALL, TrackDims(visual=(3,), audio=40, text=2)).eval()
    batch = ClipBatch(
        visual_BV=torch.rand(1, 3),
        parts_BP=torch.ones(1, 1, dtype=torch.bool),
        spectrogram_BMT=torch.rand(1, 40, 32),
        frames_B=torch.tensor([32]),
        text_BSE=torch.rand(1, 3, 2),
        rows_B=torch.tensor([3]),
        present={name: torch.ones(1, dtype=torch.bool) for name in ("video", "audio", "text")},
    )
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(batch)
    found = forward_gflop(SMALL, (3, 40, 2), decoders=True)
    assert found * 1e9 == pytest.approx(counter.get_total_flops())


def test_steps_and_hours_by_hand() -> None:
    cost = training_cost(SMALL, (3, 40, 2), videos=10, clips_per_second=0.02)
    # three epochs of two whole batches of four videos, two clips of each
    assert (cost.steps, cost.clips) == (6, 48)
    assert cost.hours == pytest.approx(48 / 0.02 / 3600)
    assert cost.gflop == pytest.approx(48 * 3 * forward_gflop(SMALL, (3, 40, 2), decoders=True))
    assert training_cost(SMALL, (3, 40, 2), videos=10).hours is None


def test_fewer_videos_than_a_batch() -> None:
    assert training_cost(SMALL, (3, 40, 2), videos=3).steps == 3
    assert training_cost(SMALL, (3, 40, 2), videos=0).steps == 0


def test_widths_of_a_dataset() -> None:
    extract = ExtractConfig(
        extractors={
            "visual_2d": ImageModelConfig(),
            "visual_3d": ActionModelConfig(),
            "audio": LogMelConfig(),
        }
    )
    assert track_widths(extract, SamplingConfig()) == (1280 + 512, 40, 384)
    assert track_widths(ExtractConfig(speech=None), SamplingConfig()) == (0, 0, 0)


def test_speed_of_a_run(tmp_path: Path) -> None:
    rows = [{"step": step, "clips_per_second": speed} for step, speed in enumerate((1, 9, 10))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert clips_per_second(str(tmp_path)) == 9
    with pytest.raises(UsageError, match=r"no metrics\.jsonl"):
        clips_per_second(str(tmp_path / "none"))
