"""Labels from embeddings: zero-shot by the name of the class, nearest neighbours, linear probes.

Shapes: N clips, V videos, D columns of a feature, L labels.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from extractors.errors import UsageError
from training.checkpoints import load_run
from training.clips import Float32
from training.embedding import unit_rows
from training.evaluation import (
    EvaluationSet,
    embed_captions,
    load_evaluation_set,
    named_split,
)
from training.retrieval import QUERY_BLOCK, row_blocks
from training.retrieval_metrics import Recall, merge_recalls, recall_of_sets

Classifier = Literal["logistic", "svm"]
CLASSIFIERS: tuple[Classifier, ...] = ("logistic", "svm")
ITERATIONS = 10_000


@dataclass(frozen=True)
class NeighbourRow:
    """One row of a table of nearest neighbours."""

    features: str
    """'embedding' or 'raw' (the same clips before the model)."""
    recall: Recall


@dataclass(frozen=True)
class ProbeRow:
    """One row of a table of linear probes."""

    features: str
    """'embedding' or 'raw'."""
    classifier: Classifier
    accuracy: float
    """Share of test videos right, by the mean of their clips' class scores."""
    clip_accuracy: float
    """Share of test clips right."""
    chance: float
    """1 / classes."""
    majority: float
    """Share of test videos of the label that most training videos have."""
    classes: int
    """Labels of the training videos; a test video of another label counts as wrong."""
    train_clips: int
    test_clips: int
    test_videos: int


@dataclass(frozen=True)
class _Labelled:
    """The labelled clips of a split."""

    embedding_ND: Float32
    raw_ND: Float32
    labels_N: NDArray[np.str_]
    video_N: NDArray[np.int64]
    """Number of each clip's video, 0 to V - 1."""

    def video_labels(self) -> NDArray[np.str_]:
        """(V,)"""
        first_V = np.unique(self.video_N, return_index=True)[1]
        return self.labels_N[first_V]

    def mean_of_videos(self, rows_ND: NDArray[np.floating]) -> NDArray[np.float64]:
        """(V, D): the mean over each video's clips."""
        sum_VD = np.zeros((self.video_N.max() + 1, rows_ND.shape[1]))
        np.add.at(sum_VD, self.video_N, rows_ND)
        return sum_VD / np.bincount(self.video_N)[:, None]


def evaluate_zero_shot(
    run: str,
    dataset: str,
    split: str | None = "test",
    target: str = "video",
    window: float = 10.0,
    device: torch.device | None = None,
) -> Recall:
    """Top-1 and top-5 accuracy of naming a video's label from the names of all labels.

    The caption of a label is its name split into words (`class_caption`), through the dataset's
    sentence encoder; a video is scored by the mean of its clips' dot products with it, over its
    `target` modalities (MCN released code: video alone, a clip a video). Candidates are the
    labels of the evaluated videos. Raises UsageError where no video has a label.
    """
    device = device or torch.device("cpu")
    loaded = load_run(run, device)
    items = load_evaluation_set(loaded, dataset, split, window, device)
    part = _labelled(items, dataset, split, target)
    names = sorted(set(part.labels_N.tolist()))
    captions = [class_caption(name) for name in names]
    captions_LD = embed_captions(loaded, captions, device, dataset)
    scores_VL = part.mean_of_videos(part.embedding_ND @ captions_LD.T)
    right_VL = part.video_labels()[:, None] == np.array(names)
    return recall_of_sets(scores_VL, right_VL, at=(1, 5))


def evaluate_neighbours(
    run: str,
    dataset: str,
    train_split: str = "train",
    test_split: str = "test",
    target: str = "video+audio",
    window: float = 10.0,
    device: torch.device | None = None,
) -> list[NeighbourRow]:
    """R@1/5/10: whether a test video's label is among those of its nearest training videos.

    A video is the mean of its clips' embeddings over the `target` modalities, compared by dot
    product (cosine where the model compares so); the raw features of the same modalities are
    compared by cosine. R@1 is the accuracy of the nearest neighbour (MCN released code, on UCF101
    and HMDB51). Raises UsageError where either split has no labelled videos.
    """
    train, test, unit_length = _two_splits(
        run, dataset, train_split, test_split, target, window, device
    )
    labels_Q = test.video_labels()
    rows = []
    for name, train_ND, test_ND, unit in (
        ("embedding", train.embedding_ND, test.embedding_ND, unit_length),
        ("raw", train.raw_ND, test.raw_ND, True),
    ):
        means = test.mean_of_videos(test_ND), train.mean_of_videos(train_ND)
        queries_QD, candidates_ND = map(unit_rows, means) if unit else means
        blocks = [
            recall_of_sets(
                queries_QD[block] @ candidates_ND.T, labels_Q[block, None] == train.video_labels()
            )
            for block in row_blocks(len(queries_QD), QUERY_BLOCK)
        ]
        rows.append(NeighbourRow(name, merge_recalls(blocks)))
    return rows


