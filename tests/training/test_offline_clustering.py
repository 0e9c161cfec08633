"""training.offline_clustering: blocks, files, FAISS and scikit-learn."""

import resource
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from sklearn.cluster import KMeans

from extractors.errors import AbortError
from training import offline_clustering
from training.offline_clustering import offline_kmeans, open_rows


def blobs(rows: int = 3000, clusters: int = 10, dim: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(clusters, dim)) * 2
    made = centres[rng.integers(clusters, size=rows)] + rng.normal(size=(rows, dim))
    return made.astype(np.float32)


def save(folder: Path, rows: np.ndarray, cuts: tuple[int, ...] = ()) -> list[Path]:
    paths = []
    for i, part in enumerate(np.split(rows, cuts)):
        paths.append(folder / f"{i}.npy")
        np.save(paths[-1], part)
    return paths


def test_the_objective_is_scikit_learns_and_faisss(tmp_path: Path) -> None:
    rows = blobs()
    start = rows[:10].copy()
    ours = offline_kmeans(
        open_rows(save(tmp_path, rows)), 10, 0, spherical=False, iterations=100, tolerance=0.0,
        start_KD=start,
    )  # fmt: skip
    theirs = KMeans(10, init=start, n_init=1, tol=0.0).fit(rows)
    assert ours.objective == pytest.approx(theirs.inertia_, rel=0.01)
    trained = faiss.Kmeans(8, 10, niter=100, max_points_per_centroid=10**6)
    trained.train(rows, init_centroids=start)
    assert ours.objective == pytest.approx(trained.obj[-1], rel=0.01)
    distance = ((rows[:, None] - ours.centroids_KD) ** 2).sum(2)
    assert ours.labels_N.tolist() == distance.argmin(1).tolist()
    assert ours.objective == pytest.approx(distance.min(1).sum(), rel=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("spherical", [True, False])
def test_blocks_and_files_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spherical: bool, dtype: type
) -> None:
    rows = blobs(500).astype(dtype)
    whole = offline_kmeans(open_rows(save(tmp_path, rows)), 6, 3, spherical=spherical)
    monkeypatch.setattr(offline_clustering, "BLOCK_BYTES", 4 * 8 * 70)
    (tmp_path / "cut").mkdir()
    files = open_rows(save(tmp_path / "cut", rows, (7, 7, 260)))
    assert [len(block) for block in files.blocks()] == [7, 70, 70, 70, 43, 70, 70, 70, 30]
    cut = offline_kmeans(files, 6, 3, spherical=spherical)
    np.testing.assert_allclose(cut.centroids_KD, whole.centroids_KD, atol=1e-4)
    assert np.mean(cut.labels_N == whole.labels_N) > 0.99
    assert cut.objective == pytest.approx(whole.objective, rel=1e-4)
    if spherical:
        np.testing.assert_allclose(np.linalg.norm(cut.centroids_KD, axis=1), 1, rtol=1e-5)
    assert np.array_equal(np.load(files.paths[0]), rows[:7])  # the files are as they were


def test_an_empty_cluster_is_split_off_the_largest(tmp_path: Path) -> None:
    rows = blobs(200)
    start = np.concatenate([rows[:3], np.full((1, 8), 1e3, np.float32)])
    found = offline_kmeans(
        open_rows(save(tmp_path, rows)), 4, 0, spherical=False, iterations=20, start_KD=start
    )
    assert np.bincount(found.labels_N, minlength=4).min() > 0


def test_the_objective_falls_and_the_end_is_told(tmp_path: Path) -> None:
    seen: list[float] = []
    found = offline_kmeans(
        open_rows(save(tmp_path, blobs())), 10, 0, iterations=50, rows_per_cluster=4,
        on_iteration=lambda number, objective: seen.append(objective),
    )  # fmt: skip
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == found.iterations < 50
    assert found.objective <= seen[-1] * (1 + 1e-6)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_text("hello")
    with pytest.raises(AbortError, match="not a"):
        open_rows([tmp_path / "x.npy"])
    np.save(tmp_path / "x.npy", np.zeros((3, 2), np.int64))
    with pytest.raises(AbortError, match="int64 of shape"):
        open_rows([tmp_path / "x.npy"])
    np.save(tmp_path / "x.npy", np.zeros((3, 2), np.float32))
    np.save(tmp_path / "y.npy", np.zeros((3, 4), np.float32))
    with pytest.raises(AbortError, match=r"widths \[2, 4\]"):
        open_rows([tmp_path / "x.npy", tmp_path / "y.npy"])
    with pytest.raises(AbortError, match="3 rows for 4 clusters"):
        offline_kmeans(open_rows([tmp_path / "x.npy"]), 4, 0)


MEASURE = """
import resource, sys
from pathlib import Path
from training.offline_clustering import offline_kmeans, open_rows
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
offline_kmeans(open_rows([Path(sys.argv[1])]), 8, 0, iterations=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "RUSAGE_SELF"), reason="needs rusage")
def test_memory_is_bounded(tmp_path: Path) -> None:
    """1,000,000 x 128 float32 are 488 MiB; a block of 64 MiB, mapped and copied, and FAISS's
    buffers are less than 300."""
    path = tmp_path / "rows.npy"
    stored = np.lib.format.open_memmap(path, "w+", np.float32, (1_000_000, 128))
    for first in range(0, len(stored), 50_000):
        block = np.random.default_rng(first).random((50_000, 128), np.float32)
        stored[first : first + 50_000] = block
    del stored
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) / 1024 < 350
