"""training.evaluation: a trained model on videos it has not seen."""

from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.errors import UsageError
from pipeline.config import ExtractConfig
from training import evaluation
from training.checkpoints import Run
from training.clips import ClipInputs, TrackDims
from training.embedding import embed_text
from training.evaluation import (
    caption_rows,
    embed_captions,
    evaluate_clusters,
    evaluate_retrieval,
    raw_features,
)
from training.loop import train
from training.model import Mcn

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_dataset, make_sample, make_config) -> tuple[str, str]:
    """(run, dataset): 48 videos to train on, 24 of the same six topics to test on."""
    folder = tmp_path_factory.mktemp("evaluation")
    videos = [make_sample(i) for i in range(48)]
    videos += [make_sample(i, split="test") for i in range(48, 72)]
    dataset = make_dataset(folder / "set", videos)
    config = make_config(
        epochs=20,
        checkpoint_epochs=20,
        checkpoint_steps=1000,
        sampling__batch_videos=16,
        optimiser__lr=3e-3,
        clustering__clusters=6,
        clustering__queue_rows=128,
    )
    train(dataset, str(folder / "run"), config, CPU)
    return str(folder / "run"), dataset


def test_held_out_clips_are_found_far_above_chance(trained: tuple[str, str]) -> None:
    """48 clips, 8 a topic: whoever knows the topic has R@10 = 1 and R@1 = 1/8 at least."""
    rows = evaluate_retrieval(*trained)
    assert [(row.query, row.target) for row in rows][:3] == [
        ("text", "video"),
        ("text", "audio"),
        ("text", "video+audio"),
    ]
    for row in rows:
        metrics = row.metrics
        assert (metrics.queries, metrics.candidates) == (48, 48)
        assert metrics.chance_recall[10] == pytest.approx(10 / 48)
        assert metrics.recall[10] > 0.7
        assert metrics.recall[5] > 0.3
        assert metrics.median_rank < 10 < metrics.chance_median_rank


def test_held_out_clusters_are_the_topics(trained: tuple[str, str]) -> None:
    embedding, raw = evaluate_clusters(*trained)
    assert (embedding.features, raw.features) == ("embedding", "raw")
    assert (embedding.items, embedding.labels, embedding.clusters) == (48, 6, 6)
    assert embedding.agreement.nmi > 0.9
    assert embedding.agreement.accuracy > 0.9
    assert raw.agreement.nmi > 0.5
    assert evaluate_clusters(*trained, clusters=2)[0].agreement.accuracy <= 2 / 6 + 1e-9


def test_an_untrained_model_is_near_chance(
    tmp_path: Path, trained: tuple[str, str], make_config
) -> None:
    config = make_config(epochs=1, sampling__batch_videos=48, optimiser__lr=1e-12)
    train(trained[1], str(tmp_path / "run"), config, CPU)
    for row in evaluate_retrieval(str(tmp_path / "run"), trained[1]):
        assert row.metrics.recall[10] < 0.5


def test_all_splits_are_evaluated_without_one(trained: tuple[str, str]) -> None:
    rows = evaluate_retrieval(*trained, split=None, pairs=[("text", "video")])
    assert [row.metrics.candidates for row in rows] == [144]


def test_wrong_questions_are_refused(trained: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="no clips in split 'validation'"):
        evaluate_retrieval(*trained, split="validation")
    with pytest.raises(UsageError, match="clusters = 49"):
        evaluate_clusters(*trained, clusters=49)
    (row,) = evaluate_retrieval(*trained, pairs=[("video+text", "audio")], count_missing=True)
    assert (row.metrics.queries, row.metrics.missing, row.items) == (48, 0, 48)
    with pytest.raises(UsageError, match="'smell'"):
        evaluate_retrieval(*trained, pairs=[("text", "smell")])


def test_raw_features_are_of_unit_length_or_zero() -> None:
    spectrogram = np.array([[-80.0, -40], [-20, -20]], dtype=np.float32)  # means -60, -20
    text = np.array([[3.0, 0], [3, 8]], dtype=np.float32)  # mean (3, 4)
    inputs = ClipInputs(np.array([0, 2.0], np.float32), np.array([True]), spectrogram, text)
    raw = raw_features(inputs)
    np.testing.assert_allclose(raw["video"], [0, 1])
    np.testing.assert_allclose(raw["audio"], [-np.sqrt(0.5), np.sqrt(0.5)])
    np.testing.assert_allclose(raw["text"], [0.6, 0.8])
    absent = ClipInputs(np.zeros(2, np.float32), np.array([False]), spectrogram[:, :0], text[:0])
    assert [vector.tolist() for vector in raw_features(absent).values()] == [[0, 0]] * 3


def test_captions_are_embedded_as_texts_of_one_sentence(make_config, monkeypatch) -> None:
    """Through the encoder of the dataset that the run's card names, one after the other."""
    rng, asked = np.random.default_rng(0), []
    vectors = rng.normal(size=(70, 20)).astype(np.float32)

    def config_of(dataset: str) -> ExtractConfig:
        asked.append(dataset)
        return ExtractConfig()

    monkeypatch.setattr(evaluation, "read_dataset_config", config_of)
    rows = [vector[None] for vector in vectors]
    monkeypatch.setattr(evaluation, "embed_sentences", lambda texts, *_: rows[: len(texts)])
    config = make_config()
    model = Mcn(config.model, TrackDims((24, 16), 40, 20)).eval()
    run = Run(model=model, config=config, card={"dataset": "where/it/was"})
    embedded = embed_captions(run, ["caption"] * 70, CPU)
    expected = [embed_text(model, vector[None]) for vector in vectors]
    np.testing.assert_allclose(embedded, expected, atol=1e-6)
    caption_rows(run, ["caption"], CPU, "where/it/is")
    assert asked == ["where/it/was", "where/it/is"]
    mute = Mcn(config.model, TrackDims((24, 16), 40, 0))
    with pytest.raises(UsageError, match="trained without text"):
        caption_rows(Run(model=mute, config=config, card={}), ["caption"], CPU)


def test_captions_of_words_are_pooled_over_their_words(make_config, monkeypatch) -> None:
    """At most `max_text_rows` of them; a caption without a known word has no place."""
    words = np.random.default_rng(0).normal(size=(5, 20)).astype(np.float32)
    found = [words, words[:1], words[:0]]
    monkeypatch.setattr(evaluation, "read_dataset_config", lambda dataset: ExtractConfig())
    monkeypatch.setattr(evaluation, "embed_sentences", lambda texts, *_: found)
    config = make_config(sampling__max_text_rows=3)
    model = Mcn(config.model, TrackDims((24, 16), 40, 20)).eval()
    run = Run(model=model, config=config, card={"dataset": "set"})
    embedded = embed_captions(run, ["a", "b", "c"], CPU)
    expected = [embed_text(model, words[:3]), embed_text(model, words[:1]), np.zeros(16)]
    np.testing.assert_allclose(embedded, expected, atol=1e-6)
