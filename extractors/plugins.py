"""Extractors of other distributions, found by the entry points that they declare."""

from importlib.metadata import entry_points
from typing import Any

from extractors.config import PluginConfig
from extractors.errors import UsageError
from extractors.extractor import Extractor

GROUP = "multimodal_clustering_pipeline.extractors"


def installed_plugins() -> list[str]:
    """The names that can be given as `name`, sorted; nothing is imported."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def build_plugin(config: PluginConfig) -> Extractor:
    """Calls the entry point with the settings. Raises UsageError where it cannot be had."""
    found = list(entry_points(group=GROUP, name=config.name))
    if len(found) != 1:
        known = ", ".join(installed_plugins()) or "none"
        problem = "not installed" if not found else "declared by several distributions"
        raise UsageError(f"extractors.*.name = {config.name}: {problem}; installed: {known}")
    try:
        factory: Any = found[0].load()
    except (ImportError, AttributeError) as err:
        raise UsageError(f"extractor {config.name}: {found[0].value}: {err}") from err
    try:
        extractor: Extractor = factory(**config.settings)
    except (TypeError, ValueError) as err:
        raise UsageError(f"extractors.*.settings of {config.name}: {err}") from err
    return extractor
