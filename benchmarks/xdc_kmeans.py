"""Peak resident memory of XDC's k-means over rows that lie in a file.

python benchmarks/xdc_kmeans.py ROWS.npy FEATURES K     clusters them, in the child
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from figures import say
from index_vectors import PIECE, mixture, mixture_rows
from measuring import ONE_THREAD, Command, PeakMemory, Ratio, pinned, timed

from extractors.config import LogMelConfig
from training.xdc.config import XdcClusteringConfig, XdcConfig
from training.xdc.pseudo_labels import cluster_set
from training.xdc.row_files import writing_rows
from training.xdc.video_set import VideoSet

DIMENSION = 512
LIMIT_MB = 4096
GROUPS = 1000
FEATURES = ("l2", "pca")


def main() -> None:
    """The child: what an iteration does with the vectors of one modality."""
    rows, features, clusters = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    faiss.omp_set_num_threads(1)
    config = XdcClusteringConfig.model_validate({"features": features, "clusters": clusters})
    videos = video_set(len(np.load(rows, mmap_mode="r", allow_pickle=False)))

    def cluster() -> None:
        made = cluster_set("video", {"video": rows}, videos, config, (1, 0), rows.parent)
        assert made.clusters == clusters
        assert made.labels_N.min() >= 0

    cost = timed(cluster)
    print(json.dumps({"cpu_seconds": round(cost.cpu, 1), "wall_seconds": round(cost.wall, 1)}))


def video_set(count: int) -> VideoSet:
    """So many videos, all with a picture; none is ever read."""
    none_N2, every_N = np.zeros((count, 2), np.int64), np.ones(count, np.bool_)
    return VideoSet(
        dataset="synthetic",
        keys=tuple(f"video_{number:08d}" for number in range(count)),
        shard_N=none_N2[:, 0],
        duration_N=np.full(count, 10.0),
        proxy_N2=none_N2,
        mel_N2=none_N2,
        seen_N=every_N,
        heard_N=every_N,
        held_out_N=~every_N,
        label_N=none_N2[:, 0] - 1,
        mel=LogMelConfig(front_end="xdc"),
    )


def measure_kmeans(folder: Path, count: int, core: int) -> tuple[dict[str, Any], list[Ratio]]:
    """MiB of a process that clusters `count` seeded rows of 512 columns by the defaults, with
    either way of preparing them. Python, its libraries and mapped pages count."""
    rows = write_mixture(folder / "rows.npy", count)
    clusters = min(XdcConfig().clustering.clusters, count // 2)
    found: dict[str, Any] = {"rows": count, "dimension": DIMENSION, "clusters": clusters}
    ratios = []
    for features in FEATURES:
        line = [sys.executable, __file__, str(rows), features, str(clusters)]
        peak, cost = watched(Command(line, {core}, variables=ONE_THREAD))
        found[features] = cost | {"peak_mb": round(peak)}
        say(f"k-means, {features}: {found[features]}")
        what = f"k-means, {count} x {DIMENSION}, {features}: peak MiB"
        ratios.append(Ratio(what, round(peak), (round(peak),), LIMIT_MB, at_least=False))
    return found, ratios


def write_mixture(path: Path, count: int) -> Path:
    """(count, 512) float32, written in pieces."""
    of = mixture(DIMENSION, clusters=min(GROUPS, max(8, count // 100)))
    with writing_rows(path, count, DIMENSION) as write:
        for number, first in enumerate(range(0, count, PIECE)):
            write(mixture_rows(of, min(PIECE, count - first), piece=number))
    return path


def watched(command: Command) -> tuple[float, dict[str, float]]:
    """The peak of a child in MiB, and what it printed."""
    with (
        subprocess.Popen(pinned(command), stdout=subprocess.PIPE, text=True) as process,
        PeakMemory(process.pid) as peak,
    ):
        printed, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"exit code {process.returncode}: {' '.join(command.line)}")
    cost: dict[str, float] = json.loads(printed)
    return peak.worker, cost


if __name__ == "__main__":
    main()
