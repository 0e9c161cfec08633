"""'auto' against autofaiss: the same vectors, the same memory, one thread each.

It needs numpy 1 and so an environment of its own:

    python3.11 -m venv PEER_VENV
    PEER_VENV/bin/pip install autofaiss==2.18.0 faiss-cpu==1.13.2 'numpy<2' 'pyarrow<22'

Both are told the bytes that the index may have and the 10 ms that a query may take, which is the
default of both. autofaiss takes more than it was given where vectors are few (it counts codes, not
what stands beside them), so recall is compared at equal memory and time: ours is the index of
'auto' that finds most in no more bytes, at the most thorough setting of its search that is no
slower than what autofaiss tuned itself to. Build time is CPU seconds of training, adding and tuning
(autofaiss's includes its own measurement of the index, as ours does).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from figures import figure
from index_frontier import Row, best_within
from index_grid import Vectors, measured_point
from measuring import ONE_THREAD, Command, Ratio, run

BUILD = """
import json, os, sys, time
import faiss
from autofaiss import build_index
faiss.omp_set_num_threads(1)
vectors, folder, budget, queried = sys.argv[1:]
before = sum(os.times()[:4])
index, infos = build_index(
    embeddings=vectors, index_path=folder + "/knn.index", index_infos_path=folder + "/infos.json",
    max_index_memory_usage=budget + "B", current_memory_available="16G", metric_type="ip",
    max_index_query_time_ms=float(queried), nb_cores=1, verbose=40,
)
cpu = sum(os.times()[:4]) - before
with open(folder + "/peer.json", "w") as file:
    json.dump({"factory": infos["index_key"], "param": infos.get("index_param"), "cpu": cpu}, file)
"""
QUERY_MS = 10.0


def measure_peer(
    python: Path, vectors: Vectors, rows: Sequence[Row], folder: Path, core: int,
    say: Callable[[str], None],
) -> tuple[list[dict[str, Any]], list[Ratio]]:  # fmt: skip
    """One index of autofaiss for each budget that 'auto' was given as a part of the raw memory."""
    data = folder / "vectors"
    data.mkdir()
    np.save(data / "vectors.npy", vectors.rows)
    found, ratios = [], []
    autos = [row for row in rows if row.asked.startswith("1/")]
    for asked in [row.asked for row in autos]:
        budget = vectors.rows.nbytes // int(asked.removeprefix("1/"))
        peer = _built(python, data, folder, budget, core)
        index = faiss.read_index(str(folder / "knn.index"))
        peer["point"] = point = measured_point(index, vectors, {})
        peer["bytes_per_vector"] = (folder / "knn.index").stat().st_size / index.ntotal
        row, ours = best_within(autos, peer["bytes_per_vector"], point.p50_ms)
        name = f"{vectors.name}, {asked} of the memory: auto / autofaiss"
        say(f"{name}: {peer}, ours {row.factory} {ours}")
        found.append(peer | {"asked": asked, "point": asdict(point), "ours": asdict(ours)})
        ratios += [
            figure(f"{name}: recall in its memory and time", ours.recall / point.recall, 1.0,
                   at_least=True),
            figure(f"{name}: CPU seconds", row.cpu_seconds / peer["cpu"], 1.0, at_least=False),
            figure(f"{name}: memory", row.bytes_per_vector / peer["bytes_per_vector"], None,
                   at_least=False),
        ]  # fmt: skip
    return found, ratios


def _built(python: Path, data: Path, folder: Path, budget: int, core: int) -> dict[str, Any]:
    arguments = [str(data), str(folder), str(budget), str(QUERY_MS)]
    command = Command([str(python), "-c", BUILD, *arguments], {core}, variables=ONE_THREAD)
    run(command, folder / "autofaiss.log")
    peer: dict[str, Any] = json.loads((folder / "peer.json").read_text())
    return peer
