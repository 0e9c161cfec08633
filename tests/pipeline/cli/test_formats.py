import csv
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.conftest import Outcome

SMALL = """
extract: {videos_per_shard: 4}
train:
  epochs: 1
  sampling: {batch_videos: 6, clips_per_video: 2, min_time: 2.0}
  model: {embedding_dim: 16, audio_widths: [8, 8], audio_blocks: 1, decoder_dim: 8}
  clustering: {clusters: 2, queue_rows: 24, refit_steps: 2}
index: {factory: Flat}
"""
NUM_VIDEOS = 6


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def howto100m(tmp_path: Path) -> Path:
    """A folder as HowTo100M's users have it: six videos of random features, and one gone."""
    root, rng = tmp_path / "features", np.random.default_rng(11)
    captions, paths = {}, []
    for number in range(NUM_VIDEOS):
        name, seconds = f"jEyaTUyJ-r{number}", 8 + number
        path = f"food_and_entertaining/video_j/{name}"
        (root / path).mkdir(parents=True)
        for suffix, rows in (("2d", seconds), ("3d", int(seconds * 1.5))):
            features = rng.normal(size=(rows, 2048)).astype(np.float16)
            np.savez_compressed(root / path / f"{name}_{suffix}.npz", features=features)
        mels = rng.uniform(-80, 0, size=(40, seconds * 100)).astype(np.float16)
        np.savez_compressed(root / path / f"{name}_spec.npz", mels)
        starts = np.arange(0, seconds, 2.0).tolist()
        texts = [f"step {i} of recipe {number}" for i in range(len(starts))]
        captions[name] = {"start": starts, "end": [s + 1.9 for s in starts], "text": texts}
        paths.append(f"None/{path}")
    with (root / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path"], *([p] for p in [*paths, "None/gone/gone"])])
    (root / "caption.pickle").write_bytes(pickle.dumps(captions))
    return root


def test_features_of_years_ago_are_trained_on_today(
    run: Callable[..., Outcome], howto100m: Path, small: Path, tmp_path: Path
) -> None:
    """import, status, verify, one step of MCN, an index of it, a search by text."""
    dataset, model, index = (str(tmp_path / name) for name in ("dataset", "run", "index"))
    arguments = (
        "import", howto100m, "--output", dataset, "--format", "howto100m",
        "--list", howto100m / "list.csv", "--config", small, "--device", "cpu",
    )  # fmt: skip
    refused = run(*arguments)
    assert refused.code == 2
    assert "--trust-pickle" in refused.err
    assert not Path(dataset).exists()
    imported = run(*arguments, "--trust-pickle")
    assert imported.code == 3
    assert "1 video failed" in imported.err
    assert run("verify", dataset).code == 0
    status = run("status", dataset)
    for text in ("2 of 2", "7 of 7", "failed: not_found"):
        assert text in status.out
    again = run(*arguments, "--trust-pickle")
    assert again.code == 3
    assert "2 shards (7 videos) there already, kept" in again.err
    options = ("--dataset", dataset, "--config", small, "--device", "cpu")
    trained = run("run", "train", *options, "--output", model)
    assert trained.code == 0, trained.err
    card = json.loads(Path(model, "card.json").read_text())
    assert card["step"] == 1
    assert card["dims"] == {"visual": [2048, 2048], "audio": 40, "text": 384}
    indexed = run("run", "index", *options, "--model", model, "--output", index)
    assert indexed.code == 0, indexed.err
    found = run("search", index, "--text", "step 1 of recipe 2", "--device", "cpu")
    assert found.code == 0, found.err
    assert "jEyaTUyJ-r" in found.out


def test_there_and_back(
    run: Callable[..., Outcome], howto100m: Path, small: Path, tmp_path: Path
) -> None:
    """Their arrays, imported and exported, are theirs to the bit."""
    quick = ("--config", small, "--device", "cpu", "--set", "extract.text=null")
    run(
        "import", howto100m, "--output", tmp_path / "d", "--format", "howto100m", "--trust-pickle",
        "--list", howto100m / "list.csv", *quick,
    )  # fmt: skip
    exported = run("export", tmp_path / "d", tmp_path / "out", "--format", "howto100m")
    assert exported.code == 0, exported.err
    assert "Exported to" in exported.out
    for path in howto100m.rglob("*.npz"):
        key = "arr_0" if "_spec" in path.name else "features"
        copy = np.load(tmp_path / "out" / path.relative_to(howto100m))[key]
        original = np.load(path)[key]
        assert copy.dtype == original.dtype
        np.testing.assert_array_equal(copy, original)
    captions = pickle.loads((howto100m / "caption.pickle").read_bytes())
    assert pickle.loads((tmp_path / "out/caption.pickle").read_bytes()) == captions
    assert "shards kept from before" in exported.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "D", "O", "--format", "zip"), "--format zip: allowed are howto100m, mcn-pickl"),
        (
            ("export", "D", "O", "--format", "npy", "--track", "x"),
            "--track x: NAME=VALUE",
        ),
        (("export", "D", "O", "--format", "npy", "--track", "a/b=audio"), "part of a file's name"),
        (("export", "O", "O2", "--format", "npy"), "not a dataset"),
        (("export", "D", "O", "--format", "mcn-pickle", "--items", "x"), "--items x: allowed are"),
        (("import", "D", "--output", "O", "--format", "npy", "--hop", "audio=0"), "above 0"),
        (("import", "D", "--output", "O", "--format", "zip"), "--format zip"),
        (("import", "D", "--output", "O", "--format", "howto100m"), "has no videos.csv"),
        (("import", "D", "--output", "O", "--format", "mcn-pickle"), "--trust-pickle"),
        (("import", "D", "--output", "O", "--format", "howto100m", "--keep-text"), "--keep-text"),
        (("import", "D", "--output", "O", "--format", "npy", "--track", "a=B"), "no videos"),
    ],
)
def test_wrong_usage_is_one_line_and_writes_nothing(
    run: Callable[..., Outcome], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    folder = tmp_path / "D"
    folder.mkdir()
    card = {"format_version": 1, "fingerprint": "f", "tracks": {"audio": {"dim": 40}}}
    (folder / "dataset.json").write_text(json.dumps(card))
    names = {"D": str(folder), "O": str(tmp_path / "O"), "O2": str(tmp_path / "O2")}
    outcome = run(*(names.get(argument, argument) for argument in arguments))
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert message in line
    assert not (tmp_path / "O").exists()
