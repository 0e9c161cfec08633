"""`pipeline extractors`: what can be extracted, what the presets choose, what a row costs."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.cli import options, show

if TYPE_CHECKING:
    from extractors.config import ExtractorConfig
    from extractors.preflight import Need
    from pipeline.config import ExtractConfig

COLUMNS = ("kind", "dim", "hop", "weights", "licence", "GFLOP a row", "rows an hour")


def extractors(as_json: options.Json = False, debug: options.Debug = False) -> None:
    """Every kind of extractor at its default settings, and each preset's choice: rows, weights,
    licence, settings, and the cost of a row counted from the network (an hour is one of video)."""
    kinds, presets = describe_kinds(), describe_presets()
    if as_json:
        show.out.print_json(json.dumps({"kinds": kinds, "presets": presets}))
        return
    about = [(kind["kind"], kind["about"], _settings(kind)) for kind in kinds]
    show.table("extract.extractors.NAME: {kind: …}", ("kind", "what", "settings"), about)
    show.table("Rows, at these settings", COLUMNS, [_cells(kind) for kind in kinds])
    for preset in options.preset_names():
        chosen = [entry for entry in presets if entry["preset"] == preset]
        rows = [(entry["track"], *_cells(entry)) for entry in chosen]
        show.table(f"What the preset {preset} chooses", ("track", *COLUMNS), rows)


def describe_kinds() -> list[dict[str, Any]]:
    """One mapping a kind, in the order of the settings' documentation; nothing is loaded.

    Of a kind that needs a file of the user's, what the file decides is None.
    """
    from typing import get_args

    from extractors.config import ExtractorConfig, PluginConfig
    from extractors.plugins import installed_plugins

    models = get_args(get_args(ExtractorConfig)[0])
    ours = [_describe_kind(model) for model in models if model is not PluginConfig]
    return ours + [_describe(PluginConfig(name=name)) for name in installed_plugins()]


def describe_presets() -> list[dict[str, Any]]:
    """One mapping a preset and track, the transcript and its vectors too."""
    return [
        {"preset": preset, "track": track, **facts}
        for preset in options.preset_names()
        for track, facts in _describe_preset(options.load_config(preset, None, None).extract)
    ]


def _describe_preset(config: "ExtractConfig") -> Iterator[tuple[str, dict[str, Any]]]:
    from extractors.preflight import needed_weights

    for name, settings in config.wanted.items():
        yield name, _describe(settings)
    tracks = {"extract.speech.model": "transcript"}
    for need in needed_weights({}, config.speech, config.text):
        track = tracks.get(need.key, "text")
        spoken = config.speech if track == "transcript" else config.text
        assert spoken is not None, "what is off needs no weights"
        values = spoken.model_dump(mode="json")
        about = {"kind": values.pop("kind", "speech"), "about": _about(type(spoken))}
        yield track, about | _nothing_known() | _weights_facts(need) | {"settings": values}


def _describe_kind(model: Any) -> dict[str, Any]:
    """At its defaults; where a setting has none, the kind without what depends on it."""
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    if not required:
        return _describe(model())
    defaults = model.model_construct().model_dump(mode="json", exclude={"kind"})
    return {
        "kind": model.model_fields["kind"].default,
        "about": _about(model),
        **_nothing_known(),
        "weights": "a file of yours",
        "hop": defaults["hop"],
        "rows_per_hour": 3600 / defaults["hop"],
        "required": required,
        "settings": defaults,
    }


def _describe(settings: "ExtractorConfig") -> dict[str, Any]:
    from extractors.build import build_extractor
    from extractors.costs import cost_of
    from extractors.preflight import needed_weights

    spec, cost = build_extractor(settings).spec, cost_of(settings)
    needs = needed_weights({settings.kind: settings}, None, None)
    facts = _nothing_known() | (_weights_facts(needs[0]) if needs else {})
    return facts | {
        "kind": settings.kind,
        "about": _about(type(settings)),
        "model": getattr(settings, "model", None),
        "dim": spec.dim,
        "dtype": spec.dtype,
        "start": spec.start,
        "hop": spec.hop,
        "rows_per_hour": 3600 / spec.hop,
        "gflop_per_row": cost and cost.gflop,
        "parameters": cost and cost.parameters,
        "settings": settings.model_dump(mode="json", exclude={"kind"}),
    }


def _weights_facts(need: "Need") -> dict[str, Any]:
    """Where weights come from, whether they are here, and their licence where the registry says."""
    from extractors.weights import registry

    known = next((each for each in registry() if each.name == need.name), None)
    if need.local is not None or known is None:
        return {"weights": need.local or "a file of yours", "model": need.name}
    return {
        "model": need.name,
        "weights": known.name,
        "weights_sha256": known.sha256,
        "weights_cached": known.is_cached,
        "licence": known.licence,
    }


def _nothing_known() -> dict[str, Any]:
    names = ("required", "model", "dim", "dtype", "start", "hop", "rows_per_hour", "weights",
             "weights_sha256", "weights_cached", "licence", "gflop_per_row",
             "parameters")  # fmt: skip
    return dict.fromkeys(names)


def _about(model: type) -> str:
    return " ".join((model.__doc__ or "").split())


def _settings(facts: dict[str, Any]) -> str:
    required = [f"{name}=…" for name in facts["required"] or ()]
    return ", ".join([*required, *(f"{key}={value}" for key, value in facts["settings"].items())])


def _cells(facts: dict[str, Any]) -> tuple[Any, ...]:
    """The values of COLUMNS."""
    gflop, rows = facts["gflop_per_row"], facts["rows_per_hour"]
    here = " (not here)" if facts["weights_cached"] is False else ""
    return (
        facts["kind"],
        "-" if facts["dim"] is None else facts["dim"],
        "-" if facts["hop"] is None else f"{facts['hop']:.4g} s",
        f"{facts['weights'] or 'none'}{here}",
        facts["licence"] or "-",
        "-" if gflop is None else f"{gflop:.3g}",
        "-" if rows is None else f"{rows:,.0f}",
    )
