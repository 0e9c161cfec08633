import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds

from extractors.tracks import Segment, Track
from pipeline import samples, storage
from pipeline.samples import VideoSample, encode_sample, read_dataset, read_shard, write_tar
from pipeline.shards import FORMAT_VERSION, ShardRecord, shard_url

RECORD = ShardRecord(0, 3, 3, {}, "", 0, "", "", {}, 0.0, "", "")


def sample(key: str, seed: int = 0, *, sound: bool = True, speech: bool = True) -> VideoSample:
    rng = np.random.default_rng((seed, len(key)))
    tracks = {"visual_2d": Track(rng.normal(size=(3, 8)).astype("float16"), start=0.5, hop=1.0)}
    if sound:
        tracks["audio"] = Track(rng.normal(size=(300, 4)).astype("float16"), start=0.0, hop=0.01)
    segments = (Segment(0.0, 1.5, "Grüße, “world”", "asr"),) if speech else ()
    meta = {
        "path": f"{key}.mp4",
        "label": "cooking",
        "duration": 3.0,
        "tracks": {n: {"start": t.start, "hop": t.hop} for n, t in tracks.items()},
    }
    text = rng.normal(size=(1, 6)).astype("float16") if speech else None
    return VideoSample(key, meta, tracks, segments, text)


def publish(dataset: str, made: list[VideoSample], number: int = 0) -> Path:
    with storage.publishing(shard_url(dataset, number, ".tar")) as path:
        write_tar(path, ((one.key, encode_sample(one)) for one in made))
    record = {"format_version": FORMAT_VERSION} | RECORD.__dict__ | {"number": number}
    storage.publish_json(shard_url(dataset, number, "_stats.json"), record)
    return Path(shard_url(dataset, number, ".tar"))


@pytest.fixture
def made() -> list[VideoSample]:
    return [sample("a"), sample("b_-1", 1), sample("c", 2)]


def assert_same(found: VideoSample, expected: VideoSample) -> None:
    assert (found.key, found.meta, found.segments) == (
        expected.key,
        expected.meta,
        expected.segments,
    )
    assert set(found.tracks) == set(expected.tracks)
    for name, track in expected.tracks.items():
        assert (found.tracks[name].start, found.tracks[name].hop) == (track.start, track.hop)
        assert found.tracks[name].rows.dtype == track.rows.dtype
        np.testing.assert_array_equal(found.tracks[name].rows, track.rows)
    assert (found.text is None) == (expected.text is None)
    if expected.text is not None:
        np.testing.assert_array_equal(found.text, expected.text)


@pytest.mark.parametrize("base", ["{}", "memory://samples{}"])
def test_what_is_written_is_read(tmp_path: Path, base: str, made: list[VideoSample]) -> None:
    made.append(sample("silent", sound=False, speech=False))
    publish(base.format(tmp_path), made)
    for found, expected in zip(read_shard(base.format(tmp_path), 0), made, strict=True):
        assert_same(found, expected)


def test_the_same_samples_give_the_same_bytes_in_another_process(
    tmp_path: Path, made: list[VideoSample]
) -> None:
    path = publish(str(tmp_path), made[:1])
    script = (
        "import sys; from pathlib import Path; from pipeline.samples import *; "
        "one = next(read_shard(sys.argv[1], 0)); "
        "write_tar(Path(sys.argv[2]), [(one.key, dict(reversed(encode_sample(one).items())))])"
    )
    other = tmp_path / "other.tar"
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LOGNAME": "someone"}
    command = [sys.executable, "-c", script, str(tmp_path), str(other)]
    subprocess.run(command, check=True, timeout=60, env=environment)
    assert other.read_bytes() == path.read_bytes()


def test_nothing_of_the_machine_is_in_the_tar(tmp_path: Path, made: list[VideoSample]) -> None:
    path = publish(str(tmp_path), made)
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {
        (0, 0, 0, "pipeline", "pipeline", 0o644)
    }
    assert [m.name for m in members[:5]] == [
        "a.audio.npy", "a.meta.json", "a.text.npy", "a.transcript.json", "a.visual_2d.npy",
    ]  # fmt: skip
    assert str(tmp_path).encode() not in path.read_bytes()
    assert samples.__name__ not in {m.name for m in members}


# webdataset leaves the file it opened to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_plain_webdataset_reads_it(tmp_path: Path, made: list[VideoSample]) -> None:
    path = publish(str(tmp_path), made)
    loaded: list[dict[str, Any]] = list(wds.WebDataset(str(path), shardshuffle=False).decode())
    assert [one["__key__"] for one in loaded] == ["a", "b_-1", "c"]
    np.testing.assert_array_equal(loaded[1]["audio.npy"], made[1].tracks["audio"].rows)
    assert loaded[1]["meta.json"] == made[1].meta
    assert loaded[1]["transcript.json"][0]["text"] == "Grüße, “world”"