def evaluate_probe(
    run: str,
    dataset: str,
    train_split: str = "train",
    test_split: str = "test",
    target: str = "video+audio",
    regularisation: float = 1.0,
    window: float = 10.0,
    device: torch.device | None = None,
) -> list[ProbeRow]:
    """Linear classifiers on frozen embeddings, and on the raw features, of a dataset's labels.

    scikit-learn's LogisticRegression and LinearSVC (one against all), with `C = regularisation`,
    on features standardised by the training clips. They learn from the clips of the labelled
    videos of one split; a test video's class is that of the largest mean over its clips'
    probabilities (logistic) or margins (svm), as in the usual ten-clip protocols. Raises
    UsageError where a split has no labelled videos or the training split one label only.
    """
    train, test, _ = _two_splits(run, dataset, train_split, test_split, target, window, device)
    classes = len(set(train.labels_N.tolist()))
    if classes < 2:
        raise UsageError(f"{dataset}: split {train_split!r} has one label only, nothing to learn")
    return [
        _probe(features, classifier, train, test, regularisation)
        for features in ("embedding", "raw")
        for classifier in CLASSIFIERS
    ]


def class_caption(label: str) -> str:
    """The words of a class name: 'ApplyEyeMakeup' and 'apply_eye_makeup' give 'Apply Eye Makeup'
    and 'apply eye makeup'."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", label)
    return " ".join(re.split(r"[\s_\-]+", spaced)).strip() or label


def _probe(
    features: str,
    classifier: Classifier,
    train: _Labelled,
    test: _Labelled,
    regularisation: float,
) -> ProbeRow:
    train_ND, test_ND = (
        (train.embedding_ND, test.embedding_ND)
        if features == "embedding"
        else (train.raw_ND, test.raw_ND)
    )
    model = make_classifier(classifier, regularisation).fit(train_ND, train.labels_N)
    scores_NL = class_scores(model, test_ND)
    names = model.classes_
    labels_V, train_labels_V = test.video_labels(), train.video_labels()
    values, counts = np.unique(train_labels_V, return_counts=True)
    found_V = names[test.mean_of_videos(scores_NL).argmax(axis=1)]
    return ProbeRow(
        features=features,
        classifier=classifier,
        accuracy=float((found_V == labels_V).mean()),
        clip_accuracy=float((names[scores_NL.argmax(axis=1)] == test.labels_N).mean()),
        chance=1 / len(names),
        majority=float((labels_V == values[counts.argmax()]).mean()),
        classes=len(names),
        train_clips=len(train.labels_N),
        test_clips=len(test.labels_N),
        test_videos=len(labels_V),
    )


def make_classifier(name: Classifier, regularisation: float) -> Pipeline:
    """Not fitted yet; standardises the columns by what it is fitted on."""
    if name == "logistic":
        linear = LogisticRegression(C=regularisation, max_iter=ITERATIONS)
    else:
        linear = LinearSVC(C=regularisation, max_iter=ITERATIONS, random_state=0)
    return make_pipeline(StandardScaler(), linear)


def class_scores(model: Pipeline, rows_ND: Float32) -> NDArray[np.float64]:
    """(N, L), in the order of `model.classes_`: probabilities where the classifier has them, else
    margins."""
    if hasattr(model, "predict_proba"):
        probabilities_NL: NDArray[np.float64] = model.predict_proba(rows_ND)
        return probabilities_NL
    margins: NDArray[np.float64] = model.decision_function(rows_ND)
    # of two classes scikit-learn gives one margin, that of the second
    return np.stack([-margins, margins], axis=1) if margins.ndim == 1 else margins


def _two_splits(
    run: str,
    dataset: str,
    train_split: str,
    test_split: str,
    target: str,
    window: float,
    device: torch.device | None,
) -> tuple[_Labelled, _Labelled, bool]:
    """The labelled clips of both, and whether the model compares by cosine."""
    device = device or torch.device("cpu")
    loaded = load_run(run, device)
    sets = [
        load_evaluation_set(loaded, dataset, split, window, device)
        for split in (train_split, test_split)
    ]
    train, test = (
        _labelled(items, dataset, split, target)
        for items, split in zip(sets, (train_split, test_split), strict=True)
    )
    return train, test, sets[1].embeddings.unit_length


def _labelled(items: EvaluationSet, dataset: str, split: str | None, target: str) -> _Labelled:
    """The clips of labelled videos that have any of the target's modalities."""
    modalities: Sequence[str] = target.split("+")
    has_label_N = np.array([label is not None for label in items.labels])
    kept_N = has_label_N & items.embeddings.having(modalities)
    if not kept_N.any():
        raise UsageError(
            f"{dataset}: no video of {named_split(split)} has both a label and {target}; labels "
            "and splits come from the source list's columns `label` and `split`"
        )
    keys = np.array(items.keys)[kept_N]
    return _Labelled(
        embedding_ND=items.embeddings.joined(modalities)[kept_N],
        raw_ND=items.raw(modalities)[kept_N],
        labels_N=np.array(items.labels, dtype=object)[kept_N].astype(str),
        video_N=np.unique(keys, return_inverse=True)[1],
    )
