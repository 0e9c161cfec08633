"""Against shards that are really made, and by hand."""

import os
import tarfile
from pathlib import Path

import pytest

from extractors.build import build_extractor
from extractors.config import (
    ActionModelConfig,
    ImageModelConfig,
    LogMelConfig,
    MeanColourConfig,
)
from extractors.decode_config import ProxyConfig
from extractors.speech_config import TextConfig
from pipeline.changes import OWN, StageCost
from pipeline.config import ExtractConfig
from pipeline.dataset import read_records
from pipeline.estimate import (
    ROW_SECONDS,
    STATED,
    Corpus,
    gflop_a_second,
    measured_members,
    shard_sizes,
    stage_names,
    stated_rate,
    tar_bytes,
    track_bytes,
    with_stated_rates,
)
from pipeline.samples import read_dataset
from tests.pipeline.conftest import Clips, extract


@pytest.fixture(scope="module")
def dataset(clips: Clips, config: ExtractConfig, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two videos of different lengths in one shard."""
    folder = tmp_path_factory.mktemp("lengths")
    (folder / "videos").mkdir()
    for name, seconds in (("one", 1.0), ("three", 3.5)):
        source = clips.make(f"{name}_{seconds}.mp4", "blue", seconds=seconds)
        os.link(source, folder / "videos" / f"{name}.mp4")
    extract(str(folder / "videos"), str(folder / "d"), config)
    return str(folder / "d")


def members(dataset: str) -> dict[str, int]:
    with tarfile.open(Path(dataset) / "shards" / "000000.tar") as tar:
        return {member.name: member.size for member in tar}


def test_bytes_of_tracks_are_those_of_a_real_shard(dataset: str, config: ExtractConfig) -> None:
    found = members(dataset)
    lengths = {sample.key: sample.duration for sample in read_dataset(dataset)}
    assert set(lengths) == {"one", "three"}
    for name, settings in config.wanted.items():
        for key, seconds in lengths.items():
            expected = track_bytes(build_extractor(settings), seconds)
            assert found[f"{key}.{name}.npy"] == expected
    # 3.5 s at 4 a second, three float32: 128 + 14 * 12
    assert found["three.colour.npy"] == 296


def test_bytes_of_the_tar(dataset: str) -> None:
    (record,) = read_records(dataset)
    assert tar_bytes(list(members(dataset).values())) == record.tar_bytes


def test_tracks_of_windows_by_hand() -> None:
    # 24 frames a second in windows of 16: 60 s are 90 rows of 512 halves
    assert track_bytes(build_extractor(ActionModelConfig()), 60.0) == 128 + 90 * 512 * 2
    # a rest of 0.2 s is 5 frames, which have a window of their own
    assert track_bytes(build_extractor(ActionModelConfig()), 60.2) == 128 + 91 * 512 * 2


def test_sizes_of_a_corpus_by_hand() -> None:
    config = ExtractConfig(
        extractors={"audio": LogMelConfig()}, text=TextConfig(), proxy=ProxyConfig()
    )
    corpus = Corpus(videos=100, hours=100 * 10 / 3600, segments=50)
    sizes = {size.member: size for size in shard_sizes(config, corpus)}
    assert sizes["audio"].bytes == 100 * (128 + 1000 * 40 * 2)
    assert sizes["audio"].source == "exact"
    assert sizes["text"].bytes == 50 * 768
    assert sizes["proxy"].bytes == pytest.approx(1000 * 15_000)
    measured = {size.member: size for size in shard_sizes(config, corpus, {"proxy": 7.0})}
    assert measured["proxy"].bytes == pytest.approx(7000)
    assert (measured["proxy"].source, sizes["proxy"].source) == ("measured", "stated")


def test_members_are_measured_in_a_shard(dataset: str) -> None:
    found, segments = measured_members(dataset, 0)
    seconds = sum(sample.duration for sample in read_dataset(dataset))
    meta = sum(size for name, size in members(dataset).items() if name.endswith("meta.json"))
    assert found["meta"] * seconds == pytest.approx(meta)
    assert segments == 0


def test_worker_hours_by_hand(config: ExtractConfig) -> None:
    corpus = Corpus(videos=10, hours=5)
    costs = [StageCost(stage, 5.0, None) for stage in stage_names(config)]
    filled = {cost.stage: cost for cost in with_stated_rates(costs, config, corpus)}
    assert set(filled) == {"decode", "colour", "audio"}
    assert filled["decode"].worker_hours == pytest.approx(5 * (0.102 + 0.0023 * 4))
    assert filled["audio"].worker_hours == pytest.approx(5 * 6.7e-6 / 0.01)
    assert filled["audio"].rate_from == STATED
    # nobody measured the mean colour
    assert (filled["colour"].worker_hours, filled["colour"].rate_from) == (None, "")


def test_own_rates_are_kept(config: ExtractConfig) -> None:
    own = StageCost("decode", 2.0, 0.5, OWN)
    assert with_stated_rates([own], config, Corpus(1, 2.0)) == [own]
    assert own.worker_hours == 1.0


def test_a_rate_is_of_the_settings_it_was_measured_with() -> None:
    def rate(**changed: object) -> float | None:
        settings = ImageModelConfig.model_validate(changed)
        return stated_rate("picture", ExtractConfig(extractors={"picture": settings}), Corpus(1, 1))

    once = rate()
    assert once is not None
    assert rate(rate=2.0) == pytest.approx(2 * once)
    assert rate(batch_size=3, dtype="float32") == once
    assert [rate(size=256), rate(fit="whole"), rate(precision="bfloat16")] == [None, None, None]


def test_every_stated_rate_is_found() -> None:
    assert all(seconds > 0 for seconds in ROW_SECONDS.values())
    found = {key[0] for key in ROW_SECONDS}
    assert found == {"image", "motion", "action", "log_mel"}


def test_operations_a_second() -> None:
    config = ExtractConfig(
        extractors={"colour": MeanColourConfig(rate=2), "picture": ImageModelConfig(rate=4)}
    )
    found = gflop_a_second(config)
    assert found["colour"] == pytest.approx(2 * 3 * 32 * 32 / 1e9)
    # EfficientNet-lite0 is published as 0.4 billion multiply-adds a picture
    assert found["picture"] == pytest.approx(4 * 0.8, rel=0.1)


def test_an_empty_corpus_costs_nothing(config: ExtractConfig) -> None:
    corpus = Corpus(videos=0, hours=0.0)
    assert sum(size.bytes for size in shard_sizes(config, corpus)) == 0
    assert corpus.seconds == 0
