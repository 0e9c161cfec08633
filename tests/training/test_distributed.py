"""training.distributed: two processes train as one."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from training import distributed
from training.checkpoints import load_state, read_card
from training.config import TrainConfig
from training.loop import train

CPU = torch.device("cpu")


def _work(rank: int, folder: str, dataset: str, config: TrainConfig) -> None:
    """What each process runs: gathers uneven rows, then trains and saves its own weights."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    rows_BD = torch.full((1 + 2 * rank, 2), float(rank))
    gathered, own = distributed.gather_rows(rows_BD)
    torch.save({"gathered": gathered, "own": gathered[own]}, f"{folder}/rows{rank}.pt")
    seen: list[int] = []
    train(dataset, f"{folder}/run", config, CPU, lambda progress: seen.append(progress.step))
    torch.save(seen, f"{folder}/steps{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(dataset: str, make_config, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("distributed")
    mp.spawn(_work, (str(folder), dataset, make_config()), nprocs=2)
    return folder


@pytest.mark.slow
def test_rows_are_gathered_in_the_order_of_ranks(folder: Path) -> None:
    for rank in range(2):
        result = torch.load(folder / f"rows{rank}.pt", weights_only=True)
        assert result["gathered"][:, 0].tolist() == [0, 1, 1, 1]
        assert result["own"].shape == (1 + 2 * rank, 2)
        assert (result["own"] == rank).all()


@pytest.mark.slow
def test_two_processes_make_one_run(folder: Path) -> None:
    card = read_card(str(folder / "run"))
    assert card is not None
    assert (card["world_size"], card["step"], card["finished"]) == (2, 4, True)
    steps = [torch.load(folder / f"steps{rank}.pt", weights_only=True) for rank in range(2)]
    assert steps == [[1, 2, 3, 4]] * 2  # 16 videos, 8 a rank, 4 a batch, 2 epochs
    state = load_state(str(folder / "run"), card, CPU)
    assert int(state["clustering"]["queue.pushed"]) > 4 * 4 * 1  # rows of both ranks


def test_alone_nothing_is_gathered() -> None:
    rows_BD = torch.ones(3, 2)
    gathered, own = distributed.gather_rows(rows_BD)
    assert torch.equal(gathered[own], rows_BD)
    assert distributed.world() == (0, 1)
