import pytest

from extractors.errors import UsageError
from pipeline.cli.options import load_config
from pipeline.config import ExtractConfig
from pipeline.provenance import dataset_fingerprint, fingerprints


def load(*sets: str) -> ExtractConfig:
    return load_config("embedded", None, list(sets)).extract


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("extract.extractors.visual_2d.rate=2", {"visual_2d"}),
        ("extract.extractors.audio.floor_db=-60", {"audio"}),
        ("extract.speech.beam_size=2", {"transcript", "text"}),
        ("extract.text.batch_size=3", {"text"}),
        ("extract.decode.on_damage=keep", {"visual_2d", "visual_3d", "audio"}),
        ("extract.decode.threads=2", set()),
        ("extract.videos_per_shard=3", set()),
    ],
)
def test_a_setting_changes_the_fingerprints_of_what_it_decides(
    override: str, changed: set[str]
) -> None:
    before, after = fingerprints(load()), fingerprints(load(override))
    assert set(before) == {"visual_2d", "visual_3d", "audio", "transcript", "text"}
    assert {name for name in before if before[name] != after[name]} == changed
    differs = dataset_fingerprint(load()) != dataset_fingerprint(load(override))
    assert differs == bool(changed)


def test_threads_are_part_of_what_made_a_dataset() -> None:
    assert dataset_fingerprint(load("extract.threads=2")) != dataset_fingerprint(load())


def test_what_is_off_has_no_fingerprint() -> None:
    assert set(fingerprints(load("extract.extractors.audio=null", "extract.text=null"))) == {
        "visual_2d", "visual_3d", "transcript",
    }  # fmt: skip
    assert set(fingerprints(load("extract.speech=null"))) == {"visual_2d", "visual_3d", "audio"}


def test_unknown_weights_are_named() -> None:
    with pytest.raises(UsageError, match="weights 'huge': not in the registry"):
        fingerprints(load("extract.speech.model=huge"))
