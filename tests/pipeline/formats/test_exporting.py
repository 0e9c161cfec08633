import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from extractors.errors import UsageError
from pipeline.formats.choice import make_exporter
from pipeline.formats.exporting import export_dataset
from tests.pipeline.formats.conftest import TIMES, make_video, publish_shard

FORMATS = ("howto100m", "mcn-pickle", "video-features", "parquet", "npy")


def times(root: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


def contents(root: Path) -> dict[str, object]:
    files = (p for p in root.rglob("*") if p.is_file() and ".export" not in p.parts)
    return {str(p.relative_to(root)): content(p) for p in files}


def content(path: Path) -> object:
    """Its bytes; of tensors their values, since a tensor's pickle holds an address of its maker."""
    if path.name != "youcook2.pickle":
        return path.read_bytes()
    items = pickle.loads(path.read_bytes())
    return [[(name, np.asarray(value).tolist()) for name, value in i.items()] for i in items]


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_second_run_writes_nothing(fmt: str, export: Callable) -> None:
    root, first = export(fmt)
    before = times(root)
    _, second = export(fmt)
    assert times(root) == before
    assert (first.kept, second.kept) == (0, 2)
    assert second.videos == 4
    assert (second.files, second.size_bytes) == (first.files, first.size_bytes)
    assert second.files == len(contents(root))


@pytest.mark.parametrize("fmt", FORMATS)
def test_an_interrupted_run_goes_on(
    fmt: str, dataset: str, export: Callable, tmp_path: Path
) -> None:
    """Stopped at the third of four videos: the first shard is kept, the result is the same."""
    whole, _ = export(fmt)
    shutil.move(whole, tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    exporter = make_exporter(fmt, TIMES, {}, "youcook2")  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        export_dataset(dataset, str(tmp_path / "out"), fmt, exporter, stop)
    assert not list((tmp_path / "out").rglob("*.partial"))
    root, made = export(fmt)
    assert made.kept == 1
    assert contents(root) == contents(tmp_path / "whole")


@pytest.mark.parametrize("fmt", FORMATS)
def test_what_is_damaged_or_out_of_date_is_written_anew(
    fmt: str, dataset: str, export: Callable
) -> None:
    root, _ = export(fmt)
    good = contents(root)
    name = max(good)
    (root / name).write_bytes(b"cut")
    export(fmt)
    assert contents(root) == good
    record = json.loads(Path(dataset, "shards/000001_stats.json").read_text())
    publish_shard(dataset, 1, record["job"], [make_video(2, 7), make_video(3, 7)])
    _, made = export(fmt)
    assert made.kept == (0 if fmt == "mcn-pickle" else 1)  # one file: it is written as a whole
    assert contents(root) != good


def test_places_that_are_taken(export: Callable, dataset: str, tmp_path: Path) -> None:
    export("npy")
    with pytest.raises(UsageError, match="an export with another format"):
        export("parquet")
    exporter = make_exporter("npy", TIMES, {}, "youcook2")
    with pytest.raises(UsageError, match=r"holds dataset.json, it is no export"):
        export_dataset(dataset, dataset, "npy", exporter)
    (tmp_path / "empty" / "shards").mkdir(parents=True)
    shutil.copy(Path(dataset, "dataset.json"), tmp_path / "empty")
    with pytest.raises(UsageError, match="has no finished shards"):
        export_dataset(str(tmp_path / "empty"), str(tmp_path / "o"), "npy", exporter)


def test_to_a_bucket_and_back(dataset: str, bring: Callable) -> None:
    """Any fsspec URL; here one in memory."""
    exporter = make_exporter("howto100m", TIMES, {}, "youcook2")
    made = export_dataset(dataset, "memory://bucket/features", "howto100m", exporter)
    again = export_dataset(dataset, "memory://bucket/features", "howto100m", exporter)
    assert (made.kept, again.kept) == (0, 2)
    _, found = bring("howto100m", "memory://bucket/features")
    assert len(found) == 4
    assert found[0].segments[1].text == "two"
