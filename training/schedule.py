"""The learning rate: linear warm-up, then cosine to zero (MCN released code)."""

import math

import torch
from torch.optim.lr_scheduler import LambdaLR

from training.config import OptimiserConfig


def make_optimiser(model: torch.nn.Module, config: OptimiserConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over all parameters, the learning rate at its peak."""
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    # fused: one pass over the weights, also on a CPU
    return kind(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)


def make_schedule(
    optimiser: torch.optim.Optimizer, warmup_steps: int, total_steps: int
) -> LambdaLR:
    """`lr_factor` of every step. Step it after the optimiser, once a training step."""
    return LambdaLR(optimiser, lambda step: lr_factor(step, warmup_steps, total_steps))


def lr_factor(step: int, warmup_steps: int, total_steps: int) -> float:
    """The share of the peak learning rate that step `step` (from 0) uses.

    (step + 1) / warm-up while warming up, then half a cosine from 1 to 0 at `total_steps`. The
    warm-up is cut to a tenth of all steps, so that a short run still trains.
    """
    warmup = min(warmup_steps, total_steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
