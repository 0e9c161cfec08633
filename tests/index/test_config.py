import pytest
from pydantic import ValidationError

from index.config import IndexConfig


def test_default_follows_the_retrieval_protocol() -> None:
    config = IndexConfig()
    assert (config.targets, config.factory, config.metric) == (("video", "audio"), "auto", "cosine")


@pytest.mark.parametrize("targets", [(), ("video", "video"), ("smell",)])
def test_targets_are_known_and_named_once(targets: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="targets"):
        IndexConfig.model_validate({"targets": targets})


def test_every_setting_is_described() -> None:
    assert all(field.description for field in IndexConfig.model_fields.values())
