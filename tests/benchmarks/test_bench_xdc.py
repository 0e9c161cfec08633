import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "bench_xdc.py"


@pytest.fixture(scope="module")
def training() -> ModuleType:
    """The scripts import one another from their own folder, which is not on the path of tests."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("xdc_t", BENCHMARKS / "xdc_training.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["xdc_t"] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.mark.slow
def test_a_small_run_measures_every_part_but_torchvision(tmp_path: Path) -> None:
    line = [
        "--sets", "digits", "--videos", "12", "--clips", "32", "--repeats", "1",
        "--kmeans-rows", "2000", "--set", "xdc.epochs=1", "--set", "xdc.clustering.clusters=3",
        "--output", "found.json",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, SCRIPT, *line], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())
    missed = [ratio for ratio in found["ratios"] if ratio["holds"] is False]
    assert done.returncode == (1 if missed else 0), done.stderr
    assert "torchvision: skipped" in done.stderr
    limits = {ratio["what"]: ratio["limit"] for ratio in found["ratios"]}
    assert limits == {
        "clips per CPU second, loader / step, digits": 1.0,
        "CPU a clip, loader / one ffmpeg pass, digits": 1.5,
        "CPU a clip, loader / one ffmpeg pass, digits, a child a file": None,
        "CPU a clip, loader / one ffmpeg pass, digits, one clip of each video": None,
        "clips per CPU second, ours / PyAV, digits": 2.0,
        "embedding and k-means / iteration, digits": 0.15,
        "embedding and k-means / iteration, digits, the first": None,
        "k-means, 2000 x 512, l2: peak MiB": 4096,
        "k-means, 2000 x 512, pca: peak MiB": 4096,
    }
    assert [row["epochs"] for row in found["digits, training"]["iterations"]] == [1, 1]


def test_seconds_of_iterations_are_read_from_the_log(training: ModuleType) -> None:
    rows = [
        {"step": 1, "epoch": 0, "clustering_seconds": 1.0},
        {"step": 1, "epoch": 0, "clips_per_second": 8.0},
        {"step": 2, "epoch": 1, "clips_per_second": 4.0},
        {"step": 2, "epoch": 1, "held_out_loss": 4.0},
        {"step": 3, "epoch": 0, "clustering_seconds": 2.0},
        {"step": 3, "epoch": 0, "clips_per_second": 2.0},
    ]
    found = training.iterations("\n".join(map(json.dumps, rows)), clips=16)
    assert found == [
        {"clustering": 1.0, "steps": 6.0, "epochs": 2, "share": 0.1429},
        {"clustering": 2.0, "steps": 8.0, "epochs": 1, "share": 0.2},
    ]


@pytest.mark.slow
def test_an_unknown_part_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--parts", "speed"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "speed: known are step,pass" in done.stderr
