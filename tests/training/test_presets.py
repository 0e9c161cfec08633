"""The presets' training settings: the official run's, and that both train."""

import math

import pytest
import torch

from pipeline.cli.options import load_config
from pipeline.settings import all_keys
from training.checkpoints import flatten
from training.config import TrainConfig
from training.loop import train

OFFICIAL = {
    "seed": 1,
    "epochs": 30,
    "precision": "float16",
    "sampling.batch_videos": 128,
    "sampling.clips_per_video": 32,
    "sampling.min_time": 10.0,
    "sampling.deduplicate": False,
    "sampling.random_windows": False,
    "sampling.audio_frames": 1000,
    "sampling.padding_decibel": 0.0,
    "sampling.max_text_rows": 20,
    "model.embedding_dim": 6144,
    "model.audio_widths": [128, 256, 512, 1024],
    "model.audio_blocks": 2,
    "model.decoder_dim": 1024,
    "model.mask_padding": False,
    "model.similarity": "raw",
    "model.learn_temperature": False,
    "loss.mask_missing": False,
    "loss.contrastive": "mms",
    "loss.contrastive_weight": 1.0,
    "loss.margin": 0.001,
    "loss.margin_growth": 1.0,
    "loss.ignore_overlaps": False,
    "loss.clustering_weight": 1.0,
    "loss.clustering_on": "each",
    "loss.reconstruction_weight": 50.0,
    "loss.detach_targets": False,
    "clustering.method": "kmeans",
    "clustering.prediction": "joint",
    "clustering.clusters": 256,
    "clustering.queue_rows": 20 * 16 * 128,
    "clustering.queue_clips_per_video": 16,
    "clustering.partial_queue": False,
    "clustering.refit_steps": 20,
    "clustering.start": "random",
    "clustering.minibatch_rows": None,
    "clustering.max_iterations": 100,
    "clustering.tolerance": 1e-4,
    "clustering.metric": "cosine_mean",
    "clustering.empty_clusters": "zero",
    "clustering.keep_centroids": False,
    "optimiser.name": "adam",
    "optimiser.lr": 1e-4,
    "optimiser.weight_decay": 0.0,
    "optimiser.warmup_steps": 5000,
    "optimiser.max_gradient_norm": None,
    "optimiser.microbatch_clips": None,
}
"""Of the released run: its README's command, its scripts and its k-means library."""

MENDED = {
    "sampling.deduplicate": True,
    "sampling.padding_decibel": -80.0,
    "model.mask_padding": True,
    "model.similarity": "normalised",
    "loss.mask_missing": True,
    "loss.ignore_overlaps": True,
    "loss.detach_targets": True,
    "clustering.partial_queue": True,
    "clustering.start": "k-means++",
    "clustering.metric": "spherical",
    "clustering.empty_clusters": "reseed",
    "clustering.keep_centroids": True,
}
"""What the defaults do otherwise, and each field's docstring says the official value."""

SMALL = [
    "train.epochs=1",
    "train.sampling.batch_videos=5",
    "train.sampling.clips_per_video=3",
    "train.sampling.min_time=2",
    "train.sampling.audio_frames=300",
    "train.model.embedding_dim=16",
    "train.model.audio_widths=[8,8]",
    "train.model.audio_blocks=1",
    "train.model.decoder_dim=8",
    "train.clustering.clusters=4",
    "train.clustering.queue_rows=24",
    "train.clustering.refit_steps=1",
]


def test_the_official_preset_is_the_official_run() -> None:
    preset = flatten(load_config("mcn_official", None, None).train.model_dump(mode="json"))
    assert {key: preset[key] for key in OFFICIAL} == OFFICIAL


def test_the_defaults_mend_what_they_say() -> None:
    default, described = flatten(TrainConfig().model_dump(mode="json")), all_keys(TrainConfig)
    assert {key: default[key] for key in MENDED} == MENDED
    assert [key for key in MENDED if "fficial" not in described[key]] == []
    same = [key for key in OFFICIAL if default[key] == OFFICIAL[key]]
    assert set(OFFICIAL) - set(same) - set(MENDED) == {"precision"}


@pytest.mark.parametrize("preset", ["mcn_official", "embedded", "reference"])
def test_presets_train(dataset: str, tmp_path, preset: str) -> None:
    config = load_config(preset, None, SMALL).train
    metrics = train(dataset, str(tmp_path / "run"), config, torch.device("cpu"))
    assert all(math.isfinite(value) for value in metrics.values())
    assert {"mms_text_video", "clustering", "reconstruction"} < metrics.keys()
