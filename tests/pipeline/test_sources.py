import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extractors.errors import UsageError
from pipeline.sources import KEY, SourceVideo, check_keys, key_of, read_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("b.mp4", "a.MKV", "sub/c.webm", "notes.txt", "a.srt"):
        (tmp_path / name).write_bytes(b"12345")
    return tmp_path


def write_csv(folder: Path, content: str | bytes) -> str:
    path = folder / "list.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def unversioned(source: str) -> list[SourceVideo]:
    """The videos without what only says whether they have changed."""
    return [video._replace(version="") for video in read_source(source)]


def test_a_changed_video_or_caption_file_has_another_version(folder: Path) -> None:
    """In a folder and in a list: the job of its shard is then another."""
    lists = write_csv(folder, "path\nb.mp4\n")

    def versions() -> list[str]:
        return [
            next(video.version for video in read_source(source) if video.path == "b.mp4")
            for source in (str(folder), lists)
        ]

    seen = [versions()]
    (folder / "b.mp4").write_bytes(b"other")  # of the same size
    seen.append(versions())
    (folder / "b.en.srt").write_text("1")
    seen.append(versions())
    os.utime(folder / "b.en.srt", (1, 1))
    seen.append(versions())
    assert all(one == two for one, two in seen)
    assert len({one for one, _ in seen}) == len(seen)


def test_a_folder_gives_its_videos_sorted_with_sizes(folder: Path) -> None:
    assert unversioned(str(folder)) == [
        SourceVideo("a", str(folder / "a.MKV"), "a.MKV", 5),
        SourceVideo("b", str(folder / "b.mp4"), "b.mp4", 5),
        SourceVideo("sub__c", str(folder / "sub/c.webm"), "sub/c.webm", 5),
    ]


def test_a_relative_folder_gives_absolute_uris(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert read_source(folder.name) == read_source(str(folder))


def test_a_glob_takes_files_of_any_suffix(folder: Path) -> None:
    (folder / "a.MKV").rename(folder / "z.MKV")
    found = read_source(str(folder / "*"))
    assert [video.path for video in found] == ["a.srt", "b.mp4", "notes.txt", "z.MKV"]
    assert [video.path for video in read_source(str(folder / "**/*.webm"))] == ["sub/c.webm"]


def test_a_single_file(folder: Path) -> None:
    assert [video.key for video in read_source(str(folder / "b.mp4"))] == ["b"]


STRANGE = (
    *("a b.mp4", "é.mp4", "x\ny.mp4", "q\"'.mp4", "a::b.mp4", "a#%20?.mp4", "[x].mp4", "w*.mp4"),
    *(".mp4", "a.b.mp4", "-x.mp4", "日本.mp4"),
)


def test_strange_names_get_keys_that_webdataset_can_hold(tmp_path: Path) -> None:
    for name in STRANGE:
        (tmp_path / name).write_bytes(b"1")
    found = read_source(str(tmp_path))
    assert sorted(video.path for video in found) == sorted(STRANGE)
    assert len({video.key for video in found}) == len(STRANGE)
    assert all(KEY.fullmatch(video.key) and Path(video.uri).is_file() for video in found)


def test_a_folder_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    folder = tmp_path / "clips [2020]"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"1")
    assert [video.key for video in read_source(str(folder))] == ["a"]


