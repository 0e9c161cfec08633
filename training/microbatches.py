"""A batch in parts, and the parts of all ranks as one batch.

How gradients stay those of one process with the whole batch is said in training.distributed; how
they stay those of one pass, in training.steps.training_step.
Shapes: B clips of this rank, N clips of all ranks, P clips of a part, D columns of an embedding or
a projection, M modalities.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from training.batch_norm import resting_statistics
from training.batches import ClipBatch, TrainBatch
from training.clips import MODALITIES
from training.distributed import gather_rows, gather_rows_with_gradient, world
from training.model import McnOutput


@dataclass(frozen=True)
class Part:
    """One micro-batch of this rank."""

    index_P: Tensor
    """Its rows in this rank's batch."""
    inputs: ClipBatch


@dataclass(frozen=True)
class BatchFacts:
    """What is known of all ranks' clips before they are embedded."""

    spans_N3: Tensor
    """float64, see TrainBatch.spans."""
    number_N: Tensor
    """int64: number of the clip in its video."""
    present: dict[str, Tensor]
    """(N,) bool."""

    def counts(self) -> dict[str, Tensor]:
        """How many clips have a modality, scalars."""
        return {name: mask_N.sum() for name, mask_N in self.present.items()}


def gather_facts(batch: TrainBatch, device: torch.device) -> BatchFacts:
    """The facts of all ranks' clips, in the order of ranks, by one collective call."""
    masks_BM = torch.stack([batch.inputs.present[name] for name in MODALITIES], dim=1)
    columns = [batch.spans(), batch.numbers()[:, None].double(), masks_BM.double()]
    facts_N, _ = gather_rows(torch.cat(columns, dim=1).to(device))
    spans_N3, number_N1, masks_NM = torch.split(facts_N, [3, 1, len(MODALITIES)], dim=1)
    present = {name: mask_N > 0 for name, mask_N in zip(MODALITIES, masks_NM.T, strict=True)}
    return BatchFacts(spans_N3, number_N1[:, 0].long(), present)


def deal(batch: TrainBatch, number: int, device: torch.device) -> list[Part]:
    """The micro-batches of this rank, in the same order on all ranks; a rank may have none of
    a micro-batch's clips. Alone, empty ones are left out."""
    if number == 1:
        return [Part(torch.arange(len(batch.keys), device=device), batch.inputs.to(device))]
    turn_B = batch.turns() % number
    indices = [(turn_B == i).nonzero()[:, 0] for i in range(number)]
    return [
        Part(index_P.to(device), batch.inputs.rows(index_P).to(device))
        for index_P in indices
        if len(index_P) or world()[1] > 1
    ]


@contextmanager
def embedding_pass(model: nn.Module, cached: bool) -> Iterator[None]:
    """Where the clips will come by again, nothing is kept for a backward pass, and batch norm's
    running statistics wait for the second time."""
    if not cached:
        yield
        return
    with torch.no_grad(), resting_statistics(model):
        yield


def merge(parts: Sequence[Part], outputs: Sequence[McnOutput]) -> McnOutput:
    """The parts' rows in the order of this rank's batch."""
    if len(parts) == 1:
        return outputs[0]
    place_B = torch.cat([part.index_P for part in parts]).argsort()
    embeddings, projections, present = (
        {name: torch.cat([rows[name] for rows in made])[place_B] for name in made[0]}
        for made in (
            [o.embeddings for o in outputs],
            [o.projections for o in outputs],
            [o.present for o in outputs],
        )
    )
    return replace(outputs[0], embeddings=embeddings, projections=projections, present=present)


def as_leaves(output: McnOutput, learn_scale: bool) -> McnOutput:
    """The same numbers, ready to receive their gradients."""
    embeddings, projections, prototypes = (
        {name: rows.detach().clone().requires_grad_() for name, rows in group.items()}
        for group in (output.embeddings, output.projections, output.prototypes)
    )
    return replace(
        output,
        embeddings=embeddings,
        projections=projections,
        prototypes=prototypes,
        scale=output.scale.detach().clone().requires_grad_(learn_scale),
    )


def carry(again: McnOutput, leaves: McnOutput, part: Part, last: bool) -> Tensor:
    """A scalar whose gradient by `again`'s rows is what the leaves have received."""
    terms = [torch.zeros((), device=again.scale.device)]
    for made, cached in (
        (again.embeddings, leaves.embeddings),
        (again.projections, leaves.projections),
    ):
        for name, rows_PD in made.items():
            gradient_BD = cached[name].grad
            if gradient_BD is not None:  # None: no loss looks at it
                terms.append((rows_PD * gradient_BD[part.index_P]).sum())
    if last:  # what has no parts: once
        whole = [(again.scale, leaves.scale)]
        whole += [(again.prototypes[name], leaves.prototypes[name]) for name in again.prototypes]
        for made_whole, leaf in whole:
            if leaf.grad is not None:
                terms.append((made_whole * leaf.grad).sum())
    return torch.stack(terms).sum()


def gather_output(output: McnOutput, facts: BatchFacts) -> McnOutput:
    """The rows of all ranks, in the order of ranks, through which gradients flow back."""
    columns = [*output.embeddings.values(), *output.projections.values()]
    z_ND, _ = gather_rows_with_gradient(torch.cat(columns, dim=1))
    blocks = iter(torch.split(z_ND, [rows.shape[1] for rows in columns], dim=1))
    return replace(
        output,
        embeddings={name: next(blocks) for name in output.embeddings},
        projections={name: next(blocks) for name in output.projections},
        present={name: facts.present[name] for name in output.embeddings},
        scale=_shared(output.scale),
        prototypes={name: _shared(rows_KH) for name, rows_KH in output.prototypes.items()},
    )


def _shared(values: Tensor) -> Tensor:
    """The same numbers with a share of the gradient: every rank finds the whole of it, and they
    will be added up."""
    size = world()[1]
    return values if size == 1 else values.detach() + (values - values.detach()) / size