def test_hugging_face_datasets_reads_it(
    tmp_path: Path, made: list[VideoSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    path = publish(str(tmp_path / "dataset"), made)
    found = datasets.load_dataset(
        "webdataset", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert set(found.column_names) == {
        "__key__", "__url__", "audio.npy", "meta.json", "text.npy", "transcript.json",
        "visual_2d.npy",
    }  # fmt: skip
    rows = np.asarray(found[1]["visual_2d.npy"], dtype="float16")
    np.testing.assert_array_equal(rows, made[1].tracks["visual_2d"].rows)
    assert found[2]["meta.json"]["path"] == "c.mp4"


def test_hugging_face_datasets_reads_videos_without_sound_or_speech(
    tmp_path: Path, made: list[VideoSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the columns from the first five samples: each must have all members, and one of
    the five must have rows, or it takes the column's type for null."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    facts = made[0].meta["tracks"]["audio"] | {"rows": 0, "dim": 40, "dtype": "float16"}
    silent = replace(
        made[0],
        meta=made[0].meta | {"tracks": made[0].meta["tracks"] | {"audio": facts}},
        tracks={name: track for name, track in made[0].tracks.items() if name != "audio"},
        segments=(),
        text=np.zeros((0, 384), np.float16),
    )
    samples = [replace(silent, key=f"silent{i}") for i in range(3)] + made
    path = publish(str(tmp_path / "dataset"), samples)
    found = datasets.load_dataset(
        "webdataset", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(found) == len(samples)
    assert np.asarray(found[0]["audio.npy"]).size == 0
    read = list(read_shard(str(tmp_path / "dataset"), 0))
    assert ("audio" in read[0].tracks, read[0].text) == (False, None)


def test_only_the_wanted_tracks_are_decoded(tmp_path: Path, made: list[VideoSample]) -> None:
    publish(str(tmp_path), made)
    for found in read_shard(str(tmp_path), 0, {"audio"}):
        assert list(found.tracks) == ["audio"]
        assert found.text is None
        assert found.segments
    (first, *_) = read_shard(str(tmp_path), 0, {"text"})
    assert first.tracks == {}
    assert first.text is not None
    assert [one.tracks for one in read_shard(str(tmp_path), 0, set())] == [{}, {}, {}]


class CountingFile(io.BufferedReader):
    """Counts what is read of a file."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        CountingFile.taken += len(content)
        return content


def test_a_shard_is_streamed(
    tmp_path: Path, made: list[VideoSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [VideoSample(f"v{n:03d}", m.meta, m.tracks) for n in range(40) for m in made[:1]]
    path = publish(str(tmp_path), many)
    raw = io.FileIO(path)
    monkeypatch.setattr(storage, "open_binary", lambda url: CountingFile(raw))
    CountingFile.taken = 0
    stream: Iterator[VideoSample] = read_shard(str(tmp_path), 0)
    next(stream)
    assert CountingFile.taken < path.stat().st_size / 4
    assert len(list(stream)) == 39


def test_a_dataset_is_its_published_shards_in_order(
    tmp_path: Path, made: list[VideoSample]
) -> None:
    publish(str(tmp_path), made[1:], number=10)
    publish(str(tmp_path), made[:1], number=2)
    publish(str(tmp_path), [sample("x")], number=5)
    storage.remove(shard_url(str(tmp_path), 5, "_stats.json"))
    assert [found.key for found in read_dataset(str(tmp_path))] == ["a", "b_-1", "c"]


def test_a_shard_without_videos_is_a_tar(tmp_path: Path) -> None:
    path = publish(str(tmp_path), [])
    assert list(read_shard(str(tmp_path), 0)) == []
    with tarfile.open(path) as tar:
        assert tar.getnames() == []


def test_arrays_are_never_pickled(tmp_path: Path) -> None:
    objects = Track(np.array([[{}]], dtype=object), start=0.0, hop=1.0)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        encode_sample(VideoSample("a", {"tracks": {"bad": {}}}, {"bad": objects}))
    members = encode_sample(sample("a"))
    with io.BytesIO() as buffer:
        np.save(buffer, np.array([[{}]], dtype=object), allow_pickle=True)
        members["audio.npy"] = buffer.getvalue()
    with pytest.raises(ValueError, match="allow_pickle=False"):
        samples.decode_sample({"__key__": "a"} | members)


def test_members_are_sorted_json(made: list[VideoSample]) -> None:
    members = encode_sample(made[0])
    assert list(json.loads(members["meta.json"])) == sorted(made[0].meta)
    assert (
        hashlib.sha256(b"".join(members.values())).hexdigest()
        == hashlib.sha256(b"".join(encode_sample(made[0]).values())).hexdigest()
    )
