"""training.distributed: one, two and four processes train alike."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from training import distributed
from training.batch_norm import RankedBatchNorm, span_ranks
from training.checkpoints import load_state, read_card
from training.config import TrainConfig
from training.davenet import MaskedBatchNorm
from training.loop import train

CPU = torch.device("cpu")
LENGTHS = (3, 0, 1, 2)
"""Rows of each rank."""


def whole_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """(6, 5, 8) inputs and how many of their 8 steps are valid."""
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 5, 8))).float()
    return rows, torch.tensor([8, 3, 5, 1, 8, 2])


def own_rows(rank: int) -> slice:
    first = sum(LENGTHS[:rank])
    return slice(first, first + LENGTHS[rank])


def norm_and_gather(norm: MaskedBatchNorm, rows: slice) -> dict[str, torch.Tensor]:
    """Normalises rows of the whole batch, takes a loss over all ranks' results, and its gradients.

    The loss multiplies rows with each other, so that no part of it is one rank's own affair.
    """
    x, steps = whole_batch()
    x, valid = x[rows].requires_grad_(), torch.arange(8) < steps[rows, None]
    y = norm(x, valid)
    every, own = distributed.gather_rows_with_gradient(y.flatten(1))
    assert torch.equal(every[own], y.flatten(1))
    (every @ every.T).sin().sum().backward()
    distributed.sum_gradients(norm)
    return {
        "y": y.detach(),
        "x_gradient": x.grad,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        "mean": norm.running_mean,
        "var": norm.running_var,
    }


def _work(rank: int, world_size: int, folder: str, dataset: str, configs: dict) -> None:
    """What each process runs."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store{world_size}", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    if world_size == 4:
        gathered, own = distributed.gather_rows(torch.full((LENGTHS[rank], 2), float(rank)))
        results = {"gathered": gathered, "own": gathered[own]}
        norm = torch.nn.Sequential(MaskedBatchNorm(5))
        span_ranks(norm)
        assert type(norm[0]) is RankedBatchNorm
        torch.save(results | norm_and_gather(norm[0], own_rows(rank)), f"{folder}/rows{rank}.pt")
    for name, config in configs.items():
        train(dataset, f"{folder}/{name}{world_size}", config, CPU)
    dist.barrier()
    dist.destroy_process_group()


OFFICIAL = {
    "model__learn_temperature": False,
    "model__similarity": "raw",
    "model__mask_padding": False,
    "loss__mask_missing": False,
    "loss__detach_targets": False,
    "loss__ignore_overlaps": False,
    "clustering__metric": "cosine_mean",
    "clustering__empty_clusters": "zero",
    "clustering__start": "random",
    "clustering__partial_queue": False,
    "clustering__keep_centroids": False,
    "sampling__audio_frames": 300,
}


@pytest.fixture(scope="module")
def configs(make_config: Callable[..., TrainConfig]) -> dict[str, TrainConfig]:
    """Six videos a batch, so that four ranks have one or two each; overlaps, queue, clusters."""
    plain = {
        "epochs": 3,
        "sampling__batch_videos": 6,
        "sampling__clips_per_video": 3,
        "model__learn_temperature": True,
        "clustering__queue_clips_per_video": 2,
    }
    sinkhorn = {
        "epochs": 2,
        "loss__contrastive": "mil_nce",
        "clustering__method": "sinkhorn",
        "clustering__prediction": "swapped",
        "clustering__sinkhorn__head_dim": 6,
    }
    each = {
        "epochs": 2,
        "loss__contrastive": "nce",
        "clustering__prediction": "all",
        "clustering__metric": "euclidean",
        "clustering__empty_clusters": "split",
        "clustering__minibatch_rows": 16,
    }
    return {
        "plain": make_config(**plain),
        "parts": make_config(optimiser__microbatch_clips=7, **plain),
        "sinkhorn": make_config(**{**plain, **sinkhorn}),
        "sinkhorn_parts": make_config(optimiser__microbatch_clips=7, **{**plain, **sinkhorn}),
        "each": make_config(**{**plain, **each}),
        "official": make_config(**{**plain, **OFFICIAL}),
    }


