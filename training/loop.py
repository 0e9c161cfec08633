"""Training MCN, from shards to a run folder. Calling `train` again on a folder goes on with it."""

import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from extractors.errors import AbortError
from training import checkpoints, distributed
from training.config import TrainConfig
from training.metrics_log import MetricsLog
from training.sampling import ClipSampler, dataset_digest, open_training_set, read_ahead
from training.steps import Training, start_training, training_step

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainProgress:
    """What `train` reports after every step."""

    step: int
    """Steps done."""
    total_steps: int
    losses: dict[str, float]
    """loss (the weighted sum), and unweighted: mms_x_y a pair, clustering, reconstruction."""
    lr: float
    """Learning rate of this step."""
    clips_per_second: float
    """Of this step on this rank, reading included."""


OnProgress = Callable[[TrainProgress], None]


@dataclass(frozen=True)
class _Session:
    """What stays the same while one call of `train` runs."""

    output: str
    config: TrainConfig
    device: torch.device
    sampler: ClipSampler
    total_steps: int
    replica: nn.Module
    facts: dict[str, Any]
    """Of the card, those that no step changes."""
    log: MetricsLog | None
    """On rank 0 alone."""


def train(
    dataset: str,
    output: str,
    config: TrainConfig,
    device: torch.device,
    on_progress: OnProgress = lambda progress: None,
) -> dict[str, float]:
    """Trains on a dataset's shards into the run folder `output`; returns the final metrics.

    The metrics are the losses' means over the last epoch (of rank 0). A finished run is left
    alone, an interrupted one goes on from its last checkpoint, on the CPU bit for bit. With
    torch.distributed set up, every rank calls this: gradients are averaged, k-means runs on all
    ranks' clips, negatives come from a rank's own batch. Raises AbortError for a dataset that
    cannot be trained on or a loss that is not finite, UsageError for a run of other settings.
    """
    rank, world_size = distributed.world()
    training_set = open_training_set(dataset, config.sampling)
    digest = dataset_digest(dataset)
    card = checkpoints.read_card(output)
    if card is not None:
        checkpoints.check_same_run(output, card, config, digest, world_size)
        if card["finished"]:
            logger.info("%s: finished after %d steps, nothing to do", output, card["step"])
            return dict(card["metrics"])
    if len(training_set.videos) < world_size:
        raise AbortError(
            f"{dataset}: {len(training_set.videos)} training videos for {world_size} workers; "
            "use fewer workers"
        )

    sampler = ClipSampler(training_set, config, rank, world_size)
    training = start_training(training_set, sampler, config, device)
    if card is not None:
        training.restore(checkpoints.load_state(output, card, device))
        logger.info("%s: resuming after step %d of %d", output, training.step, card["total_steps"])
    session = _Session(
        output=output,
        config=config,
        device=device,
        sampler=sampler,
        total_steps=config.epochs * sampler.batches_per_epoch,
        replica=distributed.replicate(training.model, device),
        facts=checkpoints.run_facts(training_set, digest, config, world_size, training.model),
        log=MetricsLog(output, training.step + 1) if rank == 0 else None,
    )
    if rank == 0:
        checkpoints.write_config(output, config)
    try:
        while training.epoch < config.epochs:
            _run_epoch(training, session, on_progress)
    finally:
        if session.log is not None:
            session.log.close()
    if not training.clustering.started and config.loss.clustering_weight > 0:
        logger.warning("%s: clustering never started: fewer rows than clusters", output)
    return training.metrics


def _run_epoch(training: Training, session: _Session, on_progress: OnProgress) -> None:
    """The rest of `training.epoch`, from `training.batch` on."""
    config, sampler, epoch = session.config, session.sampler, training.epoch
    if training.batch == 0:
        training.clustering.start_epoch()
        training.epoch_sums = {}
    clock = time.perf_counter()
    with closing(read_ahead(sampler.batches(epoch, training.batch))) as batches:
        for batch in batches:
            lr = float(training.schedule.get_last_lr()[0])
            losses = training_step(training, session.replica, batch, config, session.device)
            training.count_step(losses, sampler.batches_per_epoch)
            now = time.perf_counter()
            speed, clock = len(batch.keys) / (now - clock), now
            if session.log is not None and (training.step - 1) % config.log_steps == 0:
                numbers = {"lr": lr, "clips": float(len(batch.keys)), "clips_per_second": speed}
                session.log.write(training.step, epoch, losses | training.statistics | numbers)
            if _checkpoint_due(training, config):
                _save(training, session)
            on_progress(TrainProgress(training.step, session.total_steps, losses, lr, speed))


def _checkpoint_due(training: Training, config: TrainConfig) -> bool:
    if training.epoch == config.epochs or training.step % config.checkpoint_steps == 0:
        return True
    return training.batch == 0 and training.epoch % config.checkpoint_epochs == 0


def _save(training: Training, session: _Session) -> None:
    """Publishes the log, the checkpoint and the card from rank 0; the others wait."""
    if session.log is not None:
        session.log.publish()
        progress = {
            "step": training.step,
            "total_steps": session.total_steps,
            "epoch": training.epoch,
            "finished": training.step == session.total_steps,
            "metrics": training.metrics,
        }
        card = session.facts | progress
        checkpoints.save_checkpoint(session.output, training.step, training.state(), card)
    distributed.barrier()
