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
from training.xdc.video_set import VideoSet


def run_facts(videos: VideoSet, digest: str, config: XdcConfig, model: XdcModel) -> dict[str, Any]:
    """What the card says of a run whatever its step: what it is and what made it."""
    fingerprints = read_dataset_card(videos.dataset)["fingerprints"]
    return {
        "format_version": checkpoints.CARD_FORMAT,
        "kind": "xdc",
        "method": config.method,
        "code_version": checkpoints.code_version(),
        "torch_version": str(torch.__version__),
        "dataset": videos.dataset,
        "dataset_digest": digest,
        "videos": len(videos),
        "fingerprints": {name: fingerprints[name] for name in (config.audio_track, "proxy")},
        "parameters": sum(weight.numel() for weight in model.encoders.parameters()),
        "world_size": distributed.world()[1],
        "config": config.model_dump(mode="json"),
    }


def publish_encoders(run: str, model: XdcModel, videos: VideoSet) -> None:
    """Both encoders as files that the extractors `xdc_video` and `xdc_audio` read."""
    heard = HeardConfig(encoder=model.config.audio, mel=videos.mel)
    files = {
        "video": encoder_bytes(model.encoders["video"], model.config.video),
        "audio": encoder_bytes(model.encoders["audio"], heard),
    }
    for modality, content in files.items():
        storage.publish_bytes(storage.join(run, "encoders", f"{modality}.safetensors"), content)
