"""Pseudo-labels: scikit-learn's clusters where there are any, and what is made of the odd."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from extractors.config import LogMelConfig
from extractors.errors import AbortError
from training.offline_clustering import OfflineClustering, open_rows
from training.xdc.config import XdcClusteringConfig
from training.xdc.pseudo_labels import (
    PseudoLabels,
    agreement,
    cluster_set,
    cluster_statistics,
    plan_labels,
    prepare_rows,
    publish_labels,
    without_tiny,
)
from training.xdc.video_set import VideoSet

N, D = 240, 8


def video_set(count: int = N, unheard: tuple[int, ...] = (), labels: int = 4) -> VideoSet:
    """Columns without files."""
    heard = np.ones(count, bool)
    heard[list(unheard)] = False
    nowhere = np.zeros((count, 2), np.int64)
    return VideoSet(
        dataset="set",
        keys=tuple(f"v{i}" for i in range(count)),
        shard_N=np.zeros(count, np.int64),
        duration_N=np.ones(count),
        proxy_N2=nowhere,
        mel_N2=nowhere,
        seen_N=np.ones(count, bool),
        heard_N=heard,
        held_out_N=np.arange(count) % 10 == 0,
        label_N=np.arange(count) % labels,
        mel=LogMelConfig(front_end="xdc"),
    )


def blobs(seed: int, groups: int, noise: float = 0.1, count: int = N) -> np.ndarray:
    """Row i is near centre i modulo `groups`."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups, D))
    rows = centres[np.arange(count) % groups] + noise * rng.normal(size=(count, D))
    return rows.astype(np.float32)


@pytest.fixture
def stored(tmp_path: Path):
    def store(**rows: np.ndarray) -> dict[str, Path]:
        for name, values in rows.items():
            np.save(tmp_path / f"{name}.npy", values)
        return {name: tmp_path / f"{name}.npy" for name in rows}

    return store


@pytest.mark.parametrize("features", ["raw", "l2", "pca"])
def test_clusters_are_scikit_learns(stored, tmp_path: Path, features: str) -> None:
    """On well-parted rows the best partition is the only good one, so both must find it."""
    rows = blobs(1, 6)
    config = XdcClusteringConfig(clusters=6, features=features)
    made = cluster_set("video", stored(video=rows), video_set(), config, (1, 0), tmp_path)
    expected = rows
    if features == "pca":
        expected = PCA(D, whiten=True).fit_transform(rows)
    if features != "raw":
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    found = KMeans(6, n_init=10, random_state=0).fit_predict(expected)
    assert made.clusters == 6
    assert adjusted_rand_score(made.labels_N, found) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["video.npy"]


