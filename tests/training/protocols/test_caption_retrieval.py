"""training.protocols.caption_retrieval: pickles through a run to tables."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.errors import UsageError
from pipeline.config import ExtractConfig
from training import evaluation
from training.protocols import caption_retrieval
from training.protocols.caption_retrieval import (
    embed_captioned_clips,
    evaluate_msrvtt,
    evaluate_youcook2,
)
from training.protocols.caption_sets import read_captioned_clips

CPU = torch.device("cpu")
SILENT = (2, 5)


def items(count: int) -> list[dict[str, object]]:
    """Clips of videos of three; clips 2 and 5 have no sound."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        item = {
            "2d": rng.normal(size=24).astype(np.float32),
            "3d": rng.normal(size=16).astype(np.float32),
            "audio": torch.from_numpy(rng.normal(-40, 10, size=(40, 200))),
            "caption": f"caption {i}",
            "id": f"video{i // 3:06d}_{i}",
        }
        if i in SILENT:
            del item["audio"]
        made.append(item)
    return made


@pytest.fixture
def data(tmp_path: Path) -> str:
    (tmp_path / "set.pkl").write_bytes(pickle.dumps(items(12)))
    return str(tmp_path / "set.pkl")


@pytest.fixture
def encoder(monkeypatch) -> list[str]:
    """A sentence encoder of 20 columns; collects whose dataset it was asked for."""
    asked: list[str] = []

    def config_of(dataset: str) -> ExtractConfig:
        asked.append(dataset)
        return ExtractConfig()

    def embed(sentences, config, device) -> list[np.ndarray]:
        assert isinstance(config, ExtractConfig)
        seeds = [len(sentence) + sum(map(ord, sentence)) for sentence in sentences]
        rows = [np.random.default_rng(seed).normal(size=(1, 20)) for seed in seeds]
        return [row.astype(np.float32) for row in rows]

    monkeypatch.setattr(evaluation, "read_dataset_config", config_of)
    monkeypatch.setattr(evaluation, "embed_sentences", embed)
    return asked


@pytest.fixture
def run(monkeypatch, make_run) -> str:
    monkeypatch.setattr(caption_retrieval, "load_run", lambda run, device: make_run())
    return "run"


def test_youcook2(run: str, data: str, encoder: list[str]) -> None:
    found = evaluate_youcook2(run, data, trust_pickle=True)
    assert encoder == ["the run's dataset"]
    assert (found.clips, found.with_audio) == (12, 10)
    counts = {
        (row.query, row.target): (row.metrics.queries, row.metrics.candidates, row.items)
        for row in found.rows
    }
    assert counts == {
        ("text", "video"): (12, 12, 12),
        ("text", "audio"): (10, 10, 12),
        ("text", "video+audio"): (12, 12, 12),
        ("video+audio", "text"): (12, 12, 12),
    }
    assert [recall.candidates for recall in found.videos.values()] == [12, 12, 4, 4, 4]
    single = found.videos["clip"].recall
    assert single == pytest.approx(found.rows[2].metrics.recall)  # the same scores
    assert found.videos["video"].recall[1] >= single[1]


def test_msrvtt_counts_silent_clips_as_misses(run: str, data: str, encoder: list[str]) -> None:
    pairs = [("text", "video+audio")]
    (loose,) = evaluate_msrvtt(run, data, True, pairs).rows
    (strict,) = evaluate_msrvtt(run, data, True, pairs, complete=True).rows
    (counted,) = evaluate_msrvtt(run, data, True, pairs, complete=True, count_missing=True).rows
    (whole,) = evaluate_msrvtt(run, data, True, pairs, complete=True, total=20).rows
    assert evaluate_msrvtt(run, data, True, pairs).videos == {}
    assert (loose.metrics.queries, loose.metrics.candidates) == (12, 12)
    assert (strict.metrics.queries, strict.metrics.candidates) == (10, 10)
    assert (counted.metrics.queries, counted.metrics.missing) == (12, 2)
    assert (whole.metrics.queries, whole.metrics.missing, whole.metrics.candidates) == (20, 10, 10)
    for k in (1, 5, 10):
        hits = 10 * strict.metrics.recall[k]
        assert counted.metrics.recall[k] == pytest.approx(hits / 12)
        assert whole.metrics.recall[k] == pytest.approx(hits / 20)
    assert strict.metrics.median_rank == counted.metrics.median_rank == whole.metrics.median_rank
    with pytest.raises(UsageError, match="total = 11: the set has 12 clips"):
        evaluate_msrvtt(run, data, True, pairs, total=11)


def test_the_dataset_may_have_moved(run: str, data: str, encoder: list[str]) -> None:
    evaluate_msrvtt(run, data, True, dataset="moved/set")
    assert encoder == ["moved/set"]


def test_another_sentence_encoder_is_refused(run: str, data: str, encoder, monkeypatch) -> None:
    monkeypatch.setattr(
        evaluation, "embed_sentences", lambda s, c, d: [np.zeros((1, 384))] * len(s)
    )
    with pytest.raises(UsageError, match="gives 384 columns, the run takes 20"):
        evaluate_msrvtt(run, data, True)


@pytest.mark.parametrize("mask_padding", [True, False])
def test_sound_counts_beyond_the_training_clip(
    make_run, data: str, encoder: list[str], mask_padding: bool
) -> None:
    """Training cuts at 64 frames here, evaluation at as many as are asked for."""
    run = make_run(sampling__audio_frames=64, model__mask_padding=mask_padding)
    clips = read_captioned_clips(data, trust_pickle=True)
    short, long, longer = (
        embed_captioned_clips(run, clips, frames, CPU).vectors["audio"] for frames in (64, 200, 400)
    )
    assert np.abs(short[0] - long[0]).max() > 1e-4
    if mask_padding:  # the files end at 200; without it padding counts, as in the official code
        np.testing.assert_allclose(long, longer, atol=1e-5)
    assert (long[list(SILENT)] == 0).all()
