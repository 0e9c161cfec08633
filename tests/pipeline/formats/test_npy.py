from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from extractors.errors import UsageError
from pipeline.formats.choice import Reading
from pipeline.formats.imported_card import ImportOptions
from pipeline.samples import VideoSample
from pipeline.verify import verify_dataset
from tests.pipeline.formats.conftest import assert_same_tracks


@pytest.mark.parametrize("fmt", ["npy", "parquet"])
def test_round_trip_of_everything(
    fmt: str, export: Callable, bring: Callable, samples: list[VideoSample]
) -> None:
    """Our own exchange formats lose nothing: rows, times, transcript, its vectors, label, split."""
    root, _ = export(fmt)
    reading, options = Reading(keep_text=True), ImportOptions(keep_text=True)
    target, found = bring(fmt, root, reading, options)
    assert verify_dataset(target) == []
    assert_same_tracks(found, samples, within=0.0)
    for sample, other in zip(samples, found, strict=True):
        assert other.segments == sample.segments
        assert other.duration == sample.duration
        for name in ("path", "label", "split"):
            assert other.meta[name] == sample.meta[name]
        if sample.segments:
            assert other.text is not None
            np.testing.assert_array_equal(other.text, sample.text)
        else:
            assert other.text is None


def test_what_is_written(export: Callable, samples: list[VideoSample]) -> None:
    root, _ = export("npy", _features="visual_2d")
    table = pq.read_table(root / "metadata.parquet").to_pylist()
    assert [row["key"] for row in table] == [sample.key for sample in samples]
    assert (table[0]["features_start"], table[0]["features_hop"]) == (0.5, 1.0)
    array = np.load(root / "features" / f"{samples[0].key}.npy")
    np.testing.assert_array_equal(array, samples[0].tracks["visual_2d"].rows)
    assert not (root / "visual_2d").exists()


def test_folders_without_a_table(bring: Callable, tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    (tmp_path / "f" / "2d").mkdir(parents=True)
    for key in ("a", "b"):
        np.save(tmp_path / "f" / "2d" / f"{key}.npy", rows)
    _, found = bring("npy", tmp_path / "f", Reading(tracks={"2d": "visual_2d"}, hops={"2d": 0.5}))
    assert [sample.key for sample in found] == ["a", "b"]
    assert (found[0].tracks["visual_2d"].start, found[0].duration) == (0.25, 2.0)
    (tmp_path / "list.csv").write_text("key\nb\n")
    reading = Reading(tracks={"2d": "visual_2d"}, list_url=str(tmp_path / "list.csv"))
    _, found = bring("npy", tmp_path / "f", reading, output="other")
    assert [sample.key for sample in found] == ["b"]
    assert found[0].duration == 4.0  # a row a second, as visual_2d usually is
    with pytest.raises(UsageError, match=r"no videos: needs metadata.parquet, or folders"):
        bring("npy", tmp_path / "f", output="third")


def test_pickled_arrays_are_not_opened(bring: Callable, tmp_path: Path) -> None:
    (tmp_path / "visual_2d").mkdir()
    np.save(tmp_path / "visual_2d" / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match=r"a\.npy: cannot be read as an array: .*allow_pickle"):
        bring("npy", tmp_path, Reading(tracks={"visual_2d": "visual_2d"}))
