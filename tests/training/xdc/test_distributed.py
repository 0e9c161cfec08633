"""Two processes make the run of one: batches, batch norm, features, clusters and sums span them."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from training import checkpoints
from training.run_local import train_local
from training.xdc.batch_norm import SpanningBatchNorm, span_ranks
from training.xdc.config import XdcConfig
from training.xdc.loop import train

CPU = torch.device("cpu")
SHAPE = (5, 3, 2, 4, 4)


def normed(norm: nn.Module, rows: torch.Tensor) -> list[torch.Tensor]:
    """Output, and the gradients of a weighted sum of it."""
    rows = rows.clone().requires_grad_()
    found = norm(rows)
    (found * torch.arange(found.numel()).view(found.shape).sin()).sum().backward()
    return [found.detach(), rows.grad]


def data() -> torch.Tensor:
    return 3 + 2 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(4))


def _work(rank: int, folder: str, dataset: str, config: XdcConfig) -> None:
    """One of two ranks: batch norm, of which all five clips are rank 1's, then a run."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    model = nn.Sequential(nn.BatchNorm3d(3, eps=1e-3, momentum=0.2))
    span_ranks(model)
    assert type(model[0]) is SpanningBatchNorm
    results = normed(model, data() if rank else data()[:0])
    if rank:
        results += [model[0].weight.grad, model[0].bias.grad]
        results += [model[0].running_mean, model[0].running_var, model.eval()(data()).detach()]
        torch.save(results, f"{folder}/norm.pt")
    train(dataset, f"{folder}/two", config, CPU)
    dist.barrier()
    dist.destroy_process_group()


def final_state(run: Path) -> dict:
    card = checkpoints.read_card(str(run), "xdc")
    assert card is not None
    assert card["finished"]
    return checkpoints.load_state(str(run), card, CPU)


def rows(run: Path) -> list[dict[str, float]]:
    clocks = ("clips_per_second", "clustering_seconds")
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in clocks} for line in lines]


def assert_close(found: Path, expected: Path) -> None:
    """One rounding of float32 is 6e-8, and a step's were seen to make 1e-6 of a loss; a term of
    the wrong weight moves a loss by 1e-2. The pseudo-labels must be the very same."""
    for row, other in zip(rows(found), rows(expected), strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-4)
    one, other = final_state(found), final_state(expected)
    for name, value in one["before"].items():
        assert torch.equal(value, other["before"][name])
    for name, value in one["model"].items():
        torch.testing.assert_close(value, other["model"][name], rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def config(make_config) -> XdcConfig:
    """Five clips a batch: two for one rank, three for the other."""
    return make_config(
        method="mdc",
        epochs=1,
        sampling__batch_clips=5,
        sampling__clips_per_video=2,
        optimiser={"name": "sgd", "lr": 0.01, "warmup_steps": 0},
    )


@pytest.fixture(scope="module")
def folder(dataset: str, config: XdcConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs `one` and `two`, by as many processes, and norm.pt."""
    folder: Path = tmp_path_factory.mktemp("xdc")
    train(dataset, f"{folder}/one", config, CPU)
    mp.spawn(_work, (str(folder), dataset, config), nprocs=2)
    return folder


def test_batch_norm_with_an_empty_rank_is_torchs(folder: Path) -> None:
    norm = nn.BatchNorm3d(3, eps=1e-3, momentum=0.2)
    expected = normed(norm, data())
    expected += [norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]
    expected.append(norm.eval()(data()).detach())
    for found, value in zip(torch.load(folder / "norm.pt"), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)


def test_two_processes_make_the_run_of_one(folder: Path) -> None:
    assert_close(folder / "two", folder / "one")
    assert checkpoints.read_card(str(folder / "two"), "xdc")["world_size"] == 2


@pytest.mark.slow
def test_workers_have_processes_that_read(
    folder: Path, dataset: str, config: XdcConfig, tmp_path: Path
) -> None:
    """`--workers 2`, each with a loader's process: four that start, and none that stays."""
    sampling = config.sampling.model_copy(update={"loader_workers": 1})
    reading, steps = config.model_copy(update={"sampling": sampling}), list[int]()
    train_local(
        dataset, str(tmp_path), reading, CPU, 2, lambda p: steps.append(p.step), train=train
    )
    assert steps == list(range(1, len(steps) + 1))
    assert_close(tmp_path, folder / "one")
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_ray_makes_the_run_of_one(
    folder: Path, dataset: str, config: XdcConfig, tmp_path: Path
) -> None:
    from training.run_ray import train_ray

    train_ray(dataset, str(tmp_path / "ray"), config, CPU, 2, train=train)
    assert_close(tmp_path / "ray", folder / "one")