@pytest.fixture(scope="module")
def folder(dataset: str, configs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("distributed")
    for name, config in configs.items():
        train(dataset, f"{folder}/{name}1", config, CPU)
    for world_size in (2, 4):
        mp.spawn(_work, (world_size, str(folder), dataset, configs), nprocs=world_size)
    return folder


def rows_of(run: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "clips_per_second"} for line in lines]


def state_of(run: Path) -> dict:
    card = read_card(str(run))
    assert card is not None
    assert card["finished"]
    return load_state(str(run), card, CPU)


@pytest.mark.slow
@pytest.mark.timeout(900)  # most of it is the processes' imports
@pytest.mark.parametrize(
    "name", ["plain", "parts", "sinkhorn", "sinkhorn_parts", "each", "official"]
)
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_train_as_one_process(folder: Path, name: str, world_size: int) -> None:
    """Same losses, gradient norms, weights, centroids and queue, but for the order of sums.

    Seen: 6e-7 of a loss, 7e-7 of a weight (one rounding of float32: 6e-8); the bounds leave room
    for other processors. A rank's own negatives or statistics would move a loss by 1e-2.

    `official` counts padded steps in batch norm's statistics: torch sums those thousands of rows
    in one float32 a channel, to 1e-5 of the variance where ranks sum blocks of them (2e-7).
    Seen: 1.7e-5 of a gradient's norm.
    """
    room = 10 if name == "official" else 1
    alone, ranked = folder / f"{name}1", folder / f"{name}{world_size}"
    for a, b in zip(rows_of(alone), rows_of(ranked), strict=True):
        assert b == pytest.approx(a, rel=1e-5 * room)
    for part in ("model", "clustering"):
        expected = state_of(alone)[part]
        for key, value in state_of(ranked)[part].items():
            torch.testing.assert_close(value, expected[key], rtol=1e-5 * room, atol=2e-6 * room)
    assert read_card(str(ranked))["world_size"] == world_size


@pytest.mark.slow
def test_rows_are_gathered_in_the_order_of_ranks(folder: Path) -> None:
    for rank, length in enumerate(LENGTHS):
        result = torch.load(folder / f"rows{rank}.pt", weights_only=True)
        assert result["gathered"][:, 0].tolist() == [0, 0, 0, 2, 3, 3]
        assert result["own"].shape == (length, 2)
        assert (result["own"] == rank).all()


@pytest.mark.slow
def test_batch_norm_and_gradients_span_the_ranks(folder: Path) -> None:
    """Four ranks of 3, 0, 1 and 2 rows against one process with all six."""
    expected = norm_and_gather(MaskedBatchNorm(5), slice(0, 6))
    for rank in range(4):
        result = torch.load(folder / f"rows{rank}.pt", weights_only=True)
        for name in ("y", "x_gradient"):
            torch.testing.assert_close(
                result[name], expected[name][own_rows(rank)], rtol=1e-4, atol=1e-4
            )
        for name in ("weight", "bias", "mean", "var"):
            torch.testing.assert_close(result[name], expected[name], rtol=1e-4, atol=1e-4)


def test_alone_nothing_is_sent() -> None:
    rows_BD = torch.ones(3, 2, requires_grad=True)
    gathered, own = distributed.gather_rows(rows_BD)
    assert torch.equal(gathered[own], rows_BD)
    assert not gathered.requires_grad
    assert distributed.gather_rows_with_gradient(rows_BD)[0] is rows_BD
    assert distributed.sum_over_ranks(rows_BD) is rows_BD
    assert distributed.gather_texts(("a",)) == ("a",)
    assert distributed.world() == (0, 1)


def test_buckets_are_bounded_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "BUCKET_NUMBERS", 10)
    tensors = [torch.zeros(n) for n in (4, 6, 1, 25, 3)]
    sizes = [[len(t) for t in bucket] for bucket in distributed._buckets(tensors)]
    assert sizes == [[4, 6], [1], [25], [3]]
    assert list(distributed._buckets([])) == []