def test_a_name_that_is_not_text_is_refused_with_a_message(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")).write_bytes(b"1")
    with pytest.raises(UsageError, match=r"\\udcff\.mp4.*rename") as caught:
        read_source(str(tmp_path))
    str(caught.value).encode()


def test_the_key_of_a_path_is_stable() -> None:
    assert key_of("sub/v_1-x.mp4") == "sub__v_1-x"
    assert key_of("a b.mp4") == "a_b-018c1c8b"
    assert key_of("a_b.mp4") == "a_b"


def test_a_csv_names_keys_captions_labels_and_splits(folder: Path) -> None:
    source = write_csv(
        folder,
        "path,key,captions,label,split,extra\n"
        "sub/c.webm,k1,a.srt,cooking,train,1\n"
        "/abs/d.mp4,,,,,2\n"
        "https://host/e.mp4,k3,https://host/e.vtt,,test,3\n",
    )
    assert unversioned(source) == [
        SourceVideo("k1", str(folder / "sub/c.webm"), "sub/c.webm", None, str(folder / "a.srt"),
                    "cooking", "train"),
        SourceVideo("d", "/abs/d.mp4", "/abs/d.mp4"),
        SourceVideo("k3", "https://host/e.mp4", "https://host/e.mp4", None, "https://host/e.vtt",
                    None, "test"),
    ]  # fmt: skip


def test_numbers_in_a_csv_stay_as_they_are_written(folder: Path) -> None:
    (video,) = read_source(write_csv(folder, "uri,key,label,split\nb.mp4,007,010,01\n"))
    assert (video.key, video.label, video.split) == ("007", "010", "01")


def test_a_csv_with_a_byte_order_mark(folder: Path) -> None:
    content = b"\xef\xbb\xbfpath,label\nb.mp4,x\n"
    assert [video.label for video in read_source(write_csv(folder, content))] == ["x"]


def test_a_csv_with_newlines_and_commas_in_quotes(folder: Path) -> None:
    (folder / "x\ny, z.mp4").write_bytes(b"1")
    first, second = read_source(write_csv(folder, 'path,label\n"x\ny, z.mp4","a\nb"\nb.mp4,c\n'))
    assert Path(first.uri).is_file()
    assert (first.label, second.label) == ("a\nb", "c")


def test_a_parquet_with_integer_columns(folder: Path) -> None:
    path = folder / "list.parquet"
    table = pa.table({"uri": ["b.mp4", "a.MKV"], "key": [1, 2], "label": [7, None]})
    pq.write_table(table, path)
    found = read_source(str(path))
    assert [(video.key, video.label) for video in found] == [("1", "7"), ("2", None)]
    assert found[0].uri == str(folder / "b.mp4")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a csv table: Empty"),
        ("path\n", "no videos found"),
        ("file,label\na.mp4,1\n", "needs a column 'path' or 'uri', has: file, label"),
        ("path,label\na.mp4,x\n,y\n", "row 2 has no path"),
        ("path,label\na.mp4\n", "not a csv table"),
        ("path,key\na.mp4,k\nb.mp4,k\n", "key 'k' is given twice: a.mp4 and b.mp4"),
        ("path,key\na.mp4,a.b\n", "key 'a.b' of a.mp4: only letters"),
        (b"path\n\xff.mp4\n", "not a csv table"),
    ],
)
def test_a_bad_csv_is_a_usage_error(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_source(write_csv(tmp_path, content))
    assert message in str(caught.value)


def test_what_is_no_parquet_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "list.parquet").write_bytes(b"text")
    with pytest.raises(UsageError, match="not a parquet table"):
        read_source(str(tmp_path / "list.parquet"))


