import pytest

from extractors.config import LogMelConfig, MeanColourConfig, MotionModelConfig
from extractors.errors import UsageError
from pipeline.cli.config import PipelineConfig
from pipeline.cli.options import load_config, preset_names
from pipeline.config import ExtractConfig
from pipeline.settings import all_keys, dump_settings, load_settings


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("extract.videos_per_shart=3", "did you mean extract.videos_per_shard?"),
        ("extract.speech.modl=x", "did you mean extract.speech.model?"),
        ("extract.decode.dedline_base=3", "did you mean extract.decode.deadline_base?"),
        # behind a track's name and a union's tag
        (
            "extract.extractors.visual_2d.modle=x",
            "did you mean extract.extractors.visual_2d.model?",
        ),
        ("extract.extractors.audio.band=x", "did you mean extract.extractors.audio.bands?"),
        ("qqqqqqqqqqqqqqqqqqqqqq=1", "known keys: extract,"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(override: str, nearest: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config("embedded", None, [override])
    assert str(caught.value).startswith(override.partition("=")[0] + ": no such setting")
    assert nearest in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("extract.videos_per_shard=zero", "extract.videos_per_shard = 'zero': "),
        ("extract.videos_per_shard=0", "extract.videos_per_shard = 0: "),
        (
            "extract.extractors.visual_2d.batch_size=0",
            "extract.extractors.visual_2d.batch_size = 0: ",
        ),
        ("extract.extractors.audio.kind=mel", "'log_mel'"),
        ("extract.extractors.new.rate=2", "'kind'"),
        (
            "extract.extractors.text={kind: log_mel}",
            "and none of captions, decode",
        ),
        ("extract.extractors.Sound={kind: log_mel}", "lower-case letters"),
        ("extract.extractors=[1]", "--set extract.extractors=[1]"),
        ("extract=5", "extract = 5: "),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(override: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config("embedded", None, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "- a", "5", "words", "a: ${", "a: 1\na: 2", "\0"])
def test_a_bad_file_is_one_line_with_its_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"^file\.yaml: ") as caught:
        load_settings(ExtractConfig, [("file.yaml", text)])
    assert "\n" not in str(caught.value)


def test_an_empty_file_gives_the_defaults() -> None:
    assert load_settings(ExtractConfig, [("file.yaml", "# nothing")]) == ExtractConfig()


@pytest.mark.parametrize("override", ["extract", "extract.videos_per_shard", "extract.text={a"])
def test_set_needs_a_key_and_a_value(override: str) -> None:
    with pytest.raises(UsageError, match="--set " + override.replace("{", r"\{")):
        load_config("embedded", None, [override])


def test_later_layers_win_and_values_may_hold_equal_signs() -> None:
    layers = [("a", "videos_per_shard: 3\ntext: {model: m}"), ("b", "videos_per_shard: 4")]
    loaded = load_settings(ExtractConfig, layers, ["text.model=a=b", "decode.threads=2"])
    assert loaded.videos_per_shard == 4
    assert loaded.text is not None
    assert loaded.text.model == "a=b"
    assert loaded.decode.threads == 2


def test_null_switches_an_extractor_off() -> None:
    loaded = load_config("embedded", None, ["extract.extractors.visual_2d=null"]).extract
    assert loaded.extractors["visual_2d"] is None
    assert set(loaded.wanted) == {"visual_3d", "audio"}


def test_kind_chooses_the_model_of_a_track() -> None:
    text = "{a: {kind: mean_colour}, b: {kind: log_mel, bands: 64}, c: {kind: motion}}"
    loaded = load_settings(ExtractConfig, [("file", f"extractors: {text}")])
    assert loaded.wanted == {
        "a": MeanColourConfig(),
        "b": LogMelConfig(bands=64),
        "c": MotionModelConfig(),
    }


def test_what_is_dumped_loads_to_the_same() -> None:
    for preset in preset_names():
        loaded = load_config(preset, None, None)
        assert load_settings(PipelineConfig, [("dump", dump_settings(loaded))]) == loaded


def test_every_setting_has_a_description() -> None:
    keys = all_keys(PipelineConfig)
    assert "extract.speech.beam_size" in keys
    assert [key for key, text in keys.items() if not text.strip()] == []


def test_another_kind_replaces_an_extractor() -> None:
    """The settings of the preset's kind mean nothing to the new one."""
    found = load_settings(
        PipelineConfig,
        [
            ("preset", "extract: {extractors: {v: {kind: image, model: resnet18, size: 64}}}"),
            ("file", "extract: {extractors: {v: {kind: mean_colour}}}"),
        ],
        ["extract.extractors.v.rate=3"],
    )
    assert found.extract.wanted["v"].model_dump() == {"kind": "mean_colour", "rate": 3.0}
