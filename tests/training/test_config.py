"""training.config: the settings."""

import pytest

from extractors.errors import UsageError
from pipeline.settings import all_keys, dump_settings, load_settings
from training.config import TrainConfig


def test_settings_survive_their_yaml() -> None:
    config = load_settings(TrainConfig, [], ["model.audio_widths=[8,16]", "optimiser.lr=0.5"])
    assert config.model.audio_widths == (8, 16)
    assert load_settings(TrainConfig, [("config.yaml", dump_settings(config))]) == config


def test_every_setting_is_documented() -> None:
    undocumented = [key for key, text in all_keys(TrainConfig).items() if not text.strip()]
    assert undocumented == []


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.similarty=raw", "model.similarity"),
        ("clustering.empty_clusters=ignore", "clustering.empty_clusters"),
        ("sampling.min_time=0", "sampling.min_time"),
        ("optimiser.lr=-1", "optimiser.lr"),
    ],
)
def test_a_wrong_setting_is_named(override: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        load_settings(TrainConfig, [], [override])
