import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.conftest import Outcome


def test_anyones_vectors_are_indexed_searched_and_exported(
    run: Callable[..., Outcome], vectors: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    arguments = ("--format", "clip-retrieval", "--output", index)
    made = run("embeddings", "import", vectors, *arguments, "--set", "index.metric=l2")
    assert made.code == 0, made.err
    assert "video vectors" in made.out
    card = json.loads((index / "index_infos.json").read_text())
    assert (card["nb vectors"], card["metric"], card["imported"]) == (40, "l2", "clip-retrieval")
    found = run("search", index, "--clip", "000000_000000007@0-0", "-k", 1, "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)[0]["video"] == "000000_000000007"
    text = run("search", index, "--text", "a red car")
    assert text.code == 2
    assert "imported" in text.err
    exported = run("embeddings", "export", index, tmp_path / "out", "--format", "huggingface")
    assert exported.code == 0, exported.err
    assert (tmp_path / "out" / "data" / "train-00000-of-00001.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "csv"), "--format csv: allowed are clip-retrieval, parquet, huggingface"),
        (("--format", "parquet"), "no parquet there"),
        (("--format", "clip-retrieval", "--vectors", "img_emb"), "NAME=VALUE is wanted"),
        (("--format", "clip-retrieval", "--vectors", "a=video"), "no folder a; it holds img_emb"),
        (("--format", "clip-retrieval", "--executor", "slurm"), "allowed are local and ray"),
    ],
)
def test_wrong_usage_exits_with_2(
    run: Callable[..., Outcome], vectors: Path, tmp_path: Path, arguments: tuple, message: str
) -> None:
    outcome = run("embeddings", "import", vectors, "--output", tmp_path / "index", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