def test_the_concatenation_parts_what_either_modality_parts(stored, tmp_path: Path) -> None:
    """Four groups, of which picture and sound tell two each apart (CDC); loudness counts for
    nothing, since each half has unit length."""
    video, audio = blobs(1, 2), 100 * blobs(2, 4)[np.arange(N) // 2 % 2]
    config = XdcClusteringConfig(clusters=4)
    made = cluster_set(
        "joint", stored(video=video, audio=audio), video_set(), config, (1, 0), tmp_path
    )
    groups = np.arange(N) % 2 * 2 + np.arange(N) // 2 % 2
    assert adjusted_rand_score(made.labels_N, groups) == 1


def test_whitened_rows_are_deepclusters(stored, tmp_path: Path) -> None:
    """PCA to `pca_dim`, unit variance, unit length: scikit-learn's, up to the axes' signs."""
    rows, target = blobs(3, 5, noise=1.0), tmp_path / "prepared.npy"
    config = XdcClusteringConfig(features="pca", pca_dim=3)
    prepare_rows([stored(video=rows)["video"]], np.ones(N, bool), config, (1,), target)
    expected = PCA(3, whiten=True).fit_transform(rows)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    # float32 throughout in FAISS
    np.testing.assert_allclose(np.abs(np.load(target)), np.abs(expected), atol=1e-3)


def test_videos_without_the_modality_have_no_label(stored, tmp_path: Path) -> None:
    rows = blobs(1, 3)
    videos = video_set(unheard=(4, 100))
    rows[[4, 100]] = 0
    config = XdcClusteringConfig(clusters=3)
    files = stored(audio=rows, video=blobs(2, 3))
    heard = cluster_set("audio", files, videos, config, (1, 0), tmp_path).labels_N
    assert np.flatnonzero(heard < 0).tolist() == [4, 100]
    assert set(heard[heard >= 0]) == {0, 1, 2}
    joint = cluster_set("joint", files, videos, config, (1, 0), tmp_path).labels_N
    assert np.flatnonzero(joint < 0).tolist() == [4, 100]
    nobody = replace(videos, heard_N=np.arange(N) == 3)
    with pytest.raises(AbortError, match="set: 1 videos to cluster for the labels 'audio'"):
        cluster_set("audio", files, nobody, config, (1, 0), tmp_path)


def test_k_is_capped_and_every_seed_begins_elsewhere(stored, tmp_path: Path) -> None:
    files = stored(video=np.random.default_rng(1).normal(size=(N, D)).astype(np.float32))
    config = XdcClusteringConfig(clusters=1000)
    assert cluster_set("video", files, video_set(), config, (1, 0), tmp_path).clusters == N // 2
    config = XdcClusteringConfig(clusters=8)
    made = [
        cluster_set("video", files, video_set(), config, (1, i), tmp_path).labels_N
        for i in (0, 0, 1)
    ]
    assert np.array_equal(made[0], made[1])
    assert adjusted_rand_score(made[0], made[2]) < 0.9


def test_tiny_clusters(tmp_path: Path) -> None:
    """Clusters of 5, 4, 1 and no rows on a line; the single row is nearest to the second."""
    np.save(tmp_path / "rows.npy", np.array([0.0] * 5 + [10.0] * 4 + [14.0], np.float32)[:, None])
    rows = open_rows([tmp_path / "rows.npy"])
    labels = np.array([0] * 5 + [2] * 4 + [3], np.int32)
    centroids = np.array([[0.0], [13.0], [10.0], [14.0]], np.float32)
    found = OfflineClustering(centroids, labels, 0.0, 1)
    assert np.array_equal(without_tiny(found, rows, XdcClusteringConfig()), labels)
    merged = without_tiny(found, rows, XdcClusteringConfig(min_cluster_videos=2))
    assert merged.tolist() == [0] * 5 + [2] * 5
    ignoring = XdcClusteringConfig(min_cluster_videos=5, tiny_clusters="ignore")
    assert without_tiny(found, rows, ignoring).tolist() == [0] * 5 + [-1] * 5
    everything = XdcClusteringConfig(min_cluster_videos=100)
    assert np.array_equal(without_tiny(found, rows, everything), labels)


def test_what_is_logged_of_a_label_set() -> None:
    labels = np.array([0, 0, 0, 2, 2, 1, -1, 0])
    before = np.array([5, 5, 1, 1, 1, 0, 0, -1])
    videos = replace(video_set(8), label_N=np.array([0, 0, 1, 1, 1, -1, 0, -1]))
    found = cluster_statistics("video", PseudoLabels(labels, 4), before, videos)
    assert found["video_clusters"] == 3
    assert (found["video_largest"], found["video_smallest"]) == (4, 1)
    shares = np.array([4, 1, 2]) / 7
    assert found["video_balance"] == pytest.approx(-(shares * np.log(shares)).sum() / np.log(4))
    expected = normalized_mutual_info_score([0, 0, 0, 2, 2, 1], [5, 5, 1, 1, 1, 0])
    assert found["video_nmi_last"] == pytest.approx(expected)
    expected = normalized_mutual_info_score([0, 0, 0, 2, 2], [0, 0, 1, 1, 1])
    assert found["video_nmi_label"] == pytest.approx(expected)
    unlabelled = replace(videos, label_N=np.full(8, -1))
    assert "video_nmi_label" not in cluster_statistics(
        "v", PseudoLabels(labels, 4), None, unlabelled
    )
    assert agreement(labels, np.full(8, -1)) == 0


def test_labels_are_published_by_key(tmp_path: Path) -> None:
    videos = video_set(4)
    publish_labels(str(tmp_path), 3, videos, {"video": np.array([1, -1, 0, 2])})
    table = pq.read_table(tmp_path / "pseudo_labels" / "000003.parquet").to_pydict()
    assert table == {
        "key": ["v0", "v1", "v2", "v3"],
        "held_out": [True, False, False, False],
        "video": [1, None, 0, 2],
    }


def test_the_plans_labels_are_classes_where_there_are_two() -> None:
    videos = video_set(labels=4)
    unlabelled = replace(videos, label_N=np.where(np.arange(N) < 5, -1, videos.label_N))
    made = plan_labels(unlabelled)
    assert made.clusters == 4
    assert made.labels_N.tolist() == unlabelled.label_N.tolist()
    for label in (0, -1):
        with pytest.raises(AbortError, match="column `label`"):
            plan_labels(replace(videos, label_N=np.full(N, label)))
