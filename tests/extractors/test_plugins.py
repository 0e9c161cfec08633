"""The example of docs/extractors.md, installed as a distribution of its own."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from extractors.build import build_extractor
from extractors.config import PluginConfig
from extractors.errors import UsageError
from extractors.plugins import GROUP, installed_plugins
from extractors.windows import Window
from pipeline.config import ExtractConfig
from pipeline.provenance import fingerprints

PAGE = (Path(__file__).parents[2] / "docs" / "extractors.md").read_text(encoding="utf-8")


def block(language):
    """Of the chapter on plugins, the last of the page."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)[-1]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """What pip would put into site-packages."""
    (tmp_path / "brightness.py").write_text(block("python"))
    info = tmp_path / "brightness-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brightness\nVersion: 1.0\n")
    (line,) = re.findall(r"^brightness = .*$", block("toml"), re.M)
    assert f'"{GROUP}"' in block("toml")
    points = [line.replace('"', ""), "gone = brightness:Gone"]
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n" + "\n".join(points) + "\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_the_documented_example_works(installed):
    config = ExtractConfig.model_validate(yaml.safe_load(block("yaml"))["extract"])
    settings = config.wanted["light"]
    extractor = build_extractor(settings)
    assert extractor.spec.hop == 0.25
    grey = Window(np.full((1, 32, 32, 3), 51, np.uint8), 1)
    (rows,) = extractor.extract([grey])
    np.testing.assert_allclose(next(iter(extractor.finish([rows]))), [[0.2]], rtol=1e-6)
    assert installed_plugins() == ["brightness", "gone"]
    other = config.model_copy(
        update={"extractors": {"light": settings.model_copy(update={"settings": {"rate": 2.0}})}}
    )
    assert fingerprints(config)["light"] != fingerprints(other)["light"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "absent"}, "absent: not installed; installed: brightness, gone"),
        ({"name": "gone"}, "brightness:Gone"),
        ({"name": "brightness", "settings": {"speed": 1}}, "settings of brightness: .*speed"),
    ],
)
def test_what_cannot_be_had_is_one_line(installed, config, message):
    with pytest.raises(UsageError, match=message) as caught:
        build_extractor(PluginConfig(**config))
    assert "\n" not in str(caught.value)
