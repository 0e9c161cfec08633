"""Clip sampling, models, losses, clustering, loops, checkpoints and evaluation."""
