"""Checkpoints and the card of a run.

<run>/config.yaml, <run>/checkpoints/step_00001000.pt (weights and all that resuming needs),
<run>/metrics.jsonl, and <run>/card.json, published last: it names the checkpoint that counts, so
a run killed at any moment still has a whole one, and the best one so far. Before the first one
<run>/started.json says what the run is, so that no other begins in its folder. A checkpoint loads
with weights_only=True.
"""

import importlib.metadata
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from extractors.errors import AbortError, UsageError
from pipeline import storage
from pipeline.settings import dump_settings, load_settings
from training.clips import TrackDims
from training.config import TrainConfig
from training.model import Mcn, build_model
from training.provenance import track_fingerprints
from training.sampling import TrainingSet
from training.xdc.config import XdcConfig

CARD_FORMAT = 1
STARTED = "started.json"
"""The card of a run without a checkpoint: its facts alone."""
DISTRIBUTION = "multimodal-clustering-pipeline"
FREE_KEYS = frozenset(
    {
        "checkpoint_steps",
        "checkpoint_epochs",
        "keep_last",
        "keep_best",
        "use_checkpoint",
        "wandb_project",
        "sampling.cache_megabytes",
    }
)
"""Settings that change no number of a run, so they may differ when it resumes."""

Which = Literal["last", "best"]
Kind = Literal["mcn", "xdc"]


@dataclass(frozen=True)
class Run:
    """A trained (or half trained) model, ready to embed."""

    model: Mcn
    """In evaluation mode, on the device asked for."""
    config: TrainConfig
    card: dict[str, Any]


def run_facts(
    training_set: TrainingSet, digest: str, config: TrainConfig, world_size: int, model: Mcn
) -> dict[str, Any]:
    """What the card says of a run whatever its step: what it is and what made it."""
    return {
        "format_version": CARD_FORMAT,
        "kind": "mcn",
        "code_version": code_version(),
        "torch_version": str(torch.__version__),
        "dataset": training_set.dataset,
        "dataset_digest": digest,
        "videos": len(training_set.videos),
        "dims": asdict(training_set.dims),
        "fingerprints": track_fingerprints(training_set.dataset, config.sampling),
        "embedding_dim": config.model.embedding_dim,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "world_size": world_size,
        "config": config.model_dump(mode="json"),
    }