def test_two_files_of_one_key_are_named(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv"):
        (tmp_path / name).write_bytes(b"1")
    with pytest.raises(UsageError, match=r"'a' is given twice: a\.mkv and a\.mp4.*csv"):
        read_source(str(tmp_path))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{}/nothing", "no such file or folder"),
        ("{}/*.mp4", "no videos found"),
        ("{}", "no videos found"),
        ("nonsense://x/y", "Protocol not known: nonsense"),
    ],
)
def test_an_empty_or_unknown_source_is_a_usage_error(
    tmp_path: Path, source: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        read_source(source.format(tmp_path))


def test_keys_are_checked_across_videos() -> None:
    video = SourceVideo("a", "/x/a.mp4", "a.mp4")
    check_keys([video])
    with pytest.raises(UsageError, match="twice"):
        check_keys([video, SourceVideo("a", "/x/b/a.mp4", "b/a.mp4")])


@pytest.fixture
def bucket() -> Iterator[str]:
    """A folder of the in-memory file system that fsspec brings."""
    memory = fsspec.filesystem("memory")
    memory.pipe({"/bucket/b.mp4": b"12", "/bucket/sub/a.mkv": b"1", "/bucket/x.txt": b""})
    yield "memory://bucket"
    memory.rm("/bucket", recursive=True)


def test_a_bucket_gives_urls(bucket: str) -> None:
    assert unversioned(bucket) == [
        SourceVideo("b", "memory:///bucket/b.mp4", "b.mp4", 2),
        SourceVideo("sub__a", "memory:///bucket/sub/a.mkv", "sub/a.mkv", 1),
    ]
    assert [video.key for video in read_source(bucket + "/*.mp4")] == ["b"]


def test_relative_paths_of_a_list_in_a_bucket(bucket: str) -> None:
    fsspec.filesystem("memory").pipe("/bucket/list.csv", b"path\nsub/a.mkv\n")
    (video,) = read_source(bucket + "/list.csv")
    assert video.uri == "memory:///bucket/sub/a.mkv"


def test_keys_of_a_list_are_those_of_the_folder(folder: Path) -> None:
    """Relative paths with the folders they name: a/x.mp4 and b/x.mp4 are two videos."""
    for name in ("a/x.mp4", "b/x.mp4"):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(b"1")
    found = read_source(write_csv(folder, "path\na/x.mp4\n./b/x.mp4\n/abs/b/y.mp4\n"))
    assert [video.key for video in found] == ["a__x", "b__x", "y"]
    assert {"a__x", "b__x"} <= {video.key for video in read_source(str(folder))}


CAPTIONED = {
    "b.en.vtt": None,
    "b.de.srt": None,
    "b.info.json": None,
    "sub/a.info.json": None,
    "sub/b.srt": None,  # of no video there
}


def test_captions_beside_remote_videos_come_from_the_one_listing(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/bucket/{name}": b"text" for name in CAPTIONED})
    requests = []
    for name in ("info", "exists", "ls", "open", "cat_file"):
        original = getattr(type(memory), name)

        def counted(self, *args, _name=name, _original=original, **kwargs):  # type: ignore[no-untyped-def]
            requests.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(type(memory), name, counted)

    def captions(language: str | None) -> list[str | None]:
        requests.clear()
        return [video.captions for video in read_source(bucket, language)]

    assert captions(None) == ["memory:///bucket/b.de.srt", "memory:///bucket/sub/a.info.json"]
    needed = len(requests)
    assert captions("en") == ["memory:///bucket/b.en.vtt", "memory:///bucket/sub/a.info.json"]
    assert captions("fr") == ["memory:///bucket/b.info.json", "memory:///bucket/sub/a.info.json"]
    for number in range(20):
        memory.pipe({f"/bucket/n{number}.mp4": b"1", f"/bucket/n{number}.srt": b"1"})
    assert sum(name is not None for name in captions(None)) == 22
    assert len(requests) == needed


def test_a_glob_of_a_bucket_sees_the_captions_it_matches(bucket: str) -> None:
    fsspec.filesystem("memory").pipe("/bucket/b.srt", b"text")
    assert [video.captions for video in read_source(bucket + "/*.mp4")] == [None]


def test_changed_captions_change_the_version_of_a_remote_video(tmp_path: Path) -> None:
    (tmp_path / "b.mp4").write_bytes(b"1")
    source = f"local://{tmp_path}"
    memory = fsspec.filesystem("memory")
    memory.pipe({"/changing/b.mp4": b"1"})
    try:
        seen = [read_source("memory://changing")[0].version]
        for content in (b"one", b"three"):
            memory.pipe("/changing/b.srt", content)
            seen.append(read_source("memory://changing")[0].version)
    finally:
        memory.rm("/changing", recursive=True)
    assert len(set(seen)) == 3
    assert [video.captions for video in read_source(source)] == [None]  # found when it is read
