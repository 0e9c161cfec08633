import faiss
import numpy as np
import pytest

from extractors.errors import UsageError
from index.construct import add_vectors, train_index
from index.factory import (
    COARSE_GRAPH_FROM,
    EXACT_BELOW,
    candidate_factories,
    choose_factory,
    estimated_bytes,
    given_factory,
    num_lists,
)

GB = 10**9


def choose(count: int, memory: int = 100 * GB, ms: float = 10.0, dimension: int = 256):
    return choose_factory(count, dimension, "cosine", memory_budget=memory, search_ms_budget=ms)


@pytest.mark.parametrize(
    "factory",
    [
        *("Flat", "SQ8", "SQfp16", "PQ4x4", "HNSW16", "HNSW32,SQ8", "PCA16,HNSW8", "PCAR8,SQ8"),
        *("IVF16,Flat", "IVF16,SQ8", "IVF16,SQ4", "IVF16,PQ4x4", "IVF16_HNSW16,Flat"),
        *("PCA16,IVF16,SQ8", "OPQ2_8,IVF16,PQ2x4", "IVF16,PQ2x4,RFlat", "IVF16,PQ4x4fs"),
    ],
)
def test_estimated_bytes_are_within_10_per_cent_of_the_file(factory: str) -> None:
    x_ND = np.random.default_rng(0).standard_normal((4000, 32)).astype(np.float32)
    index = add_vectors(train_index(factory, 32, "dot", x_ND[:600]), [x_ND])
    size = len(faiss.serialize_index(index))
    assert estimated_bytes(factory, 4000, 32, "dot") == pytest.approx(size, rel=0.1)


def test_few_vectors_are_searched_exactly_whatever_the_budgets() -> None:
    assert choose(EXACT_BELOW - 1, memory=1, ms=1e-6).factory == "Flat"
    assert choose(EXACT_BELOW, ms=1).factory != "Flat"


def test_exact_search_is_kept_while_it_meets_both_budgets() -> None:
    assert choose(100_000, ms=1000).factory == "Flat"
    assert choose(100_000, ms=10).factory == "HNSW32"


def test_less_memory_takes_smaller_codes() -> None:
    sizes, factories = [], []
    for memory in (100 * GB, 1 * GB, GB * 2 // 5, GB // 5):
        choice = choose(2_000_000, memory=memory, ms=100)
        factories.append(choice.factory)
        sizes.append(next(c.bytes for c in choice.candidates if c.factory == choice.factory))
        assert sizes[-1] <= memory
    assert sizes == sorted(sizes, reverse=True)
    assert factories[:2] == ["IVF4096,Flat", "IVF4096,SQ8"]


def test_tens_of_millions_find_their_lists_with_a_graph() -> None:
    factories = candidate_factories(4 * COARSE_GRAPH_FROM, 256, "cosine")
    approximate = [factory for factory in factories if factory != "Flat"]
    assert all("IVF65536_HNSW32" in factory for factory in approximate)
    assert not any("_HNSW" in f for f in candidate_factories(COARSE_GRAPH_FROM - 1, 256, "l2"))


def test_budgets_that_nothing_meets_are_said_to_be_so() -> None:
    slow = choose(50_000_000, ms=1e-3)
    assert "no candidate is within" in slow.reason
    assert slow.factory == min(slow.candidates, key=lambda c: c.search_ms).factory
    large = choose(50_000_000, memory=1000)
    assert large.factory == min(large.candidates, key=lambda c: c.bytes).factory


@pytest.mark.parametrize("count", [10_000, 123_456, 5_000_000, 20_000_000, 300_000_000])
@pytest.mark.parametrize("dimension", [16, 100, 256, 6144])
def test_faiss_knows_every_candidate(count: int, dimension: int) -> None:
    choice = choose(count, dimension=dimension)
    assert choice.factory in [c.factory for c in choice.candidates]
    assert all(c.bytes > 0 and c.search_ms > 0 for c in choice.candidates)
    assert "\n" not in choice.reason


@pytest.mark.parametrize("count", [1, 10, 1000, 10_000, 1_000_000])
def test_lists_have_enough_vectors_to_be_trained(count: int) -> None:
    lists = num_lists(count)
    assert lists == 1 or count / lists >= 39
    assert lists & (lists - 1) == 0


def test_a_string_given_by_hand_is_taken() -> None:
    choice = given_factory("IVF7,PQ3")
    assert (choice.factory, choice.candidates) == ("IVF7,PQ3", ())


def test_an_unknown_string_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"index.factory = 'Flatt'") as caught:
        estimated_bytes("Flatt", 10, 4)
    assert "\n" not in str(caught.value)


def test_a_type_that_is_not_counted_says_so() -> None:
    with pytest.raises(NotImplementedError, match="IndexNSG"):
        estimated_bytes("NSG16", 10, 16, "l2")


def choose_measured(recalls, memory: int = 100 * GB, ms: float = 10.0, count: int = 2_000_000):
    asked = []

    def code_recall(factory: str) -> float:
        asked.append(factory)
        return recalls(factory)

    choice = choose_factory(
        count, 256, "cosine", memory_budget=memory, search_ms_budget=ms, code_recall=code_recall
    )
    return choice, asked


def test_of_those_that_find_as_much_the_smallest_is_taken() -> None:
    def recalls(factory: str) -> float:
        return 0.997 if factory in ("PCAR128,IVF4096,SQ8", "PCAR96,IVF4096,SQ8") else 0.9

    choice, _ = choose_measured(recalls)
    assert choice.factory == "PCAR96,IVF4096,SQ8"
    assert "recall@10 0.997" in choice.reason
    measured = {c.factory: c.recall for c in choice.candidates}
    assert measured["PCAR96,IVF4096,SQ8"] == 0.997
    assert measured["Flat"] is None  # too slow to be looked at


def test_what_finds_less_is_not_taken_for_its_size() -> None:
    choice, asked = choose_measured(lambda factory: 0.98)
    assert choice.factory == "IVF4096,Flat"
    assert "IVF4096,Flat" not in asked  # nothing to measure
    within, _ = choose_measured(lambda factory: 0.98, memory=GB)
    assert within.factory == min(
        (c for c in within.candidates if c.recall == 0.98), key=lambda c: c.bytes
    ).factory  # fmt: skip


def test_whole_vectors_are_not_kept_where_codes_lose_next_to_nothing() -> None:
    choice, _ = choose_measured(lambda factory: 0.991 if factory.endswith("SQ8") else 0.9)
    assert choice.factory.startswith("PCAR")
    assert choice.factory.endswith("SQ8")
    assert choose_measured(lambda factory: 0.989)[0].factory == "IVF4096,Flat"


def test_product_quantizers_are_measured_where_nothing_else_finds_enough() -> None:
    choice, asked = choose_measured(lambda factory: 0.95, memory=GB // 10)
    assert not any(factory.startswith("OPQ") for factory in asked)
    choice, asked = choose_measured(
        lambda factory: 0.8 if factory.startswith("OPQ") else 0.5, memory=GB // 10
    )
    assert [factory for factory in asked if factory.startswith("OPQ")] == [choice.factory]


def test_exact_search_within_both_budgets_is_not_given_up_for_smaller_codes() -> None:
    choice, asked = choose_measured(lambda factory: 1.0, ms=1000, count=100_000)
    assert (choice.factory, asked) == ("Flat", [])


def test_what_nothing_fits_is_not_measured() -> None:
    choice, asked = choose_measured(lambda factory: 0.9, memory=1000)
    assert asked == []
    assert choice.factory == min(choice.candidates, key=lambda c: c.bytes).factory
