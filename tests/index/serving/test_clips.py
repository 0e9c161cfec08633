"""Where pictures and proxies come from, and that nothing breaks where they cannot be had."""

import dataclasses
import logging
import shutil
import threading
from pathlib import Path

import pytest

from index.config import IndexConfig
from index.formats.exporting import export_embeddings
from index.formats.importing import ImportOptions, import_embeddings
from index.report import report_index
from index.search import open_index
from index.serving import clips
from index.serving.clips import ClipMedia
from pipeline import storage
from tests.index.conftest import Corpus


def test_an_index_of_one_imported_parquet_has_no_proxies(corpus: Corpus, tmp_path: Path) -> None:
    corpus.build(IndexConfig())
    export_embeddings(corpus.output, str(tmp_path / "out"), "parquet")
    (source, *_) = sorted((tmp_path / "out").rglob("*.parquet"))
    alone, output = tmp_path / "v.parquet", str(tmp_path / "back")
    shutil.copy(source, alone)
    import_embeddings(str(alone), output, ImportOptions("parquet"), IndexConfig())
    index = open_index(output)
    media, clip = ClipMedia(index), index.ids["id"][0].as_py()
    assert media.media_path(clip, media.find(clip)) is None
    assert media.thumbnail(clip) == (b"", "file not found")
    reasons = {p.thumbnail.reason for s in report_index(output) for t in s.sheets
               for p in t.pictures}  # fmt: skip
    assert reasons == {"file not found"}


def test_a_file_where_the_dataset_was_leaves_no_proxies(corpus: Corpus) -> None:
    corpus.build(IndexConfig())
    index = open_index(corpus.output)
    shutil.rmtree(corpus.dataset)
    Path(corpus.dataset).write_bytes(b"a file where the folder was")
    media, clip = ClipMedia(index), index.ids["id"][0].as_py()
    assert media.media_path(clip, media.find(clip)) is None


@pytest.mark.parametrize(("error", "logged"), [(FileNotFoundError, 0), (ConnectionError, 1)])
def test_a_remote_tar_that_cannot_be_read_is_asked_for_once(
    corpus: Corpus, monkeypatch, caplog, error: type[OSError], logged: int
) -> None:
    corpus.build(IndexConfig())
    index, asked = open_index(corpus.output), []

    def refuse(url: str):
        asked.append(url)
        raise error(url)

    monkeypatch.setattr(clips, "tar_of", lambda _dataset, shard: (f"memory://{error}/{shard}", ""))
    monkeypatch.setattr(storage, "open_binary", refuse)
    media = ClipMedia(index)
    with caplog.at_level(logging.WARNING):
        for clip in index.ids["id"].to_pylist():
            assert media.media_path(clip, media.find(clip)) is None
    assert len(asked) == len(set(asked)) == 3
    said = [one for one in caplog.records if one.name == clips.logger.name]
    assert len(said) == 3 * logged


def test_remote_tars_of_one_search_are_looked_into_together(corpus: Corpus, monkeypatch) -> None:
    corpus.build(IndexConfig())
    index, met = open_index(corpus.output), threading.Barrier(3, timeout=20)

    def slow(url: str, _changed: int) -> dict[str, tuple[int, int]]:
        met.wait()  # passes when all three are here
        return {"v0_1": (512, 100)} if url.endswith("0") else {}

    monkeypatch.setattr(clips, "tar_of", lambda _dataset, shard: (f"memory://slow/{shard}", ""))
    monkeypatch.setattr(clips, "proxies_of", slow)
    media = ClipMedia(index)
    found = [media.find(clip) for clip in index.ids["id"].to_pylist()]
    media.look_into(found)
    monkeypatch.setattr(clips, "proxies_of", lambda *_: pytest.fail("asked again"))
    media.look_into(found)


def test_a_name_that_no_file_can_have_is_no_media(corpus: Corpus) -> None:
    corpus.build(IndexConfig())
    index = open_index(corpus.output)
    media = ClipMedia(index)
    clip = dataclasses.replace(media.find(index.ids["id"][0].as_py()), uri="/" + "long" * 200)
    assert media.media_path("v@0-1", clip) is None
