"""`pipeline extractors` against the extractors themselves."""

import json
from collections.abc import Callable
from typing import Any, get_args

import pytest

from extractors.build import build_extractor
from extractors.config import ExtractorConfig
from extractors.costs import cost_of
from extractors.weights import find_weights
from pipeline.cli import options, show
from tests.pipeline.conftest import Outcome

KINDS = {kind.model_fields["kind"].default: kind for kind in get_args(get_args(ExtractorConfig)[0])}
KINDS.pop("plugin")  # one line for each that is installed
OF_A_FILE = ("onnx_audio", "audio_model", "xdc_video", "xdc_audio")

Facts = dict[str, Any]


@pytest.fixture
def listed(run: Callable[..., Outcome]) -> dict[str, list[Facts]]:
    outcome = run("extractors", "--json")
    assert outcome.code == 0, outcome.err
    found: dict[str, list[Facts]] = json.loads(outcome.out)
    return found


@pytest.fixture
def kinds(listed: dict[str, list[Facts]]) -> dict[str, Facts]:
    return {entry["kind"]: entry for entry in listed["kinds"]}


def test_every_kind_is_listed_as_it_is(kinds: dict[str, Facts]) -> None:
    assert list(kinds) == list(KINDS)
    for kind, entry in kinds.items():
        if kind in OF_A_FILE:
            continue
        settings = KINDS[kind](kind=kind, **entry["settings"])
        assert settings == KINDS[kind]()
        spec, cost = build_extractor(settings).spec, cost_of(settings)
        assert (entry["dim"], entry["hop"], entry["dtype"]) == (spec.dim, spec.hop, spec.dtype)
        assert entry["rows_per_hour"] == pytest.approx(3600 / spec.hop)
        assert cost is not None
        assert (entry["gflop_per_row"], entry["parameters"]) == (cost.gflop, cost.parameters)


def test_what_a_file_of_the_users_decides_is_not_guessed(kinds: dict[str, Facts]) -> None:
    for kind in OF_A_FILE:
        entry = kinds[kind]
        assert entry["required"] == ["weights"]
        assert entry["dim"] is entry["gflop_per_row"] is entry["licence"] is None
        assert KINDS[kind](weights="x", **entry["settings"]) == KINDS[kind](weights="x")


def test_weights_and_licences(kinds: dict[str, Facts]) -> None:
    assert kinds["mean_colour"]["weights"] is None
    assert kinds["image"]["weights"] == "efficientnet_lite0"
    assert kinds["image"]["weights_cached"] is True
    assert kinds["shots"]["weights"] == kinds["motion"]["weights"] == "transnetv2"
    known = find_weights("efficientnet_lite0")
    assert kinds["image"]["licence"] == known.licence
    assert kinds["image"]["weights_sha256"] == known.sha256


def test_every_track_of_every_preset(listed: dict[str, list[Facts]]) -> None:
    found = {(entry["preset"], entry["track"]): entry for entry in listed["presets"]}
    for preset in options.preset_names():
        config = options.load_config(preset, None, None).extract
        tracks = {track for name, track in found if name == preset}
        spoken = {"transcript", "text"} if config.speech is not None else set()
        assert tracks == {*config.wanted, *spoken}
        for track, settings in config.wanted.items():
            assert found[preset, track]["dim"] == build_extractor(settings).spec.dim
    assert found["reference", "visual_2d"]["model"] == "resnet152"
    assert found["reference", "visual_2d"]["licence"] == find_weights("resnet152").licence
    assert found["embedded", "transcript"]["weights"] == "tiny.en"


def test_the_tables_name_every_kind(
    run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show.out, "width", 120)
    outcome = run("extractors")
    assert outcome.code == 0
    for text in (*KINDS, "visual_3d", "reference", "resnet152 (not here)", "BSD-3-Clause"):
        assert text in outcome.out


def test_weights_state_source_digest_and_licence(run: Callable[..., Outcome]) -> None:
    outcome = run("weights", "list", "--json")
    assert outcome.code == 0
    listed = {entry["name"]: entry for entry in json.loads(outcome.out)}
    for name in ("transnetv2", "all-MiniLM-L6-v2"):
        known = find_weights(name)
        entry = listed[name]
        assert (entry["source"], entry["licence"]) == (known.source, known.licence)
        assert entry["sha256"] == known.sha256
        assert [file["sha256"] for file in entry["files"]] == [file.sha256 for file in known.files]
    shown = "".join(run("weights", "list").out.split())
    for column in ("source", "sha256", "licence"):
        assert column in shown
