"""The few collective calls of training; on one process they do nothing.

A launcher (Ray Train, torchrun) sets up torch.distributed; this module only asks it.
Shapes: B local rows, N rows of all ranks, D columns.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def world() -> tuple[int, int]:
    """(rank, world size); (0, 1) without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def replicate(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with averaged gradients over ranks, sharing its parameters; itself if alone."""
    if world()[1] == 1:
        return model
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


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


def barrier() -> None:
    """Waits for all ranks."""
    if world()[1] > 1:
        dist.barrier()
