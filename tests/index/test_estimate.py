import pytest

from index.config import IndexConfig
from index.estimate import index_cost, num_clips
from index.factory import choose_factory, estimated_bytes
from pipeline.cli.estimate import show_learning
from pipeline.estimate import Corpus
from training.config import ModelConfig, TrainConfig
from training.estimate import TrainingCost, forward_gflop

TRAIN = TrainConfig(model=ModelConfig(embedding_dim=32, audio_widths=(8,), audio_blocks=1))
WIDTHS = (16, 40, 12)


def test_an_index_by_hand() -> None:
    cost = index_cost(IndexConfig(factory="Flat"), TRAIN, WIDTHS, 1000)
    assert cost.embedding_bytes == 1000 * 4 * 32 * 4
    assert cost.bytes == estimated_bytes("Flat", 1000, 32)
    assert cost.bytes >= 1000 * 32 * 4
    assert cost.gflop == pytest.approx(1000 * forward_gflop(TRAIN, WIDTHS, decoders=False))


@pytest.mark.parametrize("factory", ["NSG32,Flat", "IDMap,Flat"])
def test_a_type_whose_bytes_are_not_known_is_said_to_be_such(
    factory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = index_cost(IndexConfig(factory=factory), TRAIN, WIDTHS, 1000)
    assert cost.bytes is None
    assert cost.embedding_bytes == 1000 * 4 * 32 * 4
    show_learning(TrainingCost(1, 10, 40.0, 1.0, None), cost)
    assert f"not estimated for {factory}" in capsys.readouterr().out


def test_auto_is_what_the_factory_would_pick() -> None:
    config = IndexConfig(memory_budget=2_000_000)
    cost = index_cost(config, TRAIN, WIDTHS, 50_000)
    choice = choose_factory(
        50_000, 32, "cosine", memory_budget=2_000_000, search_ms_budget=config.search_ms_budget
    )
    assert (cost.factory, cost.reason) == (choice.factory, choice.reason)
    assert cost.bytes <= 2_000_000


def test_clips_are_segments_or_windows() -> None:
    spoken, silent = (Corpus(videos=2, hours=1.0, segments=count) for count in (77, 0))
    assert num_clips(spoken, IndexConfig()) == 77
    assert num_clips(silent, IndexConfig()) == 360
    assert num_clips(silent, IndexConfig(overlap=5.0)) == 720
    assert num_clips(spoken, IndexConfig(clips="windows")) == 360
