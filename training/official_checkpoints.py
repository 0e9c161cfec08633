"""Released MCN checkpoints (`e9.pth`: a plain state dict) as runs, and runs as such files."""

import io
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from extractors.errors import AbortError, UsageError
from pipeline import storage
from training import checkpoints
from training.config import TrainConfig
from training.official_names import from_official, read_sizes, to_official


def read_official(source: str) -> dict[str, Tensor]:
    """The state dict of a file or URL, under the released names. Never unpickles code.

    Raises AbortError where the file is not there or holds something else.
    """
    path = storage.local_path(source)
    try:
        opened: Path | io.BytesIO = (
            path if path is not None else io.BytesIO(storage.read_bytes(source))
        )
        state: Any = torch.load(opened, map_location="cpu", weights_only=True)
    except FileNotFoundError as err:
        raise AbortError(f"{source}: no such file") from err
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as err:
        reason = str(err).partition("\n")[0]
        raise AbortError(f"{source}: not a PyTorch state dict ({reason})") from err
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise AbortError(
            f"{source}: not a plain state dict; of an amp_checkpoint.pt take the `net` part"
        )
    return state


def import_checkpoint(source: str, run: str, config: TrainConfig) -> dict[str, Any]:
    """Publishes a released checkpoint as a finished run that embeds, evaluates and indexes.

    `config` gives the settings that a state dict does not hold (those of preset mcn_official);
    the network's sizes are the file's. What it was trained on is unknown, so the run's card names
    no dataset and no fingerprints: nothing checks that features are those it knows. Returns the
    card. Raises UsageError for a state dict of another network or a folder that holds a run.
    """
    if checkpoints.read_card(run) is not None:
        raise UsageError(f"{run}: holds a run already; choose another folder")
    official = read_official(source)
    state, sizes = from_official(official, source), read_sizes(official, source)
    kept = {"reconstruction_weight": config.loss.reconstruction_weight if sizes.decoders else 0.0}
    config = config.model_copy(
        update={"model": sizes.model, "loss": config.loss.model_copy(update=kept)}
    )
    facts = {
        "format_version": checkpoints.CARD_FORMAT,
        "kind": "mcn",
        "code_version": checkpoints.code_version(),
        "torch_version": str(torch.__version__),
        "imported_from": source,
        "dataset": "",
        "dataset_digest": "",
        "videos": 0,
        "dims": asdict(sizes.dims),
        "fingerprints": {},
        "embedding_dim": sizes.model.embedding_dim,
        "parameters": sum(value.numel() for value in state.values() if value.is_floating_point()),
        "world_size": 1,
        "config": config.model_dump(mode="json"),
        "step": 0,
        "total_steps": 0,
        "epoch": 0,
        "finished": True,
        "metrics": {},
    }
    checkpoints.write_config(run, config)
    checkpoints.save_checkpoint(run, 0, {"model": state}, facts)
    return facts


def export_checkpoint(run: str, target: str, which: checkpoints.Which = "last") -> int:
    """Writes a run's network as a released state dict to a file or URL; how many tensors it has.

    Raises UsageError where the run has no model, or one that the released code has no names for.
    """
    loaded = checkpoints.load_run(run, torch.device("cpu"), which)
    if set(loaded.model.modalities) != {"video", "audio", "text"}:
        have = ", ".join(loaded.model.modalities)
        raise UsageError(f"{run}: has {have}; the released network needs video, audio and text")
    state = to_official(loaded.model.state_dict())
    with storage.publishing(target) as temporary:
        torch.save(state, temporary)
    return len(state)


def start_from(source: str, model_state: Mapping[str, Tensor]) -> None:
    """Copies weights to start from (`train.init`) into a network's state dict, in place.

    `source` is a run or a released state dict. A part that it lacks altogether (decoders, cluster
    heads, a branch) keeps its fresh weights. Raises UsageError naming the first that differ.
    """
    if checkpoints.read_card(source) is not None:
        found = checkpoints.load_run(source, torch.device("cpu")).model.state_dict()
    else:
        found = from_official(read_official(source), source)
    parts = {name.partition(".")[0] for name in found}
    needed = [name for name in model_state if name.partition(".")[0] in parts or name in found]
    other = [
        name for name in needed if name not in found or found[name].shape != model_state[name].shape
    ]
    if other or not needed:
        raise UsageError(
            f"train.init = {source}: its network is another; the first names that differ: "
            f"{', '.join(other[:3])}; set train.model to its sizes"
        )
    for name in needed:
        model_state[name].copy_(found[name])
