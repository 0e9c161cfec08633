"""The same bytes from one process, from several and from Ray; and what append does with a model."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from extractors.errors import AbortError, UsageError
from index.append import append_index
from index.build import build_index
from index.config import IndexConfig
from index.search import open_index
from index.verify import verify_index
from pipeline import storage
from tests.index.test_embeddings import (
    CPU,
    VIDEOS,
    make_video,
    train_run,
    write_dataset,
    write_shard,
)


def ignore(progress: object) -> None:
    """No bar."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("dataset"))
    write_dataset(url)
    write_shard(url, 3, [make_video(number) for number in range(10, 50)])
    return url


@pytest.fixture(scope="module")
def run(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return train_run(dataset, str(tmp_path_factory.mktemp("run")))


def files(index: str) -> dict[str, bytes]:
    """Everything but the card, which holds times."""
    found = sorted(path for path in Path(index).rglob("*") if path.is_file())
    return {
        str(path.relative_to(index)): path.read_bytes()
        for path in found
        if path.name != "index_infos.json"
    }


BUILD = """
import sys, torch
from index.build import build_index
from index.config import IndexConfig
if __name__ == "__main__":
    dataset, run, output, executor, workers = sys.argv[1:]
    config = IndexConfig(factory="IVF2,Flat")
    build_index(dataset, run, output, config, torch.device("cpu"), lambda progress: None,
                executor=executor, num_workers=int(workers))
"""


@pytest.mark.slow
def test_every_executor_gives_the_same_bytes(dataset: str, run: str, tmp_path: Path) -> None:
    script = tmp_path / "build.py"
    script.write_text(BUILD)
    made = {}
    for executor, workers in (("local", "1"), ("local", "2"), ("ray", "2")):
        output = str(tmp_path / f"{executor}{workers}")
        command = [sys.executable, script, dataset, run, output, executor, workers]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run(command, check=True, env=environment, timeout=250)
        made[executor, workers] = files(output)
    alone = made["local", "1"]
    assert "embeddings/000003.parquet" in alone
    assert made["local", "2"] == alone
    assert made["ray", "2"] == alone


def test_append_embeds_what_is_new_with_the_model_of_the_index(
    dataset: str, run: str, tmp_path: Path
) -> None:
    mine, index = str(tmp_path / "dataset"), str(tmp_path / "index")
    write_shard(mine, 0, VIDEOS)
    before = build_index(mine, run, index, IndexConfig(), CPU, ignore)
    write_shard(mine, 1, [make_video(20)])
    progress: list[tuple[int, int, int]] = []
    card = append_index(index, CPU, lambda p: progress.append((p.done, p.total, p.kept)))
    assert progress == [(1, 2, 1), (2, 2, 1)]
    assert card.count == before.count + 2
    assert verify_index(index) == []
    write_shard(mine, 0, VIDEOS[:2])
    masked = append_index(index, CPU, ignore)
    assert masked.masked == before.count
    compacted = append_index(index, CPU, ignore, compact=True)
    assert (compacted.masked, compacted.count) == (0, masked.count - masked.masked)
    assert open_index(index).live_N is None
    fresh = build_index(mine, run, str(tmp_path / "fresh"), IndexConfig(), CPU, ignore)
    assert compacted.index_sha256 == fresh.index_sha256


def test_append_refuses_a_model_that_is_another_one_now(
    dataset: str, run: str, tmp_path: Path
) -> None:
    mine, index = str(tmp_path / "run"), str(tmp_path / "index")
    train_run(dataset, mine, seed=1)
    build_index(dataset, mine, index, IndexConfig(), CPU, ignore)
    embeddings = files(index)
    other = train_run(dataset, str(tmp_path / "other"), seed=2)
    Path(mine).rename(tmp_path / "old")
    Path(other).rename(mine)
    with pytest.raises(AbortError, match="not the one that made"):
        append_index(index, CPU, ignore)
    assert files(index) == embeddings
    assert np.isfinite(open_index(index).vectors.reconstruct(0)).all()


def test_append_refuses_features_of_another_backbone(tmp_path: Path) -> None:
    mine, index = str(tmp_path / "dataset"), str(tmp_path / "index")

    def state(backbone: str) -> None:
        card = {"format_version": 1, "fingerprint": "", "fingerprints": {"visual_2d": backbone}}
        storage.publish_json(storage.join(mine, "dataset.json"), card)

    state("one backbone")
    write_shard(mine, 0, VIDEOS)
    build_index(mine, train_run(mine, str(tmp_path / "run")), index, IndexConfig(), CPU, ignore)
    before = files(index)
    state("another of the same width")
    write_shard(mine, 0, [make_video(number) for number in range(20, 26)])
    with pytest.raises(UsageError, match="visual_2d was extracted otherwise"):
        append_index(index, CPU, ignore)
    assert files(index) == before
