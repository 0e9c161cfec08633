from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extractors.errors import UsageError
from pipeline.formats.choice import Reading
from pipeline.samples import VideoSample


def test_pandas_and_hugging_face_read_it(
    export: Callable, samples: list[VideoSample], tmp_path: Path
) -> None:
    root, _ = export("parquet")
    frame = pd.concat([pd.read_parquet(path) for path in sorted((root / "data").iterdir())])
    assert list(frame["key"]) == [sample.key for sample in samples]
    rows = np.stack(frame["visual_3d"].iloc[0])
    np.testing.assert_array_equal(rows, samples[0].tracks["visual_3d"].rows)
    assert frame["audio"].iloc[1] is None
    assert frame["transcript"].iloc[0][1]["text"] == "two"
    read = datasets.load_dataset(
        "parquet", data_dir=str(root / "data"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert read.num_rows == 4
    found = np.array(read.with_format("numpy")[3]["visual_2d"])
    np.testing.assert_array_equal(found, samples[3].tracks["visual_2d"].rows)


def test_a_row_group_a_video(export: Callable) -> None:
    root, _ = export("parquet")
    file = pq.ParquetFile(root / "data/000000.parquet")
    assert (file.num_row_groups, file.metadata.num_rows) == (2, 2)


def test_tables_of_others(bring: Callable, tmp_path: Path) -> None:
    """Variable lists of float32, many rows a group, no times: the usual ones."""
    rng = np.random.default_rng(2)
    arrays = [rng.normal(size=(n, 4)).astype(np.float32) for n in (3, 5)]
    table = pa.table({"key": ["a", "b c"], "frames": [a.tolist() for a in arrays]})
    pq.write_table(table, tmp_path / "t.parquet")
    reading = Reading(tracks={"frames": "visual_2d"}, hops={"frames": 2.0})
    _, found = bring("parquet", tmp_path / "t.parquet", reading)
    assert found[0].key == "a"
    assert found[1].key.startswith("b_c-")
    for sample, array in zip(found, arrays, strict=True):
        np.testing.assert_array_equal(sample.tracks["visual_2d"].rows, array.astype(np.float16))
        assert sample.duration == 2.0 * len(array)
    with pytest.raises(UsageError, match="no column 'visual_2d', it has: key, frames"):
        bring("parquet", tmp_path / "t.parquet", output="other")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([[[1.0, 2.0], [3.0]]], "rows of one length are wanted"),
        ([1.0], "a list of lists is wanted"),
        ([["x"]], "rows of one length are wanted|array of numbers is wanted"),
    ],
)
def test_columns_that_are_no_tracks(
    bring: Callable, tmp_path: Path, column: list, message: str
) -> None:
    pq.write_table(pa.table({"key": ["a"], "visual_2d": column}), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=message):
        bring("parquet", tmp_path / "t.parquet", Reading(tracks={"visual_2d": "visual_2d"}))


@pytest.mark.parametrize(("content", "message"), [(b"no", "not a parquet"), (None, "no .parquet")])
def test_bad_files(bring: Callable, tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        bring("parquet", tmp_path)
