"""training.retrieval: who is a query, who a candidate, and in which blocks."""

import numpy as np
import pytest

from extractors.errors import UsageError
from training.embedding import ClipEmbeddings
from training.retrieval import check_any_row, retrieval_rows


def test_queries_and_candidates_where_modalities_are_missing() -> None:
    """Clip 0 lacks text, clip 1 lacks sound, clip 2 picture, clip 3 both of these."""
    rng = np.random.default_rng(0)
    present = {
        "video": np.array([1, 1, 0, 0], dtype=bool),
        "audio": np.array([1, 0, 1, 0], dtype=bool),
        "text": np.array([0, 1, 1, 1], dtype=bool),
    }
    base = rng.normal(size=(4, 8)).astype(np.float32)
    vectors = {name: base * mask[:, None] for name, mask in present.items()}
    embeddings = ClipEmbeddings(vectors, present, unit_length=True)
    pairs = [("text", "video+audio"), ("text", "video"), ("text", "audio"), ("audio", "video")]
    rows = retrieval_rows(embeddings, pairs)
    counts = [(row.metrics.queries, row.metrics.candidates) for row in rows]
    assert counts == [(2, 3), (1, 2), (1, 2), (1, 2)]
    assert all(row.metrics.recall[1] == 1.0 for row in rows)
    nothing = embeddings.present | {"text": np.zeros(4, dtype=bool)}
    assert retrieval_rows(ClipEmbeddings(vectors, nothing, True), [("text", "video")]) == []


def test_incomplete_clips_are_left_out_or_count_as_misses() -> None:
    """Ten clips, of which clip 7 has no sound and clip 8 no text: MSR-VTT in small."""
    rng = np.random.default_rng(0)
    present = {name: np.ones(10, dtype=bool) for name in ("video", "audio", "text")}
    present["audio"][7] = present["text"][8] = False
    vectors = {
        name: rng.normal(size=(10, 8)).astype(np.float32) * mask[:, None]
        for name, mask in present.items()
    }
    embeddings = ClipEmbeddings(vectors, present, unit_length=True)

    def counts(query: str, target: str, **options: object) -> tuple[int, int, int, int]:
        (row,) = retrieval_rows(embeddings, [(query, target)], **options)
        metrics = row.metrics
        return metrics.queries, metrics.missing, metrics.candidates, row.items

    assert counts("text", "video+audio") == (9, 0, 10, 10)
    assert counts("text", "video+audio", complete=True) == (8, 0, 9, 10)
    assert counts("text", "video+audio", complete=True, total=10) == (10, 2, 9, 10)
    assert counts("text", "audio", total=12) == (12, 4, 9, 10)
    assert counts("video+audio", "text", complete=True) == (8, 0, 9, 10)
    with pytest.raises(UsageError, match="total = 9: the set has 10 clips"):
        counts("text", "video", total=9)


def test_blocks_of_queries_do_not_change_the_result(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    vectors = {n: rng.normal(size=(50, 4)).astype(np.float32) for n in ("video", "audio", "text")}
    present = {name: rng.random(50) < 0.8 for name in vectors}
    vectors = {name: rows * present[name][:, None] for name, rows in vectors.items()}
    embeddings = ClipEmbeddings(vectors, present, unit_length=False)
    whole = retrieval_rows(embeddings)
    monkeypatch.setattr("training.retrieval.QUERY_BLOCK", 7)
    assert retrieval_rows(embeddings) == whole


def test_pairs_that_nobody_has_are_named() -> None:
    with pytest.raises(UsageError, match="no clip has both modalities of any pair of a:b, c:d"):
        check_any_row([], [("a", "b"), ("c", "d")])
