"""What a run minimises: which loss terms there are, and their weights.

L = contrastive_weight * sum over pairs + clustering_weight * L_clu + reconstruction_weight * L_rec
(paper weights: 1, 1, 50). The terms themselves are in training.losses (contrastive,
reconstruction) and training.clustering_losses. Reconstruction is a sum over clips and is taken
part by part in training.steps; what looks at all clips of all ranks is here.
Shapes: N clips of all ranks, D embedding, K clusters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from extractors.errors import UsageError
from training.batches import neighbouring, overlapping
from training.clustering_losses import kmeans_loss, sinkhorn_loss
from training.config import LossConfig, TrainConfig
from training.losses import contrastive_loss, margin_at
from training.microbatches import BatchFacts
from training.model import McnOutput, join
from training.online_clustering import FUSED, OnlineClustering, cluster_statistics


@dataclass(frozen=True)
class JointLosses:
    """The losses that look at all clips of all ranks."""

    terms: dict[str, Tensor]
    """Unweighted scalars by name; `clustering` only once there are clusters."""
    statistics: dict[str, float]
    """Of the clusters, where they were made anew."""


def check_losses(config: TrainConfig) -> None:
    """Raises UsageError for settings that leave nothing to minimise, or do not go together."""
    loss, clustering = config.loss, config.clustering
    if loss.contrastive_weight == loss.clustering_weight == loss.reconstruction_weight == 0:
        raise UsageError(
            "train.loss: contrastive_weight, clustering_weight and reconstruction_weight are all "
            "0; set one above 0"
        )
    joint_kmeans = clustering.method == "kmeans" and clustering.prediction == "joint"
    if loss.clustering_on == "fused" and loss.clustering_weight > 0 and not joint_kmeans:
        raise UsageError(
            f"train.loss.clustering_on = fused with method {clustering.method} and prediction "
            f"{clustering.prediction}: allowed with kmeans and joint; use clustering_on=each"
        )


def joint_losses(
    whole: McnOutput,
    facts: BatchFacts,
    clustering: OnlineClustering,
    config: TrainConfig,
    epoch: int,
    step: int,
) -> JointLosses:
    """The contrastive terms and the clustering loss of step `step` (from 0). Refits and fills
    the queue on the way, so it is called once a step; all ranks call it and come to the same."""
    terms: dict[str, Tensor] = {}
    statistics: dict[str, float] = {}
    if config.loss.contrastive_weight > 0:
        terms |= _contrastive(whole, facts, config.loss, step)
    if config.loss.clustering_weight > 0:
        if config.clustering.method == "sinkhorn":
            terms["clustering"], statistics = _sinkhorn(whole, config, step)
        else:
            terms |= _kmeans(whole, facts, clustering, config, epoch, step)
            statistics = clustering.statistics()
    return JointLosses(terms, statistics)


def weighted(terms: dict[str, Tensor], whole: McnOutput, config: LossConfig) -> Tensor:
    """Their weighted sum; 0, with a gradient of 0, where there are none."""
    if not terms:
        return torch.stack([z_ND.sum() for z_ND in whole.embeddings.values()]).sum() * 0.0
    weights = {"clustering": config.clustering_weight}
    other = config.contrastive_weight
    return torch.stack([weights.get(name, other) * term for name, term in terms.items()]).sum()


def _contrastive(
    whole: McnOutput, facts: BatchFacts, config: LossConfig, step: int
) -> dict[str, Tensor]:
    ignored_NN = overlapping(facts.spans_N3) if config.ignore_overlaps else None
    positive_NN = None
    if config.contrastive == "mil_nce":
        positive_NN = neighbouring(facts.spans_N3, config.mil_clips)
    return contrastive_loss(whole, config, margin_at(step, config), ignored_NN, positive_NN)


def _kmeans(
    whole: McnOutput,
    facts: BatchFacts,
    clustering: OnlineClustering,
    config: TrainConfig,
    epoch: int,
    step: int,
) -> dict[str, Tensor]:
    with torch.no_grad():
        vectors = whole.embeddings | {FUSED: join(whole.embeddings, whole.present)}
    any_N = torch.stack(list(whole.present.values())).any(dim=0)
    queued_N = facts.number_N < config.clustering.queue_clips_per_video
    # the seed is not by rank: every rank must come to the same centroids
    seed = (config.seed, epoch, step)
    assignments = clustering.step(vectors, whole.present | {FUSED: any_N}, queued_N, step, seed)
    if not assignments:
        return {}
    margin = margin_at(step, config.loss)
    prediction = config.clustering.prediction
    return {"clustering": kmeans_loss(whole, assignments, prediction, config.loss, margin)}


def _sinkhorn(whole: McnOutput, config: TrainConfig, step: int) -> tuple[Tensor, dict[str, float]]:
    clustering = config.clustering
    loss, codes = sinkhorn_loss(
        whole, clustering.prediction, clustering.sinkhorn, config.loss.clustering_temperature
    )
    if step % clustering.refit_steps:
        return loss, {}
    statistics: dict[str, float] = {}
    for name, code_NK in codes.items():
        found = cluster_statistics(None, code_NK.argmax(dim=1), code_NK.shape[1])
        suffix = "" if name == FUSED else f"_{name}"
        statistics |= {f"{what}{suffix}": value for what, value in found.items()}
    return loss, statistics
