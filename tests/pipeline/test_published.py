"""Regeneration: what a published shard still has is carried over, and the rest alone is made."""

import json
import os
import shutil
from pathlib import Path

import pytest

from extractors.config import LogMelConfig, MeanColourConfig
from extractors.decode_config import ProxyConfig
from extractors.views import SoundView
from extractors.weights import CACHE_VARIABLE
from pipeline.cli.options import load_config
from pipeline.config import ExtractConfig
from pipeline.dataset import read_all_rows, read_records
from pipeline.published import published_shard
from pipeline.quarantine import put_aside, release
from pipeline.samples import read_dataset
from tests.pipeline.conftest import Copies, Decoded, changed, extract, tar_digests


def test_a_changed_extractor_is_made_again_and_the_rest_is_carried(
    copies: Copies, config: ExtractConfig, tmp_path: Path, decoded: Decoded
) -> None:
    source, dataset = copies(3), str(tmp_path / "d")
    extract(source, dataset, config)
    assert len(decoded) == 3
    decoded.clear()
    wider = changed(config, audio=LogMelConfig(bands=16))
    assert extract(source, dataset, wider) == [0, 1]
    assert [name for name, _ in decoded] == ["clip000.mp4", "clip001.mp4", "clip002.mp4"]
    assert all(isinstance(view, SoundView) for _, views in decoded for view in views)
    extract(source, str(tmp_path / "anew"), wider)
    assert tar_digests(dataset) == tar_digests(tmp_path / "anew")


def test_an_added_extractor_decodes_what_it_needs_alone(
    copies: Copies, config: ExtractConfig, tmp_path: Path, decoded: Decoded
) -> None:
    source, dataset = copies(2), str(tmp_path / "d")
    extract(source, dataset, config)
    decoded.clear()
    more = changed(config, slow=MeanColourConfig(rate=1))
    extract(source, dataset, more)
    assert [len(views) for _, views in decoded] == [1, 1]
    extract(source, str(tmp_path / "anew"), more)
    assert tar_digests(dataset) == tar_digests(tmp_path / "anew")


def test_proxies_are_added_without_the_networks(
    copies: Copies, config: ExtractConfig, tmp_path: Path
) -> None:
    source, dataset = copies(1), str(tmp_path / "d")
    extract(source, dataset, config)
    proxied = config.model_copy(update={"proxy": ProxyConfig(rate=8)})
    extract(source, dataset, proxied)
    (record,) = read_records(dataset)
    assert set(record.stage_seconds) & {"colour", "audio"} == set()
    extract(source, str(tmp_path / "anew"), proxied)
    assert tar_digests(dataset) == tar_digests(tmp_path / "anew")


def test_a_dropped_extractor_needs_no_video(
    copies: Copies, config: ExtractConfig, tmp_path: Path, decoded: Decoded
) -> None:
    source, dataset = copies(2), str(tmp_path / "d")
    extract(source, dataset, config)
    extract(source, str(tmp_path / "anew"), changed(config, audio=None))
    decoded.clear()
    for clip in Path(source).iterdir():  # not even the files are touched
        clip.chmod(0)
    hidden = changed(config, audio=None)
    assert extract(None, dataset, hidden) == [0]
    assert decoded == []
    assert tar_digests(dataset) == tar_digests(tmp_path / "anew")
    (record,) = read_records(dataset)
    assert record.carried == 2


def test_a_touched_file_is_known_by_its_bytes(
    copies: Copies, config: ExtractConfig, tmp_path: Path, decoded: Decoded
) -> None:
    source, dataset = copies(2), str(tmp_path / "d")
    extract(source, dataset, config)
    before = tar_digests(dataset)
    decoded.clear()
    (Path(source) / "clip001.mp4").touch()
    assert extract(source, dataset, config) == [0]
    assert decoded == []
    assert tar_digests(dataset) == before
    assert extract(source, dataset, config) == []


def test_a_changed_file_alone_is_decoded(
    copies: Copies, config: ExtractConfig, tmp_path: Path, decoded: Decoded
) -> None:
    source, dataset = copies(2), str(tmp_path / "d")
    extract(source, dataset, config)
    decoded.clear()
    with (Path(source) / "clip001.mp4").open("ab") as file:
        file.write(b"\0\0\0\x08free")
    extract(source, dataset, config)
    assert [name for name, _ in decoded] == ["clip001.mp4"]
    extract(source, str(tmp_path / "anew"), config)
    assert tar_digests(dataset) == tar_digests(tmp_path / "anew")


def test_a_renamed_file_keeps_its_place_and_its_tracks(
    copies: Copies, config: ExtractConfig, tmp_path: Path, decoded: Decoded
) -> None:
    source, dataset = copies(3), str(tmp_path / "d")
    extract(source, dataset, config)
    decoded.clear()
    (Path(source) / "clip000.mp4").rename(Path(source) / "other.mp4")
    assert extract(source, dataset, config) == [0]
    assert decoded == []
    assert [sample.key for sample in read_dataset(dataset)] == ["other", "clip001", "clip002"]
    assert next(read_dataset(dataset)).meta["path"] == "other.mp4"


def test_pruned_videos_leave_their_shard_and_an_empty_shard_goes(
    copies: Copies, config: ExtractConfig, tmp_path: Path, decoded: Decoded
) -> None:
    source, dataset = copies(3), str(tmp_path / "d")
    extract(source, dataset, config)
    decoded.clear()
    for name in ("clip001.mp4", "clip002.mp4"):
        (Path(source) / name).unlink()
    assert extract(source, dataset, config) == []
    assert extract(source, dataset, config, prune=True) == [0]
    assert decoded == []
    assert [sample.key for sample in read_dataset(dataset)] == ["clip000"]
    assert [record.number for record in read_records(dataset)] == [0]


