"""The few collective calls of training; on one process they do nothing.

A launcher (training.run_local, training.run_ray, torchrun) sets up torch.distributed; this module
only asks it. The rule by which several ranks make the gradients of one: every rank computes the
same losses over all ranks' clips, each rank sends back the gradient of its own rows, and what the
ranks find for a weight is added up.
Shapes: B local rows, N rows of all ranks, D columns.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_NUMBERS = 25_000_000
"""Gradients sent at once: 100 MB in float32."""


def world() -> tuple[int, int]:
    """(rank, world size); (0, 1) without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def own_share(count: int) -> slice:
    """Which of `count` rows that all ranks hold this one works on: runs whose lengths differ by
    one at most, in the order of ranks."""
    rank, world_size = world()
    return slice(count * rank // world_size, count * (rank + 1) // world_size)


def gather_rows(rows_BD: Tensor) -> tuple[Tensor, slice]:
    """All ranks' rows in the order of ranks, without gradient, and where this rank's lie."""
    rank, world_size = world()
    rows_BD = rows_BD.detach()
    if world_size == 1:
        return rows_BD, slice(0, len(rows_BD))
    own = torch.tensor(len(rows_BD), device=rows_BD.device)
    counts = [torch.zeros_like(own) for _ in range(world_size)]
    dist.all_gather(counts, own)
    lengths = [int(count) for count in counts]
    padded = rows_BD.new_zeros(max(lengths), *rows_BD.shape[1:])
    padded[: len(rows_BD)] = rows_BD
    gathered = [torch.zeros_like(padded) for _ in range(world_size)]
    dist.all_gather(gathered, padded)
    rows_ND = torch.cat([part[:n] for part, n in zip(gathered, lengths, strict=True)])
    first = sum(lengths[:rank])
    return rows_ND, slice(first, first + lengths[rank])


def gather_rows_with_gradient(rows_BD: Tensor) -> tuple[Tensor, slice]:
    """`gather_rows`, through which a rank's own rows get their gradient.

    Right where every rank computes the same loss from the gathered rows: the gradient of the
    gathered rows is then the same on all ranks, and each keeps its part without asking the others.
    """
    gathered_ND, own = gather_rows(rows_BD)
    if world()[1] == 1:
        return rows_BD, own
    if rows_BD.requires_grad:
        rows_ND: Tensor = _OwnRows.apply(rows_BD, gathered_ND, own)
        return rows_ND, own
    return gathered_ND, own


class _OwnRows(torch.autograd.Function):
    """Forward: the gathered rows. Backward: this rank's part of their gradient."""

    @staticmethod
    def forward(ctx: Any, rows_BD: Tensor, gathered_ND: Tensor, own: slice) -> Tensor:
        ctx.own = own
        return gathered_ND.view_as(gathered_ND)

    @staticmethod
    def backward(ctx: Any, *gradients_ND: Tensor) -> tuple[Tensor, None, None]:
        return gradients_ND[0][ctx.own], None, None


def sum_over_ranks(values: Tensor) -> Tensor:
    """The elementwise sum, the same on all ranks; its gradient is summed over them too."""
    if world()[1] == 1:
        return values
    total: Tensor = _Sum.apply(values)
    return total


class _Sum(torch.autograd.Function):
    """All-reduce: the sum's gradient on a rank is that of every rank's use of it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def sum_gradients(model: nn.Module) -> None:
    """Adds up every weight's gradient over the ranks, in place.

    Not DistributedDataParallel: it lays out its buckets anew after the first step, so from three
    ranks on a resumed run would add in another order than one that was never stopped.
    """
    if world()[1] == 1:
        return
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat)
        pieces = torch.split(flat, [gradient.numel() for gradient in bucket])
        for gradient, piece in zip(bucket, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Many small tensors travel as one; bounded, since a bucket is a copy."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and sum(map(Tensor.numel, [*bucket, gradient])) > BUCKET_NUMBERS:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrites the tensors by those of rank 0, so that all ranks start alike."""
    if world()[1] > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def gather_texts(texts: tuple[str, ...]) -> tuple[str, ...]:
    """All ranks' texts in the order of ranks."""
    if world()[1] == 1:
        return texts
    parts: list[tuple[str, ...]] = [()] * world()[1]
    dist.all_gather_object(parts, texts)
    return tuple(text for part in parts for text in part)


def barrier() -> None:
    """Waits for all ranks."""
    if world()[1] > 1:
        dist.barrier()
