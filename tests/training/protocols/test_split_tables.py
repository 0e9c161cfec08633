"""training.protocols.split_tables: a table is a source of extraction and tells all splits."""

from pathlib import Path

import pytest

from extractors.errors import UsageError
from pipeline import storage
from pipeline.sources import read_source
from training.protocols.labelled_sets import LabelledFile, LabelledSet, read_labelled_set
from training.protocols.split_tables import dataset_splits, read_split_table, write_split_table

ODD = "clips/climb/(b)!.avi"


@pytest.fixture
def found(tmp_path: Path) -> LabelledSet:
    files = (
        LabelledFile("clips/climb/a.avi", "climb", ("train", "test"), "film 1"),
        LabelledFile(ODD, "climb", (None, "train")),
        LabelledFile("clips/dive/a.avi", "dive", ("test", "train")),
    )
    for file in files:
        path = tmp_path / "set" / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return LabelledSet(str(tmp_path / "set"), ("1", "2"), files, ())


@pytest.mark.parametrize("table", ["set/videos.csv", "videos.csv", "set/lists/videos.csv"])
def test_a_table_is_a_source_wherever_it_lies(
    found: LabelledSet, tmp_path: Path, table: str
) -> None:
    url = tmp_path / table
    write_split_table(found, str(url))
    videos = read_source(str(url))
    assert [video.uri for video in videos] == [f"{found.folder}/{f.path}" for f in found.files]
    assert [(video.label, video.split) for video in videos] == [
        ("climb", "train"), ("climb", None), ("dive", "test"),
    ]  # fmt: skip
    assert [video.path.startswith("/") for video in videos] == [table.count("/") == 2] * 3
    read = read_split_table(str(url))
    assert read.keys == tuple(video.key for video in videos)
    assert len(set(read.keys)) == 3


def test_what_was_written_is_read(found: LabelledSet, tmp_path: Path) -> None:
    url = str(tmp_path / "videos.csv")
    write_split_table(found, url)
    table = read_split_table(url)
    assert list(table.label_V) == ["climb", "climb", "dive"]
    assert list(table.group_V) == ["film 1", *table.keys[1:]]
    assert list(table.parts) == ["1", "2"]
    assert table.where("1", "train").tolist() == [True, False, False]
    assert table.where("2", "train").tolist() == [False, True, True]
    assert table.where("2", "test").tolist() == [True, False, False]


def test_some_of_the_splits(found: LabelledSet, tmp_path: Path) -> None:
    write_split_table(found, str(tmp_path / "videos.csv"))
    table = read_split_table(str(tmp_path / "videos.csv"))
    only = table.only(["2"])
    assert list(only.parts) == ["2"]
    assert only.keys == table.keys
    with pytest.raises(UsageError, match="no split '3'; there are: 1, 2"):
        table.only(["2", "3"])


def test_a_set_in_a_bucket() -> None:
    files = ("clips/climb/a.avi", "clips/dive/b.avi")
    for path in files:
        storage.publish_bytes(f"memory://bucket/{path}", b"")
    lists = {"climb": "a.avi 1\n", "dive": "b.avi 2\n"}
    for name, text in lists.items():
        storage.publish_bytes(f"memory://bucket/{name}_test_split1.txt", text.encode())
    found = read_labelled_set("hmdb51", "memory://bucket")
    assert [file.path for file in found.files] == list(files)
    for table in ("memory://bucket/videos.csv", "memory://elsewhere/videos.csv"):
        write_split_table(found, table)
        videos = read_source(table)
        assert [storage.exists(video.uri) for video in videos] == [True, True]
        assert read_split_table(table).keys == tuple(video.key for video in videos)


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("key,label,split,notes\n007,cat,train,x\nb,dog,test,\nc,,train,\nd,cat,val,\n")
    table = read_split_table(str(path))
    assert table.keys == ("007", "b", "d")
    assert table.parts["split"].tolist() == ["train", "test", "val"]
    assert table.where("split", "train").tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no columns `key` and `label`"),
        ("path,label,split\na,b,train\n", "no columns `key` and `label`"),
        ("key,label\na,b\n", "no column `split`"),
        ("key,label,split\na,,train\n", "no video has a label"),
        ("key,label,split\na,b,train\na,b,test\n", "key 'a' is given twice"),
        ("key,label,split\na,b,train\n", "no labelled video is in 'test'"),
        ("key,label,split_1,split_2\na,b,train,test\nc,b,test,\n", "split 2: .* in 'train'"),
        ('key,label,split\na,"b,train\n', "not a csv table"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        read_split_table(str(path))


def test_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_split_table(str(tmp_path / "none.csv"))


def test_the_split_that_a_dataset_holds(dataset: str) -> None:
    """The synthetic dataset's rows have no labels."""
    with pytest.raises(UsageError, match="no video has a label; labels and splits come from"):
        dataset_splits(dataset)
