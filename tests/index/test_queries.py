from pathlib import Path

import numpy as np
import pytest

from extractors.errors import UsageError
from index.queries import Term, combine, parse_term, query_vector


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog barks", Term("text", "a dog barks")),
        ("text:clip: the film", Term("text", "clip: the film")),
        ("note: not a kind", Term("text", "note: not a kind")),
        ("audio:rain.wav", Term("audio", "rain.wav")),
        ("video@12.5:s3://b/a@1:2.mp4", Term("video", "s3://b/a@1:2.mp4", at=12.5)),
        ("clip:a@0-10", Term("clip", "a@0-10")),
        ("vector:x.npy", Term("vector", "x.npy")),
    ],
)
def test_a_term_is_a_kind_and_a_value(text: str, expected: Term) -> None:
    assert parse_term(text, 1.0) == expected


def test_a_moment_of_words_is_refused() -> None:
    with pytest.raises(UsageError, match="a moment of a file"):
        parse_term("clip@3:a@0-10", 1.0)


def test_an_empty_term_is_refused() -> None:
    with pytest.raises(UsageError, match="--text: empty"):
        Term("text", "  ")


def test_one_term_keeps_its_length_and_several_weigh_alike() -> None:
    long_D, short_D = np.array([100.0, 0]), np.array([0, 0.01])
    assert combine([long_D], [1.0]).tolist() == [100, 0]
    assert np.allclose(combine([long_D, short_D], [1.0, 1.0]), [1, 1])
    assert np.allclose(combine([long_D, short_D], [1.0, -1.0]), [1, -1])
    assert np.allclose(combine([long_D], [-1.0]), [-1, 0])


def test_terms_that_cancel_out_are_refused() -> None:
    x_D = np.array([3.0, 4.0])
    with pytest.raises(UsageError, match="cancel each other out"):
        combine([x_D, 2 * x_D], [1.0, -1.0])


def test_a_vector_of_a_file_or_of_numbers(tmp_path: Path) -> None:
    for given in (np.arange(3), np.arange(3.0)[None], np.arange(3, dtype=np.float16)):
        np.save(tmp_path / "x.npy", given)
        assert query_vector(Term("vector", f"{tmp_path}/x.npy"), 3).tolist() == [0, 1, 2]
    assert query_vector(Term("vector", "v", numbers=(1.0, 2.0)), 2).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros(4), r"float64 of shape \(4,\); the index takes 3 numbers"),
        (np.zeros((2, 3)), r"shape \(2, 3\)"),
        (np.array(["a", "b", "c"]), "takes 3 numbers"),
        (np.array([{}, 1, 2]), "not numbers as numpy.save writes them"),  # a pickle
        (np.array([1, 2, np.nan]), "not finite"),
        (np.array([1, 2, 1e300]), "not finite"),
        (None, "no such file"),
    ],
)
def test_what_is_no_vector_is_refused(tmp_path: Path, given: np.ndarray, message: str) -> None:
    if given is not None:
        np.save(tmp_path / "x.npy", given)
    with pytest.raises(UsageError, match=message):
        query_vector(Term("vector", f"{tmp_path}/x.npy"), 3)
