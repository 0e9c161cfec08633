"""The losses of the clusters: a modality is made to predict the cluster of the same clip's other
vectors. K-means centroids or Sinkhorn codes; joint, swapped, own or all (training.config).

Formulas: MCN, arXiv 2104.12671, section 3, its released code, and for the Sinkhorn variants its
ablation scripts; codes as in SwAV (Caron et al. 2020).
Shapes: N clips of all ranks, D embedding, K clusters or prototypes, H head.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, one_hot

from training.config import LossConfig, SinkhornConfig
from training.model import McnOutput, join
from training.online_clustering import ABSENT, FUSED, Assignment


def prediction_pairs(prediction: str, modalities: Sequence[str]) -> list[tuple[str, str]]:
    """(whose clusters, which modality predicts them): see ClusteringConfig.prediction."""
    if prediction == "joint":
        return [(FUSED, name) for name in modalities]
    pairs = [(source, name) for source in modalities for name in modalities]
    if prediction == "swapped":
        return [(source, name) for source, name in pairs if source != name]
    return [(s, name) for s, name in pairs if s == name] if prediction == "own" else pairs


def cluster_cross_entropy(
    x_ND: Tensor, centroids_KD: Tensor, labels_N: Tensor, margin: float, scale: float = 1.0
) -> Tensor:
    """l(x): mean cross-entropy of scale * x C^T - margin * onehot(z) against z, a scalar.

    The centroids carry no gradient. 0 for an empty batch.
    """
    if len(x_ND) == 0:
        return x_ND.sum() * 0.0
    logits_NK = scale * (x_ND @ centroids_KD.detach().to(x_ND.dtype).T)
    own_NK = one_hot(labels_N, len(centroids_KD)).to(logits_NK.dtype)
    return cross_entropy(logits_NK - margin * own_NK, labels_N)


def kmeans_loss(
    output: McnOutput,
    assignments: Mapping[str, Assignment],
    prediction: str,
    config: LossConfig,
    margin: float,
) -> Tensor:
    """Pulls each modality of a clip to the centroid of a vector of the same clip.

    joint, on each: [l(v) + l(a) + l(t)] / 3 with the centroids of the fused vector, every l over
    the clips that have the modality; with fewer modalities still divided by 3, as released. on
    fused: l(m), over clips that have any. Otherwise l with another modality's centroids and
    labels, over the clips that have both; the sum over the pairs divided by 3. Sets of clusters
    that have not started take no part.
    """
    normalised = output.unit_length
    scale = 1 / config.clustering_temperature if normalised else 1.0
    vectors, present = dict(output.embeddings), dict(output.present)
    pairs = prediction_pairs(prediction, list(vectors))
    share = 1 / 3
    if config.clustering_on == "fused":
        vectors[FUSED] = join(output.embeddings, output.present)
        present[FUSED] = torch.stack(list(output.present.values())).any(dim=0)
        pairs, share = [(FUSED, FUSED)], 1.0
    terms = []
    for source, name in pairs:
        if source in assignments:
            found = assignments[source]
            both_N = present[name] & (found.labels_N != ABSENT)
            x_ND, labels_N = vectors[name][both_N], found.labels_N[both_N]
            terms.append(cluster_cross_entropy(x_ND, found.centroids_KD, labels_N, margin, scale))
    return torch.stack(terms).sum() * share


@torch.no_grad()
def sinkhorn_codes(similarity_NK: Tensor, epsilon: float, iterations: int) -> Tensor:
    """(N, K) codes: each row sums to 1, and all columns to nearly the same.

    exp(S / epsilon), its columns and its rows scaled in turn to sums of N / K and 1
    (Sinkhorn-Knopp, the last time the rows), in the logarithm, so that nothing overflows.
    """
    log_NK = similarity_NK / epsilon
    for _ in range(iterations):
        log_NK = log_NK - log_NK.logsumexp(dim=0, keepdim=True)
        log_NK = log_NK - log_NK.logsumexp(dim=1, keepdim=True)
    return log_NK.exp()


def sinkhorn_loss(
    output: McnOutput, prediction: str, config: SinkhornConfig, temperature: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, codes): -1/3 times the sum over pairs (m, m') of the mean of sum_k Q_m log p_m'.

    S_m = h_m P_m^T with unit h and P, p_m = softmax(S_m / temperature), Q_m the Sinkhorn codes of
    S_m over the clips that have m, without gradient. joint: one Q, of the mean of S over the
    modalities that a clip has. hard: Q is one-hot at its largest entry. A pair's mean is over the
    clips that have both. The codes are (clips that have m, K), by m.
    """
    logits = {n: h_NH @ output.prototypes[n].T for n, h_NH in output.projections.items()}
    present = dict(output.present)
    sources = dict(logits)
    if prediction == "joint":
        sources = {FUSED: join(logits, output.present)}
        present[FUSED] = torch.stack(list(output.present.values())).any(dim=0)
    codes, targets = {}, {}
    for name, source_NK in sources.items():
        there_N = present[name]
        code = sinkhorn_codes(source_NK[there_N], config.epsilon, config.iterations)
        codes[name] = code
        if config.labels == "hard":
            code = one_hot(code.argmax(dim=1), code.shape[1]).to(code.dtype)
        targets[name] = torch.zeros_like(source_NK)
        targets[name][there_N] = code
    terms = []
    for source, name in prediction_pairs(prediction, list(logits)):
        both_N = present[source] & present[name]
        log_p_NK = log_softmax(logits[name] / temperature, dim=1)
        term_N = -(targets[source] * log_p_NK).sum(dim=1) * both_N
        terms.append(term_N.sum() / both_N.sum().clamp(min=1))
    return torch.stack(terms).sum() / 3, codes
