"""Configuration: frozen pydantic models, filled from presets, files and `--set a.b=c`.

Each layer owns its models (pipeline.config, training.config, index.config); this module is how
all of them are filled and how a wrong key is answered.
"""

import difflib
from collections.abc import Sequence
from typing import TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml import YAMLError

from extractors.errors import UsageError
from extractors.settings import Settings as Settings

SettingsT = TypeVar("SettingsT", bound=Settings)


def load_settings(
    model: type[SettingsT], yaml_texts: Sequence[tuple[str, str]], overrides: Sequence[str] = ()
) -> SettingsT:
    """Fills a model from YAML texts, later ones over earlier, then `a.b=c` overrides.

    `yaml_texts` are (name for messages, text). Raises UsageError that names the key, the value
    and what is allowed.
    """
    layers = [_parse_yaml(name, text) for name, text in yaml_texts]
    merged = OmegaConf.merge(*layers, _parse_overrides(overrides))
    try:
        return model.model_validate(OmegaConf.to_container(merged, resolve=False))
    except ValidationError as err:
        raise UsageError(_explain(model, err)) from err


def dump_settings(settings: Settings) -> str:
    """The resolved configuration as YAML, in the order of the models' fields."""
    return OmegaConf.to_yaml(OmegaConf.create(settings.model_dump(mode="json")))


def _parse_yaml(name: str, text: str) -> DictConfig:
    try:
        parsed = OmegaConf.create(text)
    except (YAMLError, OmegaConfBaseException, ValueError) as err:
        raise UsageError(f"{name}: not YAML: {err}") from err
    if not isinstance(parsed, DictConfig):
        raise UsageError(f"{name}: expected a mapping of settings, as in 'train: {{lr: 1e-4}}'")
    return parsed


def _parse_overrides(overrides: Sequence[str]) -> DictConfig:
    for override in overrides:
        if "=" not in override:
            raise UsageError(f"--set {override}: expected KEY=VALUE, as in train.lr=1e-4")
    try:
        return OmegaConf.from_dotlist(list(overrides))
    except (YAMLError, OmegaConfBaseException, ValueError) as err:
        raise UsageError(f"--set {' '.join(overrides)}: {err}") from err


def _explain(model: type[BaseModel], err: ValidationError) -> str:
    """One line an error: where, what was given, what is allowed."""
    return "; ".join(_explain_one(model, detail) for detail in err.errors())


def _explain_one(model: type[BaseModel], detail: ErrorDetails) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] != "extra_forbidden":
        return f"{where} = {detail['input']!r}: {detail['msg']}"
    known = sorted(all_keys(model))
    close = difflib.get_close_matches(where, known, n=1, cutoff=0.5)
    hint = f", did you mean {close[0]}?" if close else f"; known keys: {', '.join(known)}"
    return f"{where}: no such setting{hint}"


def all_keys(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Every dotted key of a model, with its field's docstring."""
    keys: dict[str, str] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys |= all_keys(kind, f"{prefix}{name}.")
        else:
            keys[f"{prefix}{name}"] = field.description or ""
    return keys
