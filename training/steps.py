"""What a training run carries from step to step, and one step of it.

Shapes: B clips, D embedding, N clips of all ranks.
"""

import logging
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from extractors.errors import AbortError
from training import distributed
from training.batches import TrainBatch
from training.clustering import OnlineKmeans
from training.config import TrainConfig
from training.losses import clustering_loss, contrastive_loss, reconstruction_loss
from training.model import Mcn, McnOutput, join
from training.sampling import ClipSampler, TrainingSet
from training.schedule import make_optimiser, make_schedule

logger = logging.getLogger(__name__)


@dataclass
class Training:
    """Everything that changes while training; `state` and `restore` are a checkpoint."""

    model: Mcn
    optimiser: torch.optim.Optimizer
    schedule: LambdaLR
    clustering: OnlineKmeans
    epoch: int = 0
    batch: int = 0
    """The next batch of `epoch`."""
    step: int = 0
    """Steps done."""
    epoch_sums: dict[str, float] = field(default_factory=dict)
    """Losses summed over the batches of `epoch` so far."""
    statistics: dict[str, float] = field(default_factory=dict)
    """Of the last k-means."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Means of the losses over the last whole epoch; a step without a loss counts it as 0."""

    def count_step(self, losses: dict[str, float], batches_per_epoch: int) -> None:
        """Moves on to the next batch, and to the next epoch after the last one."""
        for name, value in losses.items():
            self.epoch_sums[name] = self.epoch_sums.get(name, 0.0) + value
        self.batch += 1
        self.step += 1
        if self.batch == batches_per_epoch:
            self.metrics = {name: sums / self.batch for name, sums in self.epoch_sums.items()}
            self.epoch, self.batch = self.epoch + 1, 0

    def state(self) -> dict[str, Any]:
        """All of it as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "clustering": self.clustering.state_dict(),
            "position": {"epoch": self.epoch, "batch": self.batch, "step": self.step},
            "epoch_sums": dict(self.epoch_sums),
            "statistics": dict(self.statistics),
            "metrics": dict(self.metrics),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to where `state` was taken."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.clustering.load_state_dict(state["clustering"])
        self.epoch = state["position"]["epoch"]
        self.batch = state["position"]["batch"]
        self.step = state["position"]["step"]
        self.epoch_sums, self.statistics = state["epoch_sums"], state["statistics"]
        self.metrics = state["metrics"]
        torch.set_rng_state(state["torch_rng"].cpu())
        if len(state["cuda_rng"]) == torch.cuda.device_count() > 0:
            torch.cuda.set_rng_state_all([rng.cpu() for rng in state["cuda_rng"]])


def start_training(
    training_set: TrainingSet,
    sampler: ClipSampler,
    config: TrainConfig,
    device: torch.device,
) -> Training:
    """The beginning of a run: fresh weights from the seed, batch and k cut to the dataset."""
    total_steps = config.epochs * sampler.batches_per_epoch
    videos = len(training_set.videos)
    clusters = min(config.clustering.clusters, max(2, videos // 2))
    if sampler.batch_videos < config.sampling.batch_videos or clusters < config.clustering.clusters:
        logger.warning(
            "%d training videos: batches of %d videos (configured: %d), k-means with %d clusters "
            "(configured: %d)",
            videos,
            sampler.batch_videos,
            config.sampling.batch_videos,
            clusters,
            config.clustering.clusters,
        )
    torch.manual_seed(config.seed)
    decoders = config.loss.reconstruction_weight > 0
    model = Mcn(config.model, training_set.dims, decoders).to(device).train()
    optimiser = make_optimiser(model, config.optimiser)
    schedule = make_schedule(optimiser, config.optimiser.warmup_steps, total_steps)
    clustering = OnlineKmeans(config.clustering, clusters, config.model.embedding_dim).to(device)
    return Training(model, optimiser, schedule, clustering)


def training_step(
    training: Training,
    replica: nn.Module,
    batch: TrainBatch,
    config: TrainConfig,
    device: torch.device,
) -> dict[str, float]:
    """One forward, backward and update; the losses as numbers.

    L = sum of the MMS pairs + clustering_weight * L_clu + reconstruction_weight * L_rec
    (paper weights: 1, 1, 50). Raises AbortError, before any update, where L is not finite.
    """
    inputs = batch.inputs.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16 and device.type == "cuda"):
        output: McnOutput = replica(inputs)
    ignored_BB = batch.repeated().to(device) if config.loss.ignore_overlaps else None
    losses = contrastive_loss(output, config.loss.margin, ignored_BB)
    loss = torch.stack(list(losses.values())).sum()
    if config.loss.clustering_weight > 0:
        term = _clustering_term(training, output, batch, config)
        if term is not None:
            losses["clustering"] = term
            loss = loss + config.loss.clustering_weight * term
    if output.reconstructions:
        term = reconstruction_loss(output.reconstructions, config.loss.detach_targets)
        losses["reconstruction"] = term
        loss = loss + config.loss.reconstruction_weight * term
    named = {"loss": loss} | losses
    values = torch.stack(list(named.values())).detach().tolist()  # one wait for the device
    numbers = dict(zip(named, values, strict=True))
    if not math.isfinite(numbers["loss"]):
        keys = ", ".join(dict.fromkeys(batch.keys))
        raise AbortError(
            f"step {training.step + 1}: the loss is {numbers['loss']} ({numbers}); lower "
            f"train.optimiser.lr, or look for values that are not finite in the videos {keys}"
        )
    training.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if config.optimiser.max_gradient_norm is not None:
        nn.utils.clip_grad_norm_(training.model.parameters(), config.optimiser.max_gradient_norm)
    training.optimiser.step()
    training.schedule.step()
    return numbers


def _clustering_term(
    training: Training, output: McnOutput, batch: TrainBatch, config: TrainConfig
) -> Tensor | None:
    fused_BD = join(output.embeddings, output.present)
    count = config.clustering.queue_clips_per_video
    queued_B = batch.first_of_each_video(count).to(fused_BD.device)
    fused_ND, own = distributed.gather_rows(fused_BD)
    queued_N, _ = distributed.gather_rows(queued_B)
    # not by rank: every rank must come to the same centroids
    rng = np.random.default_rng((config.seed, training.epoch))
    assignment = training.clustering.step(fused_ND, queued_N, training.step, rng)
    if assignment is None:
        return None
    training.statistics = assignment.statistics or training.statistics
    raw = config.model.similarity == "raw"
    scale = 1.0 if raw else 1 / config.loss.clustering_temperature
    labels_B = assignment.labels_N[own]
    return clustering_loss(output, assignment.centroids_KD, labels_B, config.loss, scale)
