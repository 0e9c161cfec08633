"""`pipeline extractors`: what can be extracted, and with which settings."""

import json
from typing import Annotated, Any

import typer

from pipeline.cli import options, show


def extractors(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    debug: options.Debug = False,
) -> None:
    """Every kind of extractor at its default settings: rows, weights, licence, settings."""
    kinds = describe_kinds()
    if as_json:
        show.out.print_json(json.dumps(kinds))
        return
    rows = [
        (
            kind["kind"],
            kind["about"],
            kind["dim"],
            f"{kind['hop']:.4g} s",
            kind["weights"] or "none",
            kind["licence"] or "-",
            ", ".join(f"{name}={value}" for name, value in kind["settings"].items()),
        )
        for kind in kinds
    ]
    titles = ("kind", "what", "dim", "hop", "weights", "licence", "settings")
    show.table("extract.extractors.NAME: {kind: …}", titles, rows)


def describe_kinds() -> list[dict[str, Any]]:
    """One mapping a kind, in the order of the settings' documentation; nothing is loaded."""
    from typing import get_args

    from extractors.config import ExtractorConfig, PluginConfig
    from extractors.plugins import installed_plugins

    models = get_args(get_args(ExtractorConfig)[0])
    ours = [_describe(model()) for model in models if model is not PluginConfig]
    return ours + [_describe(PluginConfig(name=name)) for name in installed_plugins()]


def _describe(settings: Any) -> dict[str, Any]:
    from extractors.build import build_extractor
    from extractors.weights import registry

    extractor = build_extractor(settings)
    spec = extractor.spec
    digest = extractor.weights_sha256
    weights = next((known for known in registry() if known.sha256 == digest), None)
    return {
        "kind": settings.kind,
        "about": (type(settings).__doc__ or "").strip(),
        "dim": spec.dim,
        "dtype": spec.dtype,
        "start": spec.start,
        "hop": spec.hop,
        "weights": weights and weights.name,
        "weights_sha256": digest,
        "licence": weights and weights.licence,
        "settings": settings.model_dump(mode="json", exclude={"kind"}),
    }
