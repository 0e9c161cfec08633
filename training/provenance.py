"""Whether a dataset's features are those that a run was trained on.

Every track has a fingerprint: a digest of the extractor, its settings and its weights. A run's
card keeps those of the tracks it reads; a model asked to embed other features would give numbers,
and wrong ones. Datasets that were not extracted here have no dataset.json and are not checked.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from extractors.errors import UsageError
from pipeline import storage
from pipeline.dataset import read_dataset_card
from pipeline.shards import read_record, shard_name, shard_numbers
from pipeline.verify import stale_shards
from training.clips import read_tracks
from training.config import SamplingConfig


def track_fingerprints(dataset: str, sampling: SamplingConfig) -> dict[str, str]:
    """Fingerprints of the tracks that a run reads, by name; empty without a dataset.json."""
    if not storage.exists(storage.join(dataset, "dataset.json")):
        return {}
    found: dict[str, str] = read_dataset_card(dataset)["fingerprints"]
    return {name: found[name] for name in read_tracks(sampling) if name in found}


def dataset_digest(tar_sha256s: Iterable[str]) -> str:
    """sha256 over the hex sha256 of a dataset's tars in the order of their numbers: changes when
    any of them does."""
    return hashlib.sha256("".join(tar_sha256s).encode()).hexdigest()


def stored_digest(dataset: str) -> str:
    """`dataset_digest` of the published shards."""
    return dataset_digest(
        read_record(dataset, number).tar_sha256 for number in shard_numbers(dataset)
    )


def check_current(dataset: str) -> None:
    """Raises UsageError where a shard was made of other settings than dataset.json states."""
    if not storage.exists(storage.join(dataset, "dataset.json")):
        return
    stale = [shard_name(number) for number in stale_shards(dataset)]
    if stale:
        raise UsageError(
            f"{dataset}: shards {', '.join(stale[:5])}{' …' if len(stale) > 5 else ''} were made "
            "of other videos or settings than the dataset now states; run `pipeline run extract` "
            "to its end first"
        )


def check_same_features(card: Mapping[str, Any], dataset: str, sampling: SamplingConfig) -> None:
    """Raises UsageError where the dataset's tracks are not those of the run's card."""
    expected: dict[str, str] = card.get("fingerprints", {})
    found = track_fingerprints(dataset, sampling)
    if not expected or not found:
        return
    missing = [name for name in expected if name not in found]
    other = [name for name in expected if name in found and found[name] != expected[name]]
    if missing or other:
        what = [f"{name} is missing" for name in missing]
        what += [f"{name} was extracted otherwise" for name in other]
        raise UsageError(
            f"{dataset}: not the features that the run was trained on ({'; '.join(what)}); "
            "extract with the same settings, or train again on this dataset"
        )
