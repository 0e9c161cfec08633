"""Training MCN, from shards to a run folder. Calling `train` again on a folder goes on with it."""

import logging
import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from extractors.errors import AbortError, UsageError
from training import checkpoints, distributed
from training.clips import ClipInputs
from training.config import TrainConfig
from training.metrics_log import MetricsLog, check_wandb
from training.provenance import check_current, stored_digest
from training.sampling import ClipSampler, TrainingSet, open_training_set, read_ahead
from training.steps import Training, start_training, training_step
from training.validation import VALIDATION_RECALL, load_validation_clips, validate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainProgress:
    """What `train` reports after every step."""

    step: int
    """Steps done."""
    total_steps: int
    losses: dict[str, float]
    """See StepReport."""
    lr: float
    """Learning rate of this step."""
    clips_per_second: float
    """Of this step on all ranks, reading included."""


OnProgress = Callable[[TrainProgress], None]


@dataclass(frozen=True)
class _Session:
    """What stays the same while one call of `train` runs."""

    output: str
    config: TrainConfig
    device: torch.device
    sampler: ClipSampler
    total_steps: int
    facts: dict[str, Any]
    """Of the card, those that no step changes."""
    log: MetricsLog | None
    """On rank 0 alone."""
    validation: list[ClipInputs]
    """The clips of `validate`; on rank 0 alone."""


def train(
    dataset: str,
    output: str,
    config: TrainConfig,
    device: torch.device,
    on_progress: OnProgress = lambda progress: None,
) -> dict[str, float]:
    """Trains on a dataset's shards into the run folder `output`; returns the final metrics.

    The metrics are the losses' means over the last epoch and what `validate` found at its end. A
    finished run is left alone, an interrupted one goes on from its last checkpoint, on the CPU bit
    for bit.

    With torch.distributed set up, every rank calls this and `output` is a place that all of them
    see. The batches, the negatives, the queue, the clusters and batch norm span all ranks: the
    result is that of one process but for rounding, so a run may resume with another number of
    workers. Raises AbortError for a dataset that cannot be trained on or a loss that is not
    finite, UsageError for a run of other settings.
    """
    check_wandb(config.wandb_project)
    _check_best(config)
    check_current(dataset)
    training_set, digest = open_training_set(dataset, config.sampling), stored_digest(dataset)
    card = checkpoints.earlier_run(output, config, digest)
    if card is not None and card["finished"]:
        return _leave_finished(output, card, config)
    sampler = _make_sampler(training_set, config)
    training = start_training(training_set, sampler, config, device)
    if card is not None:
        training.restore(checkpoints.load_state(output, card, device))
        if sampler.rank == 0:
            _say_resuming(output, card, sampler.world_size)
    session = _open_session(training, sampler, output, digest, device)
    try:
        while training.epoch < config.epochs:
            _run_epoch(training, session, on_progress)
    finally:
        if session.log is not None:
            session.log.close()
    if sampler.rank == 0 and not training.clustering.started and config.loss.clustering_weight > 0:
        logger.warning("%s: clustering never started: fewer rows than clusters", output)
    return training.metrics


def _check_best(config: TrainConfig) -> None:
    if config.use_checkpoint == "best" and not config.keep_best:
        raise UsageError(
            "train.use_checkpoint = best: no best checkpoint is kept; set train.keep_best to true"
        )


def _leave_finished(output: str, card: dict[str, Any], config: TrainConfig) -> dict[str, float]:
    """Its metrics; only which of its checkpoints is used may still change."""
    logger.info("%s: finished after %d steps, nothing to do", output, card["step"])
    if distributed.world()[0] == 0:
        checkpoints.choose_checkpoint(output, card, config)
    return dict(card["metrics"])


def _make_sampler(training_set: TrainingSet, config: TrainConfig) -> ClipSampler:
    """Of this rank. Raises AbortError where a batch has not a video for each."""
    sampler = ClipSampler(training_set, config, *distributed.world())
    if sampler.batch_videos < sampler.world_size:
        raise AbortError(
            f"{training_set.dataset}: batches of {sampler.batch_videos} videos for "
            f"{sampler.world_size} workers; use fewer workers"
        )
    return sampler


def _open_session(
    training: Training, sampler: ClipSampler, output: str, digest: str, device: torch.device
) -> _Session:
    """Rank 0 publishes what the run is, opens its log and reads the validation clips."""
    config, training_set, first = sampler.config, sampler.training_set, sampler.rank == 0
    facts = checkpoints.run_facts(training_set, digest, config, sampler.world_size, training.model)
    if first:
        checkpoints.start_run(output, facts, config)
    return _Session(
        output=output,
        config=config,
        device=device,
        sampler=sampler,
        total_steps=config.epochs * sampler.batches_per_epoch,
        facts=facts,
        log=MetricsLog(output, training.step + 1, config) if first else None,
        validation=load_validation_clips(training_set, config) if first else [],
    )


def _say_resuming(output: str, card: dict[str, Any], world_size: int) -> None:
    step, total, before = card["step"], card["total_steps"], card["world_size"]
    logger.info("%s: resuming after step %d of %d", output, step, total)
    if world_size != before:
        logger.info("%s: by %d workers instead of %d", output, world_size, before)


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
            report = training_step(training, batch, config, session.device)
            training.count_step(report.losses, sampler.batches_per_epoch)
            now = time.perf_counter()
            speed, clock = report.clips / (now - clock), now
            if session.log is not None and (training.step - 1) % config.log_steps == 0:
                numbers = {
                    "lr": lr,
                    "clips": float(report.clips),
                    "clips_per_second": speed,
                }
                if math.isfinite(report.gradient_norm):  # JSON knows no other numbers
                    numbers["gradient_norm"] = report.gradient_norm
                values = report.losses | training.statistics | numbers
                session.log.write(training.step, epoch, values)
            if _checkpoint_due(training, config):
                _validate(training, session)
                _save(training, session)
            on_progress(TrainProgress(training.step, session.total_steps, report.losses, lr, speed))


def _checkpoint_due(training: Training, config: TrainConfig) -> bool:
    if training.epoch == config.epochs or training.step % config.checkpoint_steps == 0:
        return True
    return training.batch == 0 and training.epoch % config.checkpoint_epochs == 0


def _validate(training: Training, session: _Session) -> None:
    """At the end of an epoch, into the metrics and the log, by the rank that has the clips."""
    if training.batch == 0 and session.validation and session.log is not None:
        found = validate(training.model, session.validation, session.config, session.device)
        training.metrics |= found
        session.log.write(training.step, training.epoch - 1, found)


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
        checkpoints.save_checkpoint(
            session.output,
            training.step,
            training.state(),
            card,
            keep_last=session.config.keep_last,
            score=_score(training) if session.config.keep_best else None,
        )
    distributed.barrier()


def _score(training: Training) -> checkpoints.Score | None:
    """None within an epoch: the metrics are those of the one before."""
    if training.batch != 0:
        return None
    if VALIDATION_RECALL in training.metrics:
        return checkpoints.Score("validation_recall", training.metrics[VALIDATION_RECALL])
    return checkpoints.Score("loss", training.metrics["loss"])
