import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from index.search import open_index
from tests.index.real_corpus import RealCorpus
from tests.pipeline.conftest import Outcome

Run = Callable[..., Outcome]


@pytest.fixture
def found(run: Run, real: RealCorpus) -> Callable[..., list[str]]:
    """Videos of the hits, best first."""

    def ask(*options: object) -> list[str]:
        outcome = run("search", real.index, *options, "--json", "--device", "cpu")
        assert outcome.code == 0, outcome.err
        return [hit["video"] for hit in json.loads(outcome.out)]

    return ask


def test_files_find_themselves_by_what_they_are_asked_by(found, real: RealCorpus) -> None:
    assert found("--media", real.videos / "green.mp4")[0] == "green"
    assert found("--video", real.videos / "blue.mp4", "--target", "video")[0] == "blue"
    assert found("--audio", real.videos / "tone.wav", "--target", "audio")[0] == "tone"
    assert found("--media", real.videos / "red.mp4", "--at", "1.0", "--window", "2")[0] == "red"


def test_clips_sums_and_differences(found, real: RealCorpus) -> None:
    assert found("--clip", "white@0-2")[0] == "white"
    assert set(found("--plus", "clip:white@0-2", "--plus", "clip:red@0-2", "--merge")[:2]) == {
        "white",
        "red",
    }
    away = found("--clip", "blue@0-2", "--minus", f"media:{real.videos}/red.mp4", "-k", "10")
    assert (away[0], away[-1]) == ("blue", "red")


def test_a_vector_of_a_file(found, real: RealCorpus, tmp_path: Path) -> None:
    index = open_index(real.index)
    np.save(tmp_path / "own.npy", index.vectors.reconstruct(0))
    assert found("--vector", tmp_path / "own.npy")[0] == index.ids["key"][0].as_py()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--vector", "gone.npy"), "no such file"),
        ((), "give exactly one of --text"),
        (("--text", "a", "--clip", "red@0-2"), "further ones with --plus"),
        (("--text", "a", "--at", "2"), "a moment of a file"),
        (("--text", " "), "--text: empty"),
        (("--media", "gone.mp4"), "gone.mp4"),
        (("--media", "{videos}/red.mp4", "--at", "9"), "lasts 4.0 s"),
        (("--video", "{videos}/tone.wav"), "has no video"),
        (("--clip", "red@7-9"), "no such clip"),
        (("--clip", "red@0-2", "--minus", "clip:red@0-2"), "cancel each other out"),
        (("--clip", "red@0-2", "--target", "smell"), "targets smell"),
        (("--text", "a", "--output", "x.parquet"), "goes with --queries"),
        (("--queries", "q.csv", "--text", "a"), "stands in its rows"),
    ],
)
def test_a_wrong_question_exits_with_2(
    run: Run, real: RealCorpus, options: tuple[str, ...], message: str
) -> None:
    given = [option.format(videos=real.videos) for option in options]
    outcome = run("search", real.index, *given, "--device", "cpu")
    assert outcome.code == 2
    assert message in outcome.err.splitlines()[-1]


def test_a_file_of_queries(run: Run, real: RealCorpus, tmp_path: Path) -> None:
    queries, output = tmp_path / "q.csv", tmp_path / "hits.parquet"
    queries.write_text(
        f"query,text,media\nwords,blue sea,\nfile,,{real.videos}/green.mp4\nbad,,gone.mp4\n"
    )
    outcome = run("search", real.index, "--queries", queries, "--output", output, "-k", "2",
                  "--device", "cpu")  # fmt: skip
    assert outcome.code == 3
    assert "3 queries, 1 failed" in outcome.err
    rows = pq.read_table(output).to_pylist()
    assert [row["query"] for row in rows] == ["words"] * 2 + ["file"] * 2 + ["bad"]
    assert rows[2]["video"] == "green"
    assert "gone.mp4: no such file" in rows[4]["error"]
