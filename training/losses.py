"""The contrastive and the reconstruction losses. A missing modality takes no part: neither positive
nor negative. Those of the clusters are in training.clustering_losses; training.objective weighs
all of them.

Formulas: MCN, arXiv 2104.12671, section 3, and its released code where the two differ.
Shapes: B clips, D embedding, F columns of a reconstruction target.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from training.config import LossConfig
from training.model import McnOutput, Reconstruction, at_least_float32

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
    symmetric, its diagonal false). 0 for an empty batch. With a margin of 0 this is InfoNCE (van
    den Oord et al. 2018) in both directions.
    """
    if len(x_BD) == 0:
        return (x_BD.sum() + y_BD.sum()) * 0.0
    own_BB = torch.eye(len(x_BD), dtype=x_BD.dtype, device=x_BD.device)
    logits_BB = scale * (x_BD @ y_BD.T) - margin * own_BB
    if ignored_BB is not None:
        logits_BB = logits_BB.masked_fill(ignored_BB, -torch.inf)
    target_B = torch.arange(len(x_BD), device=x_BD.device)
    return cross_entropy(logits_BB, target_B) + cross_entropy(logits_BB.T, target_B)


def mil_nce(
    x_BD: Tensor,
    y_BD: Tensor,
    positive_BB: Tensor,
    scale: Tensor | float = 1.0,
    ignored_BB: Tensor | None = None,
) -> Tensor:
    """MIL-NCE (Miech et al., CVPR 2020): any of several right answers will do, a scalar.

    S = scale * x y^T; for each row i, minus the logarithm of the softmax's share of the columns
    j with positive_BB[i, j]; the mean over rows, plus the same with x and y changed. The diagonal
    of `positive_BB` is true. `ignored_BB` marks pairs that are no negatives, see mms; a pair that
    is positive and ignored is positive. With no other positives this is InfoNCE.
    """
    if len(x_BD) == 0:
        return (x_BD.sum() + y_BD.sum()) * 0.0
    similarity_BB = scale * (x_BD @ y_BD.T)
    terms = []
    for logits_BB in (similarity_BB, similarity_BB.T):
        right_B = logits_BB.masked_fill(~positive_BB, -torch.inf).logsumexp(dim=1)
        if ignored_BB is not None:
            logits_BB = logits_BB.masked_fill(ignored_BB & ~positive_BB, -torch.inf)
        terms.append((logits_BB.logsumexp(dim=1) - right_B).mean())
    return terms[0] + terms[1]


def contrastive_loss(
    output: McnOutput,
    config: LossConfig,
    margin: float,
    ignored_BB: Tensor | None = None,
    positive_BB: Tensor | None = None,
) -> dict[str, Tensor]:
    """The configured loss of each pair of modalities over the clips that have both, by
    `mms_x_y`, `nce_x_y` or `mil_nce_x_y`. Only mil_nce reads `positive_BB`, and needs it."""
    losses = {}
    for a, b in PAIRS:
        if a not in output.embeddings or b not in output.embeddings:
            continue
        both_B = output.present[a] & output.present[b]
        ignored = None if ignored_BB is None else ignored_BB[both_B][:, both_B]
        x_BD, y_BD = output.embeddings[a][both_B], output.embeddings[b][both_B]
        if config.contrastive == "mil_nce":
            assert positive_BB is not None
            positive = positive_BB[both_B][:, both_B]
            term = mil_nce(x_BD, y_BD, positive, output.scale, ignored)
        else:
            own = margin if config.contrastive == "mms" else 0.0
            term = mms(x_BD, y_BD, own, output.scale, ignored)
        losses[f"{config.contrastive}_{a}_{b}"] = term
    return losses


def margin_at(step: int, config: LossConfig) -> float:
    """The margin of step `step`, from 0: it grows every 1,000 steps."""
    return float(config.margin * config.margin_growth ** (step // 1000))


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
        squared_B = (weight_BF * at_least_float32(part.prediction_BF - target_BF) ** 2).sum(dim=1)
        known_B = weight_BF.sum(dim=1)
        count = (known_B > 0).sum() if counts is None else counts[name]
        terms.append((squared_B / known_B.clamp(min=1)).sum() / count.clamp(min=1))
    return torch.stack(terms).sum()
