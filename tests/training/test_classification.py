"""training.classification on hand-made embeddings, where every answer can be worked out."""

from types import SimpleNamespace

import numpy as np
import pytest

from extractors.errors import UsageError
from training import classification
from training.classification import (
    class_caption,
    evaluate_neighbours,
    evaluate_probe,
    evaluate_zero_shot,
)
from training.clips import Clip
from training.embedding import ClipEmbeddings
from training.evaluation import EvaluationSet


def clip_set(
    videos: list[tuple[str, str | None, list[list[float]]]], raw_scale: float = 1.0
) -> EvaluationSet:
    """Clips (their picture's vectors) of (key, label, clips); sound is absent."""
    keys = [key for key, _, clips in videos for _ in clips]
    labels = [label for _, label, clips in videos for _ in clips]
    rows = np.array([clip for _, _, clips in videos for clip in clips], dtype=np.float32)
    none = np.zeros(len(rows), dtype=bool)
    return EvaluationSet(
        tuple(keys),
        tuple(Clip(i, i + 1) for i in range(len(rows))),
        tuple(labels),
        ClipEmbeddings(
            {"video": rows, "audio": np.zeros_like(rows), "text": np.zeros_like(rows)},
            {"video": ~none, "audio": none, "text": none},
            unit_length=False,
        ),
        {name: rows * raw_scale for name in ("video", "audio", "text")},
    )


@pytest.fixture
def given(monkeypatch):
    """Puts sets of clips in the place of what a run makes of a dataset's splits."""

    def put(**splits: EvaluationSet) -> None:
        monkeypatch.setattr(classification, "load_run", lambda run, device: SimpleNamespace())
        monkeypatch.setattr(
            classification, "load_evaluation_set", lambda run, data, split, *_: splits[split]
        )

    return put


def test_zero_shot_scores_a_video_by_the_mean_of_its_clips(given, monkeypatch) -> None:
    captions = {"make tea": [1, 0, 0], "fry egg": [0, 1, 0], "cut bread": [0, 0, 1]}
    monkeypatch.setattr(
        classification,
        "embed_captions",
        lambda run, names, *_: np.array([captions[name] for name in names], dtype=np.float32),
    )
    given(
        test=clip_set(
            [
                ("a", "make_tea", [[3, 0, 0], [0, 2, 0]]),  # tea 1.5, egg 1
                ("b", "fry_egg", [[3, 0, 0], [0, 2, 0]]),  # the second guess
                ("c", "cut_bread", [[0, 0, 1]]),
                ("d", None, [[9, 9, 9]]),
            ]
        )
    )
    found = evaluate_zero_shot("run", "data")
    assert found.recall == pytest.approx({1: 2 / 3, 5: 1})
    assert found.chance == pytest.approx({1: 1 / 3, 5: 1})
    assert (found.queries, found.candidates) == (3, 3)


def test_names_of_classes_become_words() -> None:
    assert class_caption("ApplyEyeMakeup") == "Apply Eye Makeup"
    assert class_caption("apply_eye_makeup") == "apply eye makeup"
    assert class_caption("brush hair") == "brush hair"
    assert class_caption("HMDB-51 clap") == "HMDB 51 clap"
    assert class_caption("_") == "_"


def test_neighbours_by_hand(given) -> None:
    given(
        train=clip_set(
            [
                ("a", "tea", [[4, 0], [2, 0]]),  # mean (3, 0)
                ("b", "egg", [[0, 2]]),
                ("c", "egg", [[-1, 0]]),
            ]
        ),
        test=clip_set([("d", "tea", [[1, 0]]), ("e", "egg", [[1, 0.1]]), ("f", "bread", [[0, 1]])]),
    )
    embedding, raw = evaluate_neighbours("run", "data", target="video")
    assert (embedding.features, raw.features) == ("embedding", "raw")
    # d finds a first; e finds a, then b; nobody is bread
    assert embedding.recall.recall == pytest.approx({1: 1 / 3, 5: 2 / 3, 10: 2 / 3})
    assert embedding.recall.chance == pytest.approx({1: (1 / 3 + 2 / 3) / 3, 5: 2 / 3, 10: 2 / 3})
    assert raw.recall.recall == embedding.recall.recall
    assert (raw.recall.queries, raw.recall.candidates) == (3, 3)


def gaussians(seed: int, labels: int, separation: float) -> EvaluationSet:
    """20 videos of three clips a label, spread around their label's own corner."""
    rng = np.random.default_rng(seed)
    videos = []
    for i in range(20 * labels):
        centre = separation * np.eye(labels)[i % labels]
        videos.append(
            (f"v{i}", f"label{i % labels}", (centre + rng.normal(size=(3, labels))).tolist())
        )
    return clip_set(videos, raw_scale=0.0)  # raw features that say nothing


@pytest.mark.parametrize("labels", [2, 4])
def test_probes_learn_what_is_linear_and_nothing_from_zeros(given, labels: int) -> None:
    given(train=gaussians(0, labels, 3.0), test=gaussians(1, labels, 3.0))
    rows = evaluate_probe("run", "data")
    assert [(row.features, row.classifier) for row in rows] == [
        ("embedding", "logistic"),
        ("embedding", "svm"),
        ("raw", "logistic"),
        ("raw", "svm"),
    ]
    for row in rows:
        counts = (row.classes, row.train_clips, row.test_clips, row.test_videos)
        assert counts == (labels, 60 * labels, 60 * labels, 20 * labels)
        assert row.chance == row.majority == 1 / labels
        if row.features == "raw":
            assert row.accuracy == row.clip_accuracy == 1 / labels
        else:
            assert row.accuracy > 0.95
            assert 0.8 < row.clip_accuracy < row.accuracy  # the mean over clips helps


def test_labels_never_seen_count_as_wrong(given) -> None:
    train = clip_set([("a", "tea", [[1, 0]]), ("b", "egg", [[0, 1]]), ("c", "egg", [[0, 2]])])
    given(train=train, test=clip_set([("d", "tea", [[2, 0]]), ("e", "bread", [[0, 1]])]))
    row = evaluate_probe("run", "data")[0]
    assert (row.accuracy, row.classes) == (0.5, 2)
    assert row.majority == 0.0  # the majority label, egg, is not among the test labels


def test_what_cannot_be_learnt_is_refused(given) -> None:
    one = clip_set([("a", "tea", [[1, 0]]), ("b", "tea", [[0, 1]])])
    none = clip_set([("a", None, [[1, 0]])])
    given(train=one, test=none)
    with pytest.raises(UsageError, match="one label only"):
        evaluate_probe("run", "data", test_split="train")
    with pytest.raises(UsageError, match="no video of split 'test' has both a label and video"):
        evaluate_neighbours("run", "data", target="video")
    with pytest.raises(UsageError, match="has both a label and audio"):
        evaluate_neighbours("run", "data", test_split="train", target="audio")
