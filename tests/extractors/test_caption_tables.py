"""HowTo100M's captions of many videos in one file."""

import json
import multiprocessing
import tracemalloc

import pytest

from extractors import caption_tables
from extractors.caption_tables import build_index, find_entry, read_entry
from extractors.errors import Reason, UsageError, VideoError
from extractors.tracks import Segment
from extractors.weights import CACHE_VARIABLE

ENTRY = {"start": [3.5, 0, 5], "end": [6.25, 4, 5], "text": ["b &amp; c", " a ", "no time"]}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(tmp_path, content):
    path = tmp_path / "caption.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_a_video_is_found_by_the_first_name_that_is_there(tmp_path):
    table = write(tmp_path, {"x-1": ENTRY, "é": {"start": [], "end": [], "text": []}})
    video, entry = find_entry(table, ("nothing", "x-1", "é"))
    assert video == "x-1"
    assert read_entry(entry, "x-1") == [
        Segment(0.0, 4.0, "a", "captions"),
        Segment(3.5, 6.25, "b & c", "captions"),
    ]
    assert read_entry(find_entry(table, ("é",))[1], "é") == []
    assert find_entry(table, ("nothing",)) is None


def test_the_index_is_made_once_and_anew_for_a_table_that_changed(tmp_path, monkeypatch):
    table = write(tmp_path, {"a": ENTRY})
    index = build_index(table)
    with monkeypatch.context() as patched:
        patched.setattr(caption_tables, "_write_index", None)
        assert build_index(table) == index
        assert find_entry(str(index), ("a",)) == find_entry(table, ("a",))
    write(tmp_path, {"a": ENTRY, "b": ENTRY})
    assert find_entry(table, ("b",)) is not None
    assert build_index(table) != index


def test_a_table_is_never_held_whole(tmp_path):
    entry = {"start": list(range(200)), "end": list(range(1, 201)), "text": ["some words"] * 200}
    table = write(tmp_path, {f"video-{i}": entry for i in range(1000)})
    assert (tmp_path / "caption.json").stat().st_size > 4e6
    tracemalloc.start()
    assert find_entry(table, ("video-999",)) is not None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_processes_that_come_at_once_make_one_index(tmp_path, cache):
    table = write(tmp_path, {f"v{i}": ENTRY for i in range(2000)})
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(build_index, [table, table])
    assert first == second
    left = sorted(path.suffix for path in (cache / "caption_tables").iterdir())
    assert left == [".lock", ".sqlite"]


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"a": {"start": [1', "text", '{"a": 1} x'])
def test_what_is_no_table(tmp_path, cache, content):
    table = write(tmp_path, content)
    with pytest.raises(UsageError, match=r"speech\.caption_table = .*caption\.json") as caught:
        find_entry(table, ("a",))
    assert "\n" not in str(caught.value)
    assert not list(cache.rglob("*.sqlite"))


def test_a_table_that_is_gone_and_an_index_that_is_none(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        find_entry(str(tmp_path / "gone.json"), ("a",))
    (tmp_path / "a.sqlite").write_text("text")
    with pytest.raises(UsageError, match="not a caption index"):
        find_entry(str(tmp_path / "a.sqlite"), ("a",))


@pytest.mark.parametrize("entry", [
    1, [], {"start": [1], "end": [2]}, {"start": [1, 2], "end": [2], "text": ["a"]},
    {"start": ["x"], "end": [2], "text": ["a"]}, {"start": None, "end": [2], "text": ["a"]},
])  # fmt: skip
def test_a_bad_entry_costs_its_video_only(tmp_path, entry):
    table = write(tmp_path, {"bad": entry, "good": ENTRY})
    with pytest.raises(VideoError, match="t: bad: not") as caught:
        read_entry(find_entry(table, ("bad",))[1], "t: bad")
    assert caught.value.reason == Reason.BAD_CAPTIONS
    assert len(read_entry(find_entry(table, ("good",))[1], "good")) == 2


def test_silence_that_a_table_has_as_nan_is_dropped():
    entry = b'{"start": [0, 1, NaN], "end": [1, 2, 3], "text": ["a", NaN, "c"]}'
    assert [segment.text for segment in read_entry(entry, "x")] == ["a"]


def test_an_entry_of_any_size_is_not_blown_up(tmp_path, monkeypatch):
    monkeypatch.setattr(caption_tables, "MAX_ENTRY_BYTES", 1000)
    table = write(tmp_path, {"a": {"start": [], "end": [], "text": ["x" * 10_000]}})
    with pytest.raises(VideoError, match="a: over 1000 bytes"):
        find_entry(table, ("a",))
