"""Training XDC and its variants, from clips to a run folder of two encoders.

    ┌─▶ embed every video with both encoders ▶ k-means ▶ pseudo-labels by video ▶ new heads
    │                                                                                │
    └── until `iterations`, or the labels settle ◀── train until the held-out loss saturates

Calling `train` again on a folder goes on with it.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from extractors.errors import AbortError
from training import checkpoints, distributed
from training.loop import OnProgress, TrainProgress
from training.metrics_log import MetricsLog, check_wandb
from training.provenance import check_current, stored_digest
from training.xdc.clips import draw_clips
from training.xdc.config import FREE_KEYS, XdcConfig
from training.xdc.labelling import make_labels, scratch_folder
from training.xdc.pseudo_labels import cluster_statistics, publish_labels
from training.xdc.reading import ClipLoader
from training.xdc.run_files import (
    encoder_files,
    publish_encoders,
    remove_older_encoders,
    run_facts,
)
from training.xdc.state import XdcTraining, learning_rate, start_xdc
from training.xdc.steps import Share, held_out_numbers, training_step, usable
from training.xdc.video_set import Numbers, VideoSet, open_video_set

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Session:
    """What stays the same while one call of `train` runs."""

    output: str
    config: XdcConfig
    device: torch.device
    videos: VideoSet
    loader: ClipLoader
    batch_clips: int
    """Clips of a batch of all ranks."""
    batches: int
    """Of an epoch."""
    facts: dict[str, Any]
    """Of the card, those that no step changes."""
    log: MetricsLog | None
    """On rank 0 alone."""
    on_progress: OnProgress

    @property
    def iteration_steps(self) -> int:
        """At most."""
        return self.config.epochs * self.batches

    @property
    def total_steps(self) -> int:
        """At most: an iteration may be over before its last epoch."""
        return self.config.iterations * self.iteration_steps


def train(
    dataset: str,
    output: str,
    config: XdcConfig,
    device: torch.device,
    on_progress: OnProgress = lambda progress: None,
) -> dict[str, float]:
    """Trains on a dataset's pictures and spectrograms into the run folder `output`; returns the
    metrics of the last epoch and clustering.

    The encoders are published after every iteration (see `publish_encoders`), then the card that
    names them. A finished run is left alone, an interrupted one goes on from its last checkpoint,
    on the CPU bit for bit. With torch.distributed set up, every rank calls this; batches, batch
    norm and clusters span all ranks, so the result is that of one process but for rounding. Raises
    AbortError for a dataset that cannot be trained on or a loss that is not finite, UsageError for
    one that lacks what XDC reads or a run of other settings.
    """
    check_wandb(config.wandb_project)
    check_current(dataset)
    videos = open_video_set(dataset, config)
    digest = stored_digest(dataset)
    card = checkpoints.earlier_run(
        output, config, digest, kind="xdc", block="xdc", free_keys=FREE_KEYS
    )
    if card is not None and card["finished"]:
        logger.info("%s: finished after %d steps, nothing to do", output, card["step"])
        return dict(card["metrics"])
    training = start_xdc(config, device)
    if card is not None:
        training.restore(checkpoints.load_state(output, card, device))
        logger.info("%s: resuming after step %d", output, card["step"])
    facts = run_facts(videos, digest, config, training.model)
    rank = distributed.world()[0]
    if rank == 0:
        checkpoints.start_run(output, facts, config)
        _say_what_there_is(videos)
    with ClipLoader(videos, config, device, forgiving=True) as loader:
        batch_clips, batches = epoch_shape(videos, config)
        log = MetricsLog(output, training.step + 1, config) if rank == 0 else None
        session = _Session(
            output, config, device, videos, loader, batch_clips, batches, facts, log, on_progress
        )
        try:
            _run(training, session)
        finally:
            if log is not None:
                log.close()
    return training.metrics


def epoch_shape(videos: VideoSet, config: XdcConfig) -> tuple[int, int]:
    """Clips of a batch and batches of an epoch, all ranks together: full batches only, smaller ones
    where there are fewer clips. Raises AbortError for more ranks than clips in a batch."""
    count = int((~videos.held_out_N).sum()) * config.sampling.clips_per_video
    batch_clips = min(config.sampling.batch_clips, count)
    world_size = distributed.world()[1]
    if batch_clips < world_size:
        raise AbortError(
            f"{videos.dataset}: batches of {batch_clips} clips for {world_size} workers; use fewer "
            "workers"
        )
    return batch_clips, count // batch_clips


def _say_what_there_is(videos: VideoSet) -> None:
    source = {"proxies": "proxies", "raw": "the videos' own files"}[videos.input]
    logger.info("%s: %d videos, clips from %s", videos.dataset, len(videos), source)
    for what, has_N in (("picture", videos.seen_N), ("sound", videos.heard_N)):
        missing = [videos.keys[i] for i in np.flatnonzero(~has_N)[:3]]
        if missing:
            logger.warning(
                "%d of %d videos have no %s (%s …): they take no part where it is needed",
                int((~has_N).sum()),
                len(videos),
                what,
                ", ".join(missing),
            )


def _run(training: XdcTraining, session: _Session) -> None:
    """All iterations that are left."""
    while not training.finished:
        if not training.labels:
            _begin_iteration(training, session)
        if not training.settled:
            _run_epoch(training, session)
    if training.settled or training.step == 0:  # else the last epoch has saved it
        _save(training, session)


def _begin_iteration(training: XdcTraining, session: _Session) -> None:
    """Features, clusters, heads; says and logs what came out."""
    clock = time.perf_counter()
    with scratch_folder(session.output) as folder:
        labels = make_labels(
            training.model, training.iteration, session.videos, session.loader, session.device,
            folder,
        )  # fmt: skip
    training.begin_iteration(labels)
    statistics: dict[str, float] = {}
    for name, made in labels.items():
        before_N = training.before.get(name)
        statistics |= cluster_statistics(name, made, before_N, session.videos)
    training.metrics = dict(statistics)
    changes = [statistics[f"{name}_nmi_last"] for name in labels if name in training.before]
    limit = session.config.settle_nmi
    training.settled = bool(limit and changes and np.mean(changes) >= limit)
    if session.log is None:
        return
    sets: dict[str, Numbers] = {name: made.labels_N for name, made in labels.items()}
    publish_labels(session.output, training.iteration, session.videos, sets)
    numbers = {
        "iteration": float(training.iteration),
        "clustering_seconds": time.perf_counter() - clock,
    }
    # with the first step that these labels train: what a resumed run makes again, it logs again
    session.log.write(training.step + 1, training.epoch, statistics | numbers)
    logger.info(
        "iteration %d: %s",
        training.iteration,
        ", ".join(f"{n} {v:.3g}" for n, v in statistics.items()),
    )


def _run_epoch(training: XdcTraining, session: _Session) -> None:
    """The rest of `training.epoch`, from `training.batch` on, then the held-out loss."""
    shares = _epoch_plan(training, session)[training.batch :]
    clock = time.perf_counter()
    batches = session.loader.read([share.own for share in shares])
    for share, batch in zip(shares, batches, strict=True):
        done = training.epoch * session.batches + training.batch
        lr = learning_rate(session.config.optimiser, done, session.iteration_steps)
        report = training_step(training, share, batch, session.videos, lr, session.device)
        for name, value in report.numbers.items():
            training.epoch_sums[name] = training.epoch_sums.get(name, 0.0) + value
        training.batch, training.step = training.batch + 1, training.step + 1
        now = time.perf_counter()
        speed, clock = len(share.whole) / (now - clock), now
        if session.log is not None and (training.step - 1) % session.config.log_steps == 0:
            numbers = {"iteration": float(training.iteration), "lr": lr, "clips_per_second": speed}
            session.log.write(training.step, training.epoch, report.numbers | numbers)
        last = training.batch == session.batches
        if not last and training.step % session.config.checkpoint_steps == 0:
            _save(training, session)
        progress = TrainProgress(training.step, session.total_steps, report.numbers, lr, speed)
        if not last:
            session.on_progress(progress)
    _end_epoch(training, session)
    session.on_progress(progress)


def _epoch_plan(training: XdcTraining, session: _Session) -> list[Share]:
    """The batches of `training.epoch`, of all ranks. Raises AbortError where nothing can be
    learned."""
    config, videos = session.config, session.videos
    trainable_N = usable(videos, training.labels, config) & ~videos.held_out_N
    if not trainable_N.any():
        raise AbortError(f"{videos.dataset}: no video has both a label and what it trains")
    sets = {name: made.labels_N for name, made in training.labels.items()}
    rng = np.random.default_rng((config.seed, training.iteration, training.epoch, 1))
    size = session.batch_clips
    clips = draw_clips(trainable_N, sets, session.batches * size, config, rng)
    return [Share(clips[first : first + size]) for first in range(0, len(clips), size)]


def _end_epoch(training: XdcTraining, session: _Session) -> None:
    """The held-out loss, whether the iteration is over, a checkpoint."""
    config = session.config
    means = {name: total / session.batches for name, total in training.epoch_sums.items()}
    if means.get("unread_share") == 1:
        raise AbortError(f"{session.videos.dataset}: no picture could be read in a whole epoch")
    held_out = held_out_numbers(training, session.videos, session.loader, session.device)
    training.metrics |= means | held_out
    if session.log is not None:
        numbers = {"iteration": float(training.iteration)}
        session.log.write(training.step, training.epoch, held_out | numbers)
    saturated = is_saturated(training, held_out.get("held_out_loss"))
    training.epoch, training.batch, training.epoch_sums = training.epoch + 1, 0, {}
    over = saturated or training.epoch == config.epochs
    if over:
        training.end_iteration()
        if session.log is not None:
            publish_encoders(session.output, training.iteration, training.model, session.videos)
    due = training.step % config.checkpoint_steps == 0
    if over or due or training.epoch % config.checkpoint_epochs == 0:
        _save(training, session)


def is_saturated(training: XdcTraining, loss: float | None) -> bool:
    """Counts an epoch with this held-out loss; whether it was the last without a better one that
    patience allows. Without held-out videos (None) an iteration never saturates."""
    config = training.model.config
    if loss is None:
        return False
    if loss < training.best_loss * (1 - config.min_improvement):
        training.best_loss, training.bad_epochs = loss, 0
    else:
        training.bad_epochs += 1
    return config.patience is not None and training.bad_epochs >= config.patience


def _save(training: XdcTraining, session: _Session) -> None:
    """Publishes the log, the checkpoint and the card from rank 0; the others wait."""
    if session.log is not None:
        if training.finished and training.step == 0:
            publish_encoders(session.output, training.iteration, training.model, session.videos)
        session.log.publish()
        done = training.iteration > 0 or training.finished
        progress = {
            "encoders": encoder_files(training.iteration) if done else {},
            "step": training.step,
            "total_steps": session.total_steps,
            "iteration": training.iteration,
            "epoch": training.epoch,
            "finished": training.finished,
            "metrics": training.metrics,
        }
        checkpoints.save_checkpoint(
            session.output,
            training.step,
            training.state(),
            session.facts | progress,
            keep_last=session.config.keep_last,
            kind="xdc",
        )
        remove_older_encoders(session.output, training.iteration)
    distributed.barrier()
