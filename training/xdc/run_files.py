"""What an XDC run publishes beside its checkpoints: the card's facts, the encoders."""

from typing import Any

import torch

from extractors.xdc_config import HeardConfig
from extractors.xdc_encoder_file import encoder_bytes
from pipeline import storage
from pipeline.dataset import read_dataset_card
from training import checkpoints, distributed
from training.xdc.config import XdcConfig
from training.xdc.model import XdcModel
from training.xdc.supervision import MODALITIES, Modality
from training.xdc.video_set import VideoSet


def run_facts(videos: VideoSet, digest: str, config: XdcConfig, model: XdcModel) -> dict[str, Any]:
    """What the card says of a run whatever its step: what it is and what made it."""
    fingerprints = read_dataset_card(videos.dataset)["fingerprints"]
    read = (config.audio_track,) if videos.input == "raw" else (config.audio_track, "proxy")
    return {
        "format_version": checkpoints.CARD_FORMAT,
        "kind": "xdc",
        "method": config.method,
        "code_version": checkpoints.code_version(),
        "torch_version": str(torch.__version__),
        "dataset": videos.dataset,
        "dataset_digest": digest,
        "input": videos.input,
        "videos": len(videos),
        "fingerprints": {name: fingerprints[name] for name in read},
        "parameters": sum(weight.numel() for weight in model.encoders.parameters()),
        "world_size": distributed.world()[1],
        "config": config.model_dump(mode="json"),
    }


def encoder_files(iteration: int) -> dict[Modality, str]:
    """Where the encoders lie in a run's folder after so many iterations; the card says which count,
    so that no reader takes one of this iteration and one of the last."""
    return {name: f"encoders/{name}_{iteration:06d}.safetensors" for name in MODALITIES}


def publish_encoders(run: str, iteration: int, model: XdcModel, videos: VideoSet) -> None:
    """Both encoders as files that the extractors `xdc_video` and `xdc_audio` read, once the card
    names them."""
    heard = HeardConfig(encoder=model.config.audio, mel=videos.mel)
    files: dict[Modality, bytes] = {
        "video": encoder_bytes(model.encoders["video"], model.config.video),
        "audio": encoder_bytes(model.encoders["audio"], heard),
    }
    for modality, name in encoder_files(iteration).items():
        storage.publish_bytes(storage.join(run, name), files[modality])


def remove_older_encoders(run: str, iteration: int) -> None:
    """Keeps those of this iteration and the one before, which a reader may be about to open."""
    kept = {*encoder_files(iteration).values(), *encoder_files(max(0, iteration - 1)).values()}
    for name in storage.names(storage.join(run, "encoders")):
        if f"encoders/{name}" not in kept:
            storage.remove(storage.join(run, "encoders", name))
