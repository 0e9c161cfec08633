"""A run and a dataset of other features are refused."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from extractors.errors import UsageError
from pipeline import storage
from training.config import SamplingConfig
from training.provenance import (
    check_current,
    check_same_features,
    dataset_digest,
    stored_digest,
    track_fingerprints,
)

SAMPLING = SamplingConfig()


def write_card(dataset: Path, fingerprints: dict[str, str]) -> str:
    card = {"format_version": 1, "fingerprint": "f", "fingerprints": fingerprints}
    storage.publish_json(f"{dataset}/dataset.json", card)
    return str(dataset)


def test_only_the_tracks_that_a_run_reads_count(tmp_path: Path) -> None:
    dataset = write_card(tmp_path, {"visual_2d": "a", "text": "t", "mean_colour": "c"})
    assert track_fingerprints(dataset, SAMPLING) == {"visual_2d": "a", "text": "t"}


def test_the_same_features_pass_and_so_does_one_track_more(tmp_path: Path) -> None:
    card = {"fingerprints": {"visual_2d": "a", "text": "t"}}
    dataset = write_card(tmp_path, {"visual_2d": "a", "text": "t", "audio": "new"})
    check_same_features(card, dataset, SAMPLING)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"visual_2d": "other", "text": "t"}, "visual_2d was extracted otherwise"),
        ({"visual_2d": "a"}, "text is missing"),
    ],
)
def test_other_features_are_refused_by_name(
    tmp_path: Path, found: dict[str, str], said: str
) -> None:
    card = {"fingerprints": {"visual_2d": "a", "text": "t"}}
    with pytest.raises(UsageError, match=said):
        check_same_features(card, write_card(tmp_path, found), SAMPLING)


def test_a_dataset_from_elsewhere_is_not_checked(tmp_path: Path) -> None:
    check_current(str(tmp_path))
    check_same_features({"fingerprints": {"audio": "a"}}, str(tmp_path), SAMPLING)


def test_the_digest_follows_the_shards(
    tmp_path: Path, dataset: str, make_dataset: Callable, make_sample: Callable
) -> None:
    one = make_dataset(tmp_path / "one", [make_sample(0)])
    again = make_dataset(tmp_path / "again", [make_sample(0)])
    assert stored_digest(one) == stored_digest(again) != stored_digest(dataset)


def test_the_digest_is_that_of_the_tars_in_order() -> None:
    assert dataset_digest(["a", "b"]) == hashlib.sha256(b"ab").hexdigest()
    assert dataset_digest(["a", "b"]) != dataset_digest(["b", "a"])
