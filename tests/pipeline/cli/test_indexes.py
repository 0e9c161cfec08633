import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from index.config import IndexConfig
from pipeline import storage
from pipeline.lease import Lease
from tests.index.conftest import Corpus
from tests.pipeline.conftest import Outcome

LEFT = f".knn.index.{storage.host()}-4194305.0123456789abcdef.partial"
"""Of a process whose number no process can have."""


def hold(index: Path) -> None:
    """Another machine works on it."""
    lease = Lease("other", "elsewhere-1", 4321, 1.0, "ann", time.time() - 900, time.time())
    storage.publish_json(str(index / "run.json"), asdict(lease))


def leave(index: Path) -> None:
    """What killed builds leave."""
    (index / "embeddings").mkdir(parents=True, exist_ok=True)
    (index / LEFT).touch()
    (index / "embeddings" / LEFT).touch()
    (index / "partial" / "0123").mkdir(parents=True)
    (index / "partial" / "0123" / "000000.index").touch()


def left(index: Path) -> list[str]:
    found = [*index.rglob("*.partial"), *index.glob("partial"), *index.glob("run.json")]
    return [str(path.relative_to(index)) for path in found]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Its model is nowhere: an append ends where it is loaded, with code 2."""
    corpus = Corpus(tmp_path)
    corpus.add_shard(0)
    corpus.build(IndexConfig())
    return Path(corpus.output)


@pytest.mark.parametrize("what", ["append", "import", "run"])
def test_an_index_that_another_works_on_is_left_alone_unless_taken_over(
    run: Callable[..., Outcome], index: Path, vectors: Path, tmp_path: Path, what: str
) -> None:
    commands: dict[str, tuple[object, ...]] = {
        "append": ("index", "append", index),
        "run": ("run", "index", "--dataset", tmp_path, "--model", "/run", "--output", index),
        "import": ("embeddings", "import", vectors, "--format", "clip-retrieval", "--output"),
    }
    command = commands[what]
    if what == "import":
        index = tmp_path / "foreign"
        command += (index,)
    hold(index)
    leave(index)
    refused = run(*command)
    assert refused.code == 1
    assert "another run works on it (process 4321 of ann" in refused.err
    assert len(left(index)) == 4
    taken = run(*command, "--take-over")
    assert (taken.code, "card.json" in taken.err) == ((0, False) if what == "import" else (2, True))
    # what is published goes on from no parts; what failed may
    assert left(index) == ([] if what == "import" else ["partial"])


def test_an_import_into_a_dataset_is_refused_before_anything_is_written(
    run: Callable[..., Outcome], vectors: Path, tmp_path: Path
) -> None:
    output = tmp_path / "dataset"
    storage.publish_json(str(output / "dataset.json"), {})
    (output / LEFT).touch()
    refused = run("embeddings", "import", vectors, "--output", output, "--format", "clip-retrieval")
    assert refused.code == 2
    assert "holds a dataset already" in refused.err
    assert (output / LEFT).exists()


def test_an_append_to_nothing_writes_nothing(run: Callable[..., Outcome], tmp_path: Path) -> None:
    refused = run("index", "append", tmp_path / "nothing")
    assert refused.code == 1
    assert "no finished index there" in refused.err
    assert not (tmp_path / "nothing").exists()
