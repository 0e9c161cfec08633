"""How much of the labels a dataset's tracks hold: linear classifiers and neighbours, by splits.

Any extractor's rows are features; an XDC run is an extractor. The protocol is XDC's (arXiv
1911.12667, its evaluation of sound): a linear SVM, one against all, on uniformly spaced clips of
every video, whose scores are averaged. Shapes: N clips (rows of a track), V videos, D columns, L
labels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import UsageError
from pipeline.dataset import read_dataset_card
from pipeline.samples import read_dataset
from training.classification import (
    CLASSIFIERS,
    Classifier,
    class_scores,
    make_classifier,
)
from training.clips import Float32
from training.embedding import unit_rows
from training.probe_config import ProbeConfig
from training.protocols.split_tables import SplitTable
from training.provenance import check_current
from training.retrieval import QUERY_BLOCK, row_blocks
from training.retrieval_metrics import merge_recalls, recall_of_sets
from training.split_scores import (
    ScoreRow,
    SplitScore,
    draw_training,
    majority_share,
    mean_of_videos,
    score_clips,
    score_row,
)

NEAREST = (1, 5, 10)


@dataclass(frozen=True)
class ClipRows:
    """Rows of labelled videos."""

    rows_ND: Float32
    video_N: NDArray[np.int64]
    """Each row's video, 0 to V - 1, in order."""
    label_V: NDArray[np.str_]
    group_V: NDArray[np.str_]

    def only(self, chosen_V: NDArray[np.bool_]) -> "ClipRows":
        """Some of the videos, numbered anew."""
        kept_N = chosen_V[self.video_N]
        number_V = np.cumsum(chosen_V) - 1
        return ClipRows(
            self.rows_ND[kept_N],
            number_V[self.video_N[kept_N]],
            self.label_V[chosen_V],
            self.group_V[chosen_V],
        )

    def averaged(self) -> "ClipRows":
        """One row a video, the mean of its rows."""
        mean_VD = mean_of_videos(self.rows_ND, self.video_N).astype(np.float32)
        return replace(self, rows_ND=mean_VD, video_N=np.arange(len(self.label_V)))


@dataclass(frozen=True)
class TrackReport:
    """What was measured on a dataset."""

    labelled: int
    """Videos of the table."""
    absent: int
    """Those of them that the dataset does not hold; left out."""
    fingerprints: dict[str, str]
    """Of the tracks."""
    without: dict[str, int]
    """For each track: those that the dataset holds and that have no such rows; left out."""
    rows: tuple[ScoreRow, ...]


def evaluate_tracks(
    dataset: str, table: SplitTable, tracks: Sequence[str] = (), config: ProbeConfig | None = None
) -> TrackReport:
    """Every measure on every track (none named: all of the dataset) over all splits of a table.

    Raises UsageError for a track that the dataset has not, and a split without videos to train on
    or to test.
    """
    config = config or ProbeConfig()
    check_current(dataset)
    card = read_dataset_card(dataset)
    found = card["tracks"]
    unknown = [name for name in tracks if name not in found]
    if unknown:
        raise UsageError(f"{dataset}: no track {unknown[0]!r}; there are: {', '.join(found)}")
    wanted = tuple(dict.fromkeys(tracks)) or tuple(found)
    stored, present_V = _read_tracks(dataset, table, wanted, config.clips)
    if not present_V.any():
        raise UsageError(
            f"{dataset}: holds none of the {len(table.keys)} labelled videos, as {table.keys[0]}; "
            "extract from the table of splits itself, so that the keys agree"
        )
    rows = [
        row
        for name in wanted
        if stored[name]
        for row in _evaluate_track(dataset, name, table, stored[name], config)
    ]
    without = {name: int(present_V.sum()) - len(stored[name]) for name in wanted}
    absent = len(table.keys) - int(present_V.sum())
    stamps = card.get("fingerprints", {})
    fingerprints = {name: stamps[name] for name in wanted if name in stamps}
    return TrackReport(len(table.keys), absent, fingerprints, without, tuple(rows))


def uniform_rows(rows_TD: NDArray[Any], count: int) -> NDArray[Any]:
    """`count` of T rows, each in the middle of its share of them; all where there are fewer, or
    `count` is 0."""
    if not 0 < count < len(rows_TD):
        return rows_TD
    picked: NDArray[Any] = rows_TD[((np.arange(count) + 0.5) * len(rows_TD) / count).astype(int)]
    return picked


def choose_c(classifier: Classifier, train: ClipRows, config: ProbeConfig) -> float:
    """The C of `config.c` that has the most held-out training videos right; of equals the lowest.

    Parts are of whole groups, dealt out label by label, so each has videos of every label that has
    enough groups.
    """
    if len(config.c) == 1:
        return config.c[0]
    fold_V = group_folds(train.label_V, train.group_V, config.folds, config.seed)
    right: dict[float, float] = dict.fromkeys(sorted(config.c), 0.0)
    for fold in np.unique(fold_V):
        kept, held_out = train.only(fold_V != fold), train.only(fold_V == fold)
        if len(np.unique(kept.label_V)) < 2:
            continue
        for c in right:
            accuracy, _ = _fit_and_score(classifier, c, kept, held_out)
            right[c] += accuracy * len(held_out.label_V)
    return max(right, key=lambda c: right[c])  # the first of equals


