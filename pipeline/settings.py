"""Configuration: frozen pydantic models, filled from presets, files and `--set a.b=c`.

Each layer owns its models (pipeline.config, training.config, index.config); this module is how
all of them are filled and how a wrong key is answered.
"""

import difflib
from collections.abc import Sequence
from typing import Any, TypeVar, get_args

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

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
    layers.append(_parse_overrides(overrides))
    for number, layer in enumerate(layers):
        for lower in layers[:number]:
            _drop_replaced(lower, layer)
    try:
        merged = OmegaConf.merge(*layers)
    except (OmegaConfBaseException, TypeError) as err:  # a list over a mapping
        given = ", ".join([name for name, _ in yaml_texts] + [f"--set {o}" for o in overrides])
        raise UsageError(f"{given}: {_one_line(err)}") from err
    try:
        return model.model_validate(OmegaConf.to_container(merged, resolve=False))
    except ValidationError as err:
        raise UsageError(_explain(model, err)) from err


def dump_settings(settings: Settings) -> str:
    """The resolved configuration as YAML, in the order of the models' fields."""
    return OmegaConf.to_yaml(OmegaConf.create(settings.model_dump(mode="json")))


def _parse_yaml(name: str, text: str) -> DictConfig:
    try:
        if not isinstance(yaml.safe_load(text) or {}, dict):
            raise UsageError(f"{name}: expected a mapping, as in 'train: {{epochs: 10}}'")
        parsed = OmegaConf.create(text)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as err:
        raise UsageError(f"{name}: not YAML: {_one_line(err)}") from err
    assert isinstance(parsed, DictConfig)
    return parsed


def _drop_replaced(lower: DictConfig, upper: DictConfig) -> None:
    """Removes from `lower` what `upper` gives another `kind`: the settings of one kind of
    extractor mean nothing to another."""
    for name, value in upper.items():
        below = lower.get(name)
        if not isinstance(value, DictConfig) or not isinstance(below, DictConfig):
            continue
        if "kind" in value and "kind" in below and value["kind"] != below["kind"]:
            del lower[name]
        else:
            _drop_replaced(below, value)


def _one_line(err: Exception) -> str:
    return " ".join(str(err).split())


def _parse_overrides(overrides: Sequence[str]) -> DictConfig:
    for override in overrides:
        if "=" not in override:
            raise UsageError(f"--set {override}: expected KEY=VALUE, as in train.epochs=10")
    try:
        return OmegaConf.from_dotlist(list(overrides))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as err:
        raise UsageError(f"--set {' '.join(overrides)}: {_one_line(err)}") from err


def _explain(model: type[BaseModel], err: ValidationError) -> str:
    """One line an error: where, what was given, what is allowed."""
    return "; ".join(_explain_one(model, detail) for detail in err.errors())


def _explain_one(model: type[BaseModel], detail: ErrorDetails) -> str:
    holder, place = _holder(model, detail["loc"])
    where = ".".join(place)
    if detail["type"] != "extra_forbidden":
        return f"{where} = {detail['input']!r}: {detail['msg']}"
    siblings = {".".join([*place[:-1], name]) for name in holder.model_fields}
    known = sorted(siblings | set(all_keys(model)))
    close = difflib.get_close_matches(where, known, n=1, cutoff=0.5)
    shown = sorted(siblings) if len(place) > 1 else known
    hint = f", did you mean {close[0]}?" if close else f"; known keys: {', '.join(shown)}"
    return f"{where}: no such setting{hint}"


def _holder(
    model: type[BaseModel], location: Sequence[int | str]
) -> tuple[type[BaseModel], list[str]]:
    """The model in which an error lies, and the dotted key: pydantic's place without the tags by
    which it chose among the models of a union."""
    kinds, place = [model], []
    for part in location:
        tagged = [kind for kind in kinds if _tag(kind) == part]
        if len(kinds) > 1 and tagged:
            kinds = tagged
            continue
        place.append(str(part))
        if len(kinds) == 1 and part in kinds[0].model_fields and part is not location[-1]:
            kinds = _models(kinds[0].model_fields[str(part)].annotation) or kinds
    return kinds[0], place


def _tag(kind: type[BaseModel]) -> object:
    return kind.model_fields["kind"].default if "kind" in kind.model_fields else None


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models of an annotation: of an optional one, a union, the values of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def all_keys(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Every dotted key of a model, with its field's docstring."""
    keys: dict[str, str] = {}
    for name, field in model.model_fields.items():
        models = _models(field.annotation)
        if len(models) == 1:
            keys |= all_keys(models[0], f"{prefix}{name}.")
        else:
            keys[f"{prefix}{name}"] = field.description or ""
    return keys
