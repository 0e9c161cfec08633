"""The three losses of MCN. A missing modality takes no part: neither positive nor negative.

Formulas: MCN, arXiv 2104.12671, section 3, and its released code where the two differ.
Shapes: B clips, D embedding, K clusters, F columns of a reconstruction target.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from training.config import LossConfig
from training.model import McnOutput, Reconstruction, join

PAIRS = (("text", "video"), ("audio", "text"), ("audio", "video"))


def mms(
    x_BD: Tensor,
    y_BD: Tensor,
    margin: float,
    scale: Tensor | float = 1.0,
    ignored_BB: Tensor | None = None,
) -> Tensor:
    """Masked margin softmax (Ilharco et al., CoNLL 2019) with a constant margin, a scalar.

    S = scale * x y^T, S' = S - margin on the diagonal; the sum of the mean cross-entropies of the
    diagonal over rows and over columns. `ignored_BB` marks pairs that are no negatives (bool,
    symmetric, its diagonal false). 0 for an empty batch.
    """
    if len(x_BD) == 0:
        return (x_BD.sum() + y_BD.sum()) * 0.0
    own_BB = torch.eye(len(x_BD), dtype=x_BD.dtype, device=x_BD.device)
    logits_BB = scale * (x_BD @ y_BD.T) - margin * own_BB
    if ignored_BB is not None:
        logits_BB = logits_BB.masked_fill(ignored_BB, -torch.inf)
    target_B = torch.arange(len(x_BD), device=x_BD.device)
    return cross_entropy(logits_BB, target_B) + cross_entropy(logits_BB.T, target_B)


def contrastive_loss(
    output: McnOutput, margin: float, ignored_BB: Tensor | None = None
) -> dict[str, Tensor]:
    """MMS of each pair of modalities over the clips that have both, by `mms_x_y`."""
    losses = {}
    for a, b in PAIRS:
        if a not in output.embeddings or b not in output.embeddings:
            continue
        both_B = output.present[a] & output.present[b]
        ignored = None if ignored_BB is None else ignored_BB[both_B][:, both_B]
        x_BD, y_BD = output.embeddings[a][both_B], output.embeddings[b][both_B]
        losses[f"mms_{a}_{b}"] = mms(x_BD, y_BD, margin, output.scale, ignored)
    return losses


def cluster_cross_entropy(
    x_BD: Tensor, centroids_KD: Tensor, labels_B: Tensor, margin: float, scale: float = 1.0
) -> Tensor:
    """l(x): mean cross-entropy of scale * x C^T - margin * onehot(z) against z, a scalar.

    The centroids carry no gradient. 0 for an empty batch.
    """
    if len(x_BD) == 0:
        return x_BD.sum() * 0.0
    logits_BK = scale * (x_BD @ centroids_KD.detach().T)
    own_BK = one_hot(labels_B, len(centroids_KD)).to(logits_BK.dtype)
    logits_BK = logits_BK - margin * own_BK
    return cross_entropy(logits_BK, labels_B)


def clustering_loss(
    output: McnOutput, centroids_KD: Tensor, labels_B: Tensor, config: LossConfig, scale: float
) -> Tensor:
    """Pulls each modality of a clip to the centroid of its fused vector.

    each: [l(v) + l(a) + l(t)] / 3, every l over the clips that have the modality; with fewer
    modalities still divided by 3, as released. fused: l(m), over clips that have any.
    """
    margin = config.margin
    if config.clustering_on == "fused":
        fused_BD = join(output.embeddings, output.present)
        any_B = torch.stack(list(output.present.values())).any(dim=0)
        return cluster_cross_entropy(fused_BD[any_B], centroids_KD, labels_B[any_B], margin, scale)
    terms = [
        cluster_cross_entropy(z_BD[there_B], centroids_KD, labels_B[there_B], margin, scale)
        for z_BD, there_B in zip(output.embeddings.values(), output.present.values(), strict=True)
    ]
    return torch.stack(terms).sum() / 3


def reconstruction_loss(
    reconstructions: Mapping[str, Reconstruction],
    detach_targets: bool,
    counts: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Sum over modalities of the mean over clips of the mean squared error over columns.

    Columns and clips of weight 0 are left out of both means. Without the weight of 50. Where the
    clips are a part of a batch, `counts` (a scalar a modality) are the known clips of all of it:
    the parts' losses then add up to the batch's.
    """
    terms = []
    for name, part in reconstructions.items():
        target_BF = part.target_BF.detach() if detach_targets else part.target_BF
        weight_BF = part.weight_BF.expand_as(target_BF)
        squared_B = (weight_BF * (part.prediction_BF - target_BF).float() ** 2).sum(dim=1)
        known_B = weight_BF.sum(dim=1)
        count = (known_B > 0).sum() if counts is None else counts[name]
        terms.append((squared_B / known_B.clamp(min=1)).sum() / count.clamp(min=1))
    return torch.stack(terms).sum()