def code_version() -> str:
    """The version of the installed distribution, or 'source' when run from a source tree."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "source"


@dataclass(frozen=True)
class Score:
    """What the best checkpoint is chosen by."""

    measure: Literal["loss", "validation_recall"]
    value: float

    def beats(self, best: Mapping[str, Any]) -> bool:
        """Whether it is better than the best one so far, as a card has it."""
        if best.get("measure") != self.measure:
            return True
        before: float = best["value"]
        return self.value < before if self.measure == "loss" else self.value > before


def save_checkpoint(
    run: str,
    step: int,
    state: dict[str, Any],
    card: dict[str, Any],
    *,
    keep_last: int = 1,
    score: Score | None = None,
    kind: Kind = "mcn",
) -> None:
    """Publishes the state, then the card that names it, then deletes older checkpoints.

    The newest `keep_last` stay, and the best one of all that were given a score.
    """
    name = f"step_{step:08d}.pt"
    with storage.publishing(storage.join(run, "checkpoints", name)) as temporary:
        torch.save(state, temporary)
    best = _best(run, step, name, score, kind)
    url = storage.join(run, "card.json")
    storage.publish_json(url, card | {"checkpoint": name, "best": best})
    storage.remove(storage.join(run, STARTED))
    # of a later step: what a run wrote that was killed before its card
    known = [other for other in _checkpoint_names(run) if other <= name]
    kept = {*known[-keep_last:], best["checkpoint"] if best else name}
    for other in set(_checkpoint_names(run)) - kept:
        storage.remove(storage.join(run, "checkpoints", other))


def _best(run: str, step: int, name: str, score: Score | None, kind: Kind) -> dict[str, Any] | None:
    """{'checkpoint', 'step', 'measure', 'value'} of the best one so far, this one included; of
    equals the first."""
    before: dict[str, Any] | None = (read_card(run, kind) or {}).get("best")
    if score is None or (before is not None and not score.beats(before)):
        return before
    return {"checkpoint": name, "step": step, "measure": score.measure, "value": score.value}


def _checkpoint_names(run: str) -> list[str]:
    """In the order of their steps."""
    return [n for n in storage.names(storage.join(run, "checkpoints")) if n.startswith("step_")]


def read_card(run: str, kind: Kind = "mcn") -> dict[str, Any] | None:
    """The card of a run; None before its first checkpoint.

    Raises UsageError where the run is one of the other method, AbortError if it is foreign.
    """
    return _read_card(run, "card.json", kind)


def _read_card(run: str, name: str, kind: Kind) -> dict[str, Any] | None:
    url = storage.join(run, name)
    if not storage.exists(url):
        return None
    card: dict[str, Any] = storage.read_json(url)
    found, version = card.get("kind"), card.get("format_version")
    if version == CARD_FORMAT and found == "xdc" and kind == "mcn":
        raise UsageError(
            f"{run}: a run of {card.get('method')}, which gives extractors, not a model that "
            f"embeds; extract with extract.extractors.visual_3d={{kind: xdc_video, run: {run}}}, "
            "train MCN on that, and give its run here"
        )
    if version == CARD_FORMAT and found == "mcn" and kind == "xdc":
        raise UsageError(f"{run}: holds a run of MCN; choose another folder")
    if version != CARD_FORMAT or found != kind:
        raise AbortError(
            f"{url}: kind {found!r}, format {version!r}; "
            f"this program reads kind {kind!r}, format {CARD_FORMAT}"
        )
    return card


def load_state(
    run: str, card: Mapping[str, Any], device: torch.device, which: Which = "last"
) -> dict[str, Any]:
    """The state of a checkpoint that a card names. Raises UsageError where no best one was kept."""
    url = storage.join(run, "checkpoints", _checkpoint_name(run, card, which))
    path = storage.local_path(url)
    source: Path | io.BytesIO = path if path is not None else io.BytesIO(storage.read_bytes(url))
    state: dict[str, Any] = torch.load(source, map_location=device, weights_only=True)
    return state


def _checkpoint_name(run: str, card: Mapping[str, Any], which: Which) -> str:
    if which == "best" and card.get("best") is None:
        raise UsageError(f"{run}: kept no best checkpoint; use the last, or set train.keep_best")
    name: str = card["checkpoint"] if which == "last" else card["best"]["checkpoint"]
    return name


def load_run(run: str, device: torch.device, which: Which | None = None) -> Run:
    """The model of a run's last or best checkpoint; None: as `use_checkpoint` of its settings says.

    Raises UsageError where there is none.
    """
    card = read_card(run)
    if card is None:
        raise UsageError(f"{run}: no card.json, so no trained model; run `pipeline run train`")
    config = load_settings(TrainConfig, [(f"{run}/card.json", json.dumps(card["config"]))])
    dims = TrackDims(**card["dims"] | {"visual": tuple(card["dims"]["visual"])})
    model = build_model(config, dims)
    state = load_state(run, card, device, which or config.use_checkpoint)
    model.load_state_dict(state["model"])
    return Run(model.to(device).eval(), config, card)


def choose_checkpoint(run: str, card: Mapping[str, Any], config: TrainConfig) -> None:
    """Has a finished run's card say `config.use_checkpoint`. Raises UsageError where no best
    checkpoint was kept."""
    if card["config"].get("use_checkpoint", "last") == config.use_checkpoint:
        return
    _checkpoint_name(run, card, config.use_checkpoint)
    chosen = {**card["config"], "use_checkpoint": config.use_checkpoint}
    storage.publish_json(storage.join(run, "card.json"), {**card, "config": chosen})
    write_config(run, config)


def check_same_run(
    run: str,
    card: Mapping[str, Any],
    config: TrainConfig | XdcConfig,
    digest: str,
    *,
    block: str = "train",
    free_keys: frozenset[str] = FREE_KEYS,
) -> None:
    """Refuses (UsageError) to go on with other settings or other data.

    Another number of workers is no other run: it sees the same batches. `block` is where the
    settings stand in the configuration, `free_keys` are those that may differ.
    """
    # a setting that is newer than the run had its default, which is what was done before
    before = flatten(type(config)().model_dump(mode="json")) | flatten(card["config"])
    now = flatten(config.model_dump(mode="json"))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and key not in free_keys:
            raise UsageError(
                f"{run}: {block}.{key} was {before.get(key)!r} and is now {now.get(key)!r}; resume "
                "with the settings of its config.yaml, or train into another folder"
            )
    if card["dataset_digest"] != digest:
        raise UsageError(
            f"{run}: was trained on dataset {card['dataset_digest'][:12]}, this one is "
            f"{digest[:12]}; train into another folder"
        )


def earlier_run(
    run: str,
    config: TrainConfig | XdcConfig,
    digest: str,
    *,
    kind: Kind = "mcn",
    block: str = "train",
    free_keys: frozenset[str] = FREE_KEYS,
) -> dict[str, Any] | None:
    """The card of the run that the folder holds; None where it has no checkpoint yet. Raises
    UsageError as `read_card` and `check_same_run` do, of a run without a checkpoint too."""
    card = read_card(run, kind)
    if card is not None:
        check_same_run(run, card, config, digest, block=block, free_keys=free_keys)
        return card
    started = _read_card(run, STARTED, kind)
    try:
        if started is not None:
            check_same_run(run, started, config, digest, block=block, free_keys=free_keys)
    except UsageError as err:
        raise UsageError(f"{err} (this one has no checkpoint yet: it may be removed)") from err
    return None


def start_run(run: str, facts: Mapping[str, Any], config: TrainConfig | XdcConfig) -> None:
    """Publishes what the run is, for `earlier_run`, and config.yaml."""
    if not storage.exists(storage.join(run, "card.json")):
        storage.publish_json(storage.join(run, STARTED), facts)
    write_config(run, config)


def write_config(run: str, config: TrainConfig | XdcConfig) -> None:
    """Publishes config.yaml, the resolved settings."""
    storage.publish_bytes(storage.join(run, "config.yaml"), dump_settings(config).encode())


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} to {'a.b': 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
