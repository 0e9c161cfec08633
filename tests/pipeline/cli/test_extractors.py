"""`pipeline extractors` against the extractors themselves."""

import json
from collections.abc import Callable
from typing import get_args

import pytest

from extractors.build import build_extractor
from extractors.config import ExtractorConfig
from extractors.weights import find_weights

KINDS = {kind.model_fields["kind"].default: kind for kind in get_args(get_args(ExtractorConfig)[0])}
KINDS.pop("plugin")  # one line for each that is installed


@pytest.fixture
def listed(run: Callable[..., object]) -> dict[str, dict[str, object]]:
    outcome = run("extractors", "--json")
    assert outcome.code == 0, outcome.err  # type: ignore[attr-defined]
    return {entry["kind"]: entry for entry in json.loads(outcome.out)}  # type: ignore[attr-defined]


def test_every_kind_is_listed_as_it_is(listed: dict[str, dict[str, object]]) -> None:
    assert list(listed) == list(KINDS)
    for kind, entry in listed.items():
        settings = KINDS[kind]()
        spec = build_extractor(settings).spec
        assert (entry["dim"], entry["hop"], entry["dtype"]) == (spec.dim, spec.hop, spec.dtype)
        assert KINDS[kind](kind=kind, **entry["settings"]) == settings


def test_weights_and_licences(listed: dict[str, dict[str, object]]) -> None:
    assert listed["mean_colour"]["weights"] is None
    assert listed["image"]["weights"] == "efficientnet_lite0"
    assert listed["shots"]["weights"] == listed["motion"]["weights"] == "transnetv2"
    assert listed["image"]["licence"] == find_weights("efficientnet_lite0").licence


def test_the_table_names_every_kind(run: Callable[..., object]) -> None:
    outcome = run("extractors")
    assert outcome.code == 0  # type: ignore[attr-defined]
    for kind in KINDS:
        assert kind[:5] in outcome.out + outcome.err  # type: ignore[attr-defined]
