"""What a training run carries from step to step, and one step of it.

Shapes: B clips of this rank, N clips of all ranks, D embedding.
"""

import logging
import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from extractors.errors import AbortError
from training import distributed
from training.batch_norm import span_ranks
from training.batches import ClipBatch, TrainBatch
from training.config import TrainConfig
from training.losses import reconstruction_loss
from training.microbatches import (
    BatchFacts,
    as_leaves,
    carry,
    deal,
    embedding_pass,
    gather_facts,
    gather_output,
    merge,
)
from training.model import Mcn, McnOutput, build_model
from training.objective import check_losses, joint_losses, weighted
from training.official_checkpoints import start_from
from training.online_clustering import OnlineClustering
from training.sampling import ClipSampler, TrainingSet
from training.schedule import make_optimiser, make_schedule

logger = logging.getLogger(__name__)


@dataclass
class Training:
    """Everything that changes while training; `state` and `restore` are a checkpoint."""

    model: Mcn
    optimiser: torch.optim.Optimizer
    schedule: LambdaLR
    clustering: OnlineClustering
    scaler: torch.amp.GradScaler
    """Idle but in float16."""
    autocast: torch.dtype | None = None
    """None: float32."""
    microbatches: int = 1
    """Parts that a batch is embedded in."""
    epoch: int = 0
    batch: int = 0
    """The next batch of `epoch`."""
    step: int = 0
    """Steps done."""
    epoch_sums: dict[str, float] = field(default_factory=dict)
    """Losses summed over the batches of `epoch` so far."""
    statistics: dict[str, float] = field(default_factory=dict)
    """Of the clusters when they were last made anew."""
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
            "scaler": self.scaler.state_dict(),
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
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
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
    """The beginning of a run: fresh weights from the seed, batch and k cut to the dataset.

    All ranks call it together and come to the same weights. Raises UsageError for losses that do
    not go together.
    """
    check_losses(config)
    total_steps = config.epochs * sampler.batches_per_epoch
    videos = len(training_set.videos)
    clusters = min(config.clustering.clusters, max(2, videos // 2))
    small = sampler.batch_videos < config.sampling.batch_videos
    if sampler.rank == 0 and (small or clusters < config.clustering.clusters):
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
    model = build_model(config, training_set.dims)
    if config.init is not None:
        start_from(config.init, model.state_dict())
    model = model.to(device).train()
    if distributed.world()[1] > 1:
        span_ranks(model)
        distributed.copy_from_first(model.state_dict().values())
    if config.compile:
        model.compile(dynamic=True)  # clips and frames change from batch to batch
    optimiser = make_optimiser(model, config.optimiser)
    schedule = make_schedule(optimiser, config.optimiser.warmup_steps, total_steps)
    clustering = OnlineClustering(
        config.clustering, model.modalities, clusters, config.model.embedding_dim
    ).to(device)
    half = config.precision == "float16" and device.type == "cuda"
    return Training(
        model=model,
        optimiser=optimiser,
        schedule=schedule,
        clustering=clustering,
        scaler=torch.amp.GradScaler(device.type, enabled=half),
        autocast=_autocast(config, device),
        microbatches=_microbatches(config, sampler),
    )


def _microbatches(config: TrainConfig, sampler: ClipSampler) -> int:
    """Not by what a batch turns out to hold: all ranks must come to the same number."""
    most = sampler.batch_videos * config.sampling.clips_per_video
    return math.ceil(most / (config.optimiser.microbatch_clips or most))


def _autocast(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    if config.precision == "float32" or device.type != "cuda":
        return None
    return torch.bfloat16 if config.precision == "bfloat16" else torch.float16


@dataclass(frozen=True)
class StepReport:
    """What a step says of itself; the same on all ranks."""

    losses: dict[str, float]
    """loss (the weighted sum), and unweighted: mms_x_y (nce_x_y, mil_nce_x_y) a pair, clustering,
    reconstruction."""
    gradient_norm: float
    """Over all weights, before any clipping; not finite where float16 skipped the update."""
    clips: int
    """Of the batch of all ranks."""


def training_step(
    training: Training, batch: TrainBatch, config: TrainConfig, device: torch.device
) -> StepReport:
    """One step on this rank's share of a batch; all ranks call it together.

    The loss L is that of training.objective over the clips of all ranks. With several
    micro-batches (GradCache, Gao et al. 2021, arXiv 2101.06983) the clips are embedded without a
    graph, the losses give the gradient of every embedding, and each micro-batch is embedded again
    to carry it on to the weights. Raises AbortError, before any update, where L or its gradient is
    not finite.
    """
    facts = gather_facts(batch, device)
    if len(facts.spans_N3) == 0:
        raise AbortError(_about(training, "no video has anything to train on", batch.videos))
    if training.model.heads is not None:
        training.model.heads.normalise_prototypes()
    parts = deal(batch, training.microbatches, device)
    cached = len(parts) > 1
    with embedding_pass(training.model, cached):
        passes = [_forward(training, part.inputs, config, facts) for part in parts]
    output = merge(parts, [made for made, _ in passes])
    if cached:
        output = as_leaves(output, config.model.learn_temperature)
    whole = gather_output(output, facts)
    joint = joint_losses(whole, facts, training.clustering, config, training.epoch, training.step)
    training.statistics = joint.statistics or training.statistics
    loss = weighted(joint.terms, whole, config.loss)
    own_rebuilt = torch.stack([rebuilt for _, rebuilt in passes]).sum()
    numbers = _numbers(joint.terms, loss, own_rebuilt, config)
    if not math.isfinite(numbers["loss"]):
        said = f"the loss is {numbers['loss']} ({numbers})"
        raise AbortError(_about(training, said, batch.videos))
    training.optimiser.zero_grad(set_to_none=True)
    weight = config.loss.reconstruction_weight
    if not cached:
        _backward(training, loss + weight * own_rebuilt)
    else:
        loss.backward()  # type: ignore[no-untyped-call]  # as far as the leaves
        for part in parts:
            again, rebuilt = _forward(training, part.inputs, config, facts)
            carried = carry(again, output, part, part is parts[-1])
            _backward(training, carried + weight * rebuilt)
    norm = _update(training, batch, config)
    return StepReport(numbers, norm, len(facts.spans_N3))


def _forward(
    training: Training, inputs: ClipBatch, config: TrainConfig, facts: BatchFacts
) -> tuple[McnOutput, Tensor]:
    """The embeddings of a part, and its share of the reconstruction loss."""
    kind = inputs.visual_BV.device.type
    enabled = training.autocast is not None
    with torch.autocast(kind, training.autocast, enabled=enabled):
        output: McnOutput = training.model(inputs)
    rebuilt = torch.zeros((), device=inputs.visual_BV.device)
    if output.reconstructions:
        rebuilt = reconstruction_loss(
            output.reconstructions, config.loss.detach_targets, facts.counts()
        )
    return replace(output, reconstructions={}), rebuilt


def _numbers(
    losses: dict[str, Tensor], loss: Tensor, own_rebuilt: Tensor, config: TrainConfig
) -> dict[str, float]:
    """All losses as numbers, the same on all ranks."""
    weight = config.loss.reconstruction_weight
    rebuilt = distributed.sum_over_ranks(own_rebuilt.detach())
    named = {"loss": loss.detach() + weight * rebuilt} | losses
    if weight > 0:
        named["reconstruction"] = rebuilt
    values = torch.stack(list(named.values())).detach().tolist()  # one wait for the device
    return dict(zip(named, values, strict=True))


def _backward(training: Training, loss: Tensor) -> None:
    training.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]


def _update(training: Training, batch: TrainBatch, config: TrainConfig) -> float:
    """Adds up the ranks' gradients, clips, and steps; gives the gradient's norm."""
    heads = training.model.heads
    if heads is not None and training.epoch < config.clustering.sinkhorn.frozen_epochs:
        heads.freeze_prototypes()
    distributed.sum_gradients(training.model)
    training.scaler.unscale_(training.optimiser)
    weights = list(training.model.parameters())
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    total = nn.utils.get_total_norm(gradients)
    norm = float(total)
    if not math.isfinite(norm) and not training.scaler.is_enabled():
        raise AbortError(_about(training, f"the gradient's norm is {norm}", batch.videos))
    if config.optimiser.max_gradient_norm is not None:
        nn.utils.clip_grads_with_norm_(weights, config.optimiser.max_gradient_norm, total)
    training.scaler.step(training.optimiser)
    training.scaler.update()
    with warnings.catch_warnings():  # float16 may skip the first update, on purpose
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        training.schedule.step()
    return norm


def _about(training: Training, problem: str, videos: tuple[str, ...]) -> str:
    """One line for all ranks' videos; all ranks come here together."""
    return (
        f"step {training.step + 1}: {problem}; lower train.optimiser.lr, or look for values that "
        f"are missing or not finite in the videos {', '.join(distributed.gather_texts(videos))}"
    )