def group_folds(
    label_V: NDArray[np.str_], group_V: NDArray[np.str_], folds: int, seed: int
) -> NDArray[np.int64]:
    """(V,) a part for each video: the groups of a label, in a random order, go round the parts."""
    rng = np.random.default_rng((seed, 1))
    groups, number_V = np.unique(group_V, return_inverse=True)
    fold_G = np.full(len(groups), -1)
    start = 0
    for label in np.unique(label_V):
        own = np.unique(number_V[label_V == label])
        own = rng.permutation(own[fold_G[own] < 0])
        fold_G[own] = (start + np.arange(len(own))) % folds
        start += len(own)
    found_V: NDArray[np.int64] = fold_G[number_V]
    return found_V


def _read_tracks(
    dataset: str, table: SplitTable, tracks: Sequence[str], clips: int
) -> tuple[dict[str, dict[int, Float32]], NDArray[np.bool_]]:
    """For each track the rows of videos by their number in the table; which the dataset holds."""
    numbers = {key: number for number, key in enumerate(table.keys)}
    stored: dict[str, dict[int, Float32]] = {name: {} for name in tracks}
    present_V = np.zeros(len(table.keys), np.bool_)
    for sample in read_dataset(dataset, set(tracks)):
        number = numbers.get(sample.key)
        if number is None:
            continue
        present_V[number] = True
        for name in tracks:
            track = sample.tracks.get(name)
            if track is not None and len(track.rows):
                stored[name][number] = uniform_rows(track.rows, clips).astype(np.float32)
    return stored, present_V


def _evaluate_track(
    dataset: str, name: str, table: SplitTable, stored: dict[int, Float32], config: ProbeConfig
) -> Iterator[ScoreRow]:
    chosen = np.array(sorted(stored))
    parts = [stored[number] for number in chosen.tolist()]
    video_N = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    whole = ClipRows(np.concatenate(parts), video_N, table.label_V[chosen], table.group_V[chosen])
    if config.average == "features":
        whole = whole.averaged()
    measures: dict[str, list[SplitScore]] = {}
    for split in table.parts:
        train_V, test_V = (table.where(split, part)[chosen] for part in ("train", "test"))
        for what, part_V in (("to train on", train_V), ("to test", test_V)):
            if not part_V.any():
                raise UsageError(f"{dataset}: split {split}: no video {what} has track {name}")
        train_V = draw_training(whole.label_V, train_V, config.labels, config.seed)
        train, test = whole.only(train_V), whole.only(test_V)
        for classifier in CLASSIFIERS:
            score = _classify(split, classifier, train, test, config)
            measures.setdefault(classifier, []).append(score)
        for k, score in _compare(split, train, test):
            measures.setdefault(f"nearest {k}", []).append(score)
    return (score_row(name, measure, scores) for measure, scores in measures.items())


def _classify(
    split: str, classifier: Classifier, train: ClipRows, test: ClipRows, config: ProbeConfig
) -> SplitScore:
    c = choose_c(classifier, train, config)
    accuracy, clip_accuracy = _fit_and_score(classifier, c, train, test)
    blank = _blank(split, train, test)
    return replace(blank, accuracy=accuracy, clip_accuracy=clip_accuracy, c=c)


def _fit_and_score(
    classifier: Classifier, c: float, train: ClipRows, test: ClipRows
) -> tuple[float, float]:
    model = make_classifier(classifier, c).fit(train.rows_ND, train.label_V[train.video_N])
    scores_NL = class_scores(model, test.rows_ND)
    return score_clips(scores_NL, model.classes_, test.label_V, test.video_N)


def _compare(split: str, train: ClipRows, test: ClipRows) -> Iterator[tuple[int, SplitScore]]:
    """By the cosine of the videos' mean rows."""
    train_VD, test_VD = (unit_rows(part.averaged().rows_ND) for part in (train, test))
    recall = merge_recalls(
        [
            recall_of_sets(
                test_VD[block] @ train_VD.T, test.label_V[block, None] == train.label_V, NEAREST
            )
            for block in row_blocks(len(test_VD), QUERY_BLOCK)
        ]
    )
    blank = _blank(split, train, test)
    for k in NEAREST:
        yield k, replace(blank, accuracy=recall.recall[k], chance=recall.chance[k])


def _blank(split: str, train: ClipRows, test: ClipRows) -> SplitScore:
    """What does not depend on the measure."""
    classes = len(np.unique(train.label_V))
    return SplitScore(
        split=split,
        accuracy=0.0,
        clip_accuracy=None,
        chance=1 / classes,
        majority=majority_share(train.label_V, test.label_V),
        classes=classes,
        train_videos=len(train.label_V),
        train_clips=len(train.video_N),
        test_videos=len(test.label_V),
        test_clips=len(test.video_N),
    )
