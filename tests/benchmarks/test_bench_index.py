import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "bench_index.py"


@pytest.mark.slow
def test_a_small_run_measures_every_part_but_the_peer_s(tmp_path: Path) -> None:
    line = [
            "--vectors", "12000", "--dimension", "32", "--queries", "100", "--factories", "SQ8",
            "--memory-vectors", "12000", "--real-vectors", str(tmp_path / "real.npy"),
            "--parts", "frontier,real,autofaiss,memory,append", "--output", "found.json",
    ]  # fmt: skip
    code = "import numpy; numpy.save('real.npy', numpy.random.default_rng(0).random((11000, 24)))"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    done = subprocess.run(
        [sys.executable, SCRIPT, *line], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())
    missed = [ratio for ratio in found["ratios"] if ratio["holds"] is False]
    assert done.returncode == (1 if missed else 0), done.stderr
    for name in ("mixture", "real"):
        assert [row["asked"] for row in found[name]["rows"]] == [
            *("grid", "1/4", "1/16", "its defaults", "grid")
        ]
        assert found[name]["rows"][0]["points"][0]["recall"] == 1.0
    whats = " ".join(ratio["what"] for ratio in found["ratios"])
    assert "mixture, auto for 1/16: recall@10" in whats
    assert "peak memory of building" in whats
    assert "append of 1 % / build" in whats
    assert "autofaiss: skipped" in done.stderr
    assert [build["count"] for build in found["memory"]] == [12_000] * 3
    assert [build["asked"] for build in found["memory"]][::2] == ["auto", "on disk"]
    assert found["memory"][1]["index_sha256"] == found["memory"][2]["index_sha256"]


def test_an_unknown_part_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--parts", "speed"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--parts speed: known are frontier" in done.stderr