def with_captions(config: ExtractConfig, *settings: str) -> ExtractConfig:
    sets = ["extract.speech.recognise=false", *settings]
    speech = load_config("embedded", None, sets).extract.speech
    return config.model_copy(update={"speech": speech})


def test_new_captions_make_the_transcript_again_and_nothing_else(
    copies: Copies, config: ExtractConfig, tmp_path: Path, decoded: Decoded
) -> None:
    source, dataset, spoken = copies(1), str(tmp_path / "d"), with_captions(config)
    extract(source, dataset, spoken)
    decoded.clear()
    captions = Path(source) / "clip000.srt"
    for text in ("first", "second"):
        captions.write_text(f"1\n00:00:00,000 --> 00:00:01,000\n{text}\n")
        extract(source, dataset, spoken)
        (sample,) = read_dataset(dataset)
        assert [segment.text for segment in sample.segments] == [text]
    assert decoded == []
    extract(source, str(tmp_path / "anew"), spoken)
    assert tar_digests(dataset) == tar_digests(tmp_path / "anew")
    captions.unlink()
    extract(source, dataset, spoken)
    (sample,) = read_dataset(dataset)
    assert (sample.segments, sample.meta["text_source"]) == ((), "")


def test_failures_stay_until_something_speaks_against_them(
    copies: Copies, clip: Path, config: ExtractConfig, tmp_path: Path
) -> None:
    source, dataset = copies(1), str(tmp_path / "d")
    broken = Path(source) / "broken.mp4"
    broken.write_bytes(b"")
    extract(source, dataset, config)

    def attempts() -> dict[str, tuple[str, int]]:
        return {row["key"]: (row["status"], row["attempts"]) for row in read_all_rows(dataset)}

    assert attempts() == {"broken": ("failed", 1), "clip000": ("success", 1)}
    (Path(source) / "clip000.mp4").touch()  # the shard is made again, the failure is not tried
    extract(source, dataset, config)
    assert attempts()["broken"] == ("failed", 1)
    assert extract(None, dataset, config, retry={0: ["broken"]}) == [0]
    assert attempts() == {"broken": ("failed", 2), "clip000": ("success", 1)}
    shutil.copy(clip, broken)
    extract(source, dataset, config)
    assert attempts() == {"broken": ("success", 3), "clip000": ("success", 1)}


def test_the_quarantined_are_not_opened_until_they_are_released(
    copies: Copies, config: ExtractConfig, tmp_path: Path, decoded: Decoded
) -> None:
    source, dataset = copies(2), str(tmp_path / "d")
    extract(source, dataset, config)
    before = tar_digests(dataset)
    put_aside(dataset, {"clip001": "a lawyer asked"})
    decoded.clear()
    assert extract(source, dataset, config) == [0]
    assert [sample.key for sample in read_dataset(dataset)] == ["clip000"]
    assert [row["reason"] for row in read_all_rows(dataset)] == [None, "quarantined"]
    assert extract(source, dataset, config) == []
    assert extract(None, dataset, config, retry={0: ["clip001"]}) == [0]
    assert decoded == []
    release(dataset, ["clip001"])
    assert extract(source, dataset, config) == [0]
    assert [name for name, _ in decoded] == ["clip001.mp4"]
    assert tar_digests(dataset) == before


def test_a_changed_caption_table_makes_transcripts_again(
    copies: Copies,
    config: ExtractConfig,
    tmp_path: Path,
    decoded: Decoded,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    source, dataset, table = copies(1), str(tmp_path / "d"), tmp_path / "captions.json"
    spoken = with_captions(config, f"extract.speech.caption_table={table}")
    for text in ("first", "another"):
        table.write_text(json.dumps({"clip000": {"start": [0.0], "end": [1.0], "text": [text]}}))
        assert extract(source, dataset, spoken) == [0]
        (sample,) = read_dataset(dataset)
        assert [segment.text for segment in sample.segments] == [text]
    assert len(decoded) == 1
    wider = spoken.model_copy(
        update={"extractors": spoken.extractors | {"audio": LogMelConfig(bands=16)}}
    )
    extract(source, dataset, wider)
    extract(source, str(tmp_path / "anew"), wider)
    assert tar_digests(dataset) == tar_digests(tmp_path / "anew")


def test_captions_that_change_unseen_are_read_again_when_the_file_is_opened(
    copies: Copies, config: ExtractConfig, tmp_path: Path
) -> None:
    """Same size, same time of change: nothing says that they changed until they are opened."""
    source, dataset, spoken = copies(1), str(tmp_path / "d"), with_captions(config)
    captions = Path(source) / "clip000.srt"
    captions.write_text("1\n00:00:00,000 --> 00:00:01,000\nfirst\n")
    stamp = captions.stat().st_mtime_ns
    extract(source, dataset, spoken)
    captions.write_text("1\n00:00:00,000 --> 00:00:01,000\nother\n")
    os.utime(captions, ns=(stamp, stamp))
    wider = spoken.model_copy(
        update={"extractors": spoken.extractors | {"audio": LogMelConfig(bands=16)}}
    )
    extract(source, dataset, wider)
    extract(source, str(tmp_path / "anew"), wider)
    assert tar_digests(dataset) == tar_digests(tmp_path / "anew")


def test_no_shard_gives_nothing(tmp_path: Path) -> None:
    with published_shard(str(tmp_path), 0) as shard:
        assert shard is None
