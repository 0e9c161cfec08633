"""What of a dataset XDC can train on, and what it says of one that it cannot."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from extractors.config import LogMelConfig
from extractors.errors import AbortError, UsageError
from pipeline import storage
from pipeline.samples import read_dataset
from tests.training.xdc.conftest import SILENT, UNSEEN, VIDEOS, extract_config
from training.xdc.video_set import VideoSet, check_dataset, open_video_set


def test_members_are_found_where_they_lie(dataset: str, videos: VideoSet) -> None:
    samples = {sample.key: sample for sample in read_dataset(dataset)}
    assert videos.keys == tuple(
        f"clip{number:02d}" for number in range(VIDEOS)
    )  # not the test split's
    for i, key in enumerate(videos.keys):
        tar = Path(dataset, "shards", f"{videos.shard_N[i]:06d}.tar").read_bytes()
        offset, size = videos.proxy_N2[i]
        assert tar[offset : offset + size] == (samples[key].proxy or b"")
        offset, size = videos.mel_N2[i]
        assert tar[offset : offset + 6] == b"\x93NUMPY"
        assert videos.duration_N[i] == samples[key].duration
    assert [key for key, seen in zip(videos.keys, videos.seen_N, strict=True) if not seen] == [
        UNSEEN
    ]
    assert [key for key, heard in zip(videos.keys, videos.heard_N, strict=True) if not heard] == [
        SILENT
    ]
    assert videos.label_N.tolist() == [number % 3 for number in range(VIDEOS)]
    assert videos.mel == LogMelConfig(front_end="xdc")


def test_the_test_split_is_asked_for(dataset: str, make_config) -> None:
    assert open_video_set(dataset, make_config(), test=True).keys == (f"clip{VIDEOS}",)


def test_held_out_videos_follow_from_the_seed(dataset: str, make_config) -> None:
    def held_out(**changes: object) -> list[int]:
        found = open_video_set(dataset, make_config(**changes)).held_out_N
        return np.flatnonzero(found).tolist()

    assert len(held_out()) == 2
    assert held_out() == held_out()
    assert held_out() != held_out(seed=2)
    assert held_out(sampling__held_out=0) == []
    assert len(held_out(sampling__held_out=0.001)) == 1


def card_of(dataset: str, folder: Path, **changes: object) -> str:
    """A dataset that was extracted with other settings: its card alone."""
    card = storage.read_json(f"{dataset}/dataset.json")
    card["config"] = extract_config(**changes).model_dump(mode="json")
    storage.publish_json(str(folder / "dataset.json"), card)
    return str(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proxy": {"rate": 6}}, r"xdc\.video\.rate = 12\.0: the proxies of .* have 6\.0"),
        ({"extractors": {"mel": None}}, r"xdc\.audio_track = mel: .* has no such track"),
        ({"extractors": {"mel": {"kind": "log_mel"}}}, "front_end: xdc"),
        ({"extractors": {"mel": {"kind": "mean_colour"}}}, "front_end: xdc"),
    ],
)
def test_what_is_missing_is_said_with_what_to_extract(
    dataset: str, make_config, tmp_path: Path, changes, message
) -> None:
    with pytest.raises(UsageError, match=message):
        open_video_set(card_of(dataset, tmp_path, **changes), make_config())


def test_proxies_that_are_too_small_are_refused(dataset: str, make_config) -> None:
    with pytest.raises(UsageError, match=r"xdc\.video\.short_side = 64: the proxies of .* have 32"):
        check_dataset(dataset, make_config(video__short_side=64))


def test_proxies_are_asked_for_where_there_are_none(dataset: str, make_config, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"has no proxies.*extract\.proxy={}.*xdc\.input=raw"):
        open_video_set(card_of(dataset, tmp_path, proxy=None), make_config(input="proxies"))


def test_an_imported_dataset_has_no_spectrograms(dataset: str, make_config, tmp_path: Path) -> None:
    card = storage.read_json(f"{dataset}/dataset.json")
    del card["config"]
    storage.publish_json(str(tmp_path / "dataset.json"), card | {"imported": {"format": "npy"}})
    with pytest.raises(UsageError, match="has no such track"):
        open_video_set(str(tmp_path), make_config())


def test_a_tar_without_what_its_parquet_lists(dataset: str, make_config, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    shutil.copy(copy / "shards" / "000001.tar", copy / "shards" / "000000.tar")
    with pytest.raises(AbortError, match="shard 000000 lists video clip00, its tar has no clip00"):
        open_video_set(str(copy), make_config())
    (copy / "shards" / "000000.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(AbortError, match=r"000000\.tar: cannot be read"):
        open_video_set(str(copy), make_config())


def test_too_few_videos_are_refused(dataset: str, make_config, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    for name in (copy / "shards").iterdir():
        name.unlink()
    with pytest.raises(AbortError, match="0 videos, extracted and of a split other than test"):
        open_video_set(str(copy), make_config())
