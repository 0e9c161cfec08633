"""From synthetic feature shards through a tiny trained model to an index that is asked."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from extractors.errors import AbortError, UsageError
from extractors.tracks import Segment, Track
from index.build import BuildProgress, build_index
from index.config import IndexConfig
from index.embedding_shards import embedding_url
from index.embeddings import (
    Embedder,
    embed_shard,
    load_embedder,
    query_from_sample,
    query_from_text_vectors,
)
from index.search import check_model, open_index, search
from pipeline import storage
from pipeline.samples import VideoSample, encode_sample, write_tar
from pipeline.shards import FORMAT_VERSION, ShardRecord, sha256_of, shard_url, write_rows
from training.checkpoints import read_card
from training.clips import Clip, video_clips
from training.config import TrainConfig
from training.embedding import embed_sample
from training.loop import train

CPU = torch.device("cpu")
VISUAL, MELS, WORDS = 6, 40, 5


def make_video(
    number: int, *, segments: int = 2, sound: bool = True, picture: bool = True, seconds: int = 6
) -> VideoSample:
    rng = np.random.default_rng((5, number))

    def rows(count: int, width: int) -> np.ndarray:
        return rng.standard_normal((count, width)).astype(np.float16)

    tracks = {}
    if picture:
        tracks["visual_2d"] = Track(rows(seconds, VISUAL), start=0.5, hop=1.0)
        tracks["visual_3d"] = Track(rows(seconds, VISUAL), start=0.5, hop=1.0)
    if sound:
        tracks["audio"] = Track(10 * rows(seconds * 100, MELS) - 40, start=0.0, hop=0.01)
    edges = np.linspace(0, seconds, segments + 1)
    spoken = [
        Segment(float(edges[i]), float(edges[i + 1]), f"video {number} part {i}", "captions")
        for i in range(segments)
    ]
    meta = {
        "duration": float(seconds),
        "label": f"topic{number % 2}",
        "split": "train",
        "tracks": {name: {"start": t.start, "hop": t.hop} for name, t in tracks.items()},
    }
    text = rows(segments, WORDS) if segments else None
    return VideoSample(f"video{number}", meta, tracks, tuple(spoken), text)


VIDEOS = [
    make_video(0),
    make_video(1, sound=False),
    make_video(2, segments=0, seconds=25),  # three windows
    make_video(3, picture=False),
    make_video(4, picture=False, sound=False),
    make_video(5, segments=1),
]


def write_shard(dataset: str, number: int, samples: Sequence[VideoSample]) -> None:
    tar, parquet = (Path(shard_url(dataset, number, suffix)) for suffix in (".tar", ".parquet"))
    tar.parent.mkdir(parents=True, exist_ok=True)
    write_tar(tar, [(sample.key, encode_sample(sample)) for sample in samples])
    rows = [
        {"key": s.key, "uri": f"/videos/{s.key}.mp4", "status": "success", "rows": []}
        for s in samples
    ]
    write_rows(parquet, rows)
    record = ShardRecord(
        number=number,
        count=len(samples),
        successes=len(samples),
        reasons={},
        tar_sha256=sha256_of(tar),
        tar_bytes=tar.stat().st_size,
        parquet_sha256=sha256_of(parquet),
        job="",
        stage_seconds={},
        video_seconds=1.0,
        started="",
        ended="",
    )
    content = {"format_version": FORMAT_VERSION} | dataclasses.asdict(record)
    storage.publish_json(shard_url(dataset, number, "_stats.json"), content)


def write_dataset(dataset: str) -> None:
    write_shard(dataset, 0, VIDEOS[:4])
    write_shard(dataset, 1, VIDEOS[4:])
    write_shard(dataset, 2, [])  # all its videos failed


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("dataset"))
    write_dataset(url)
    return url


def train_run(dataset: str, run: str, seed: int = 1) -> str:
    config = {
        "seed": seed,
        "epochs": 1,
        "sampling": {"batch_videos": 3, "clips_per_video": 2, "min_time": 2.0},
        "model": {"embedding_dim": 32, "audio_widths": [8], "audio_blocks": 1, "decoder_dim": 8},
        "clustering": {"clusters": 2, "queue_rows": 8},
    }
    train(dataset, run, TrainConfig.model_validate(config), CPU)
    return run


@pytest.fixture(scope="module")
def run(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return train_run(dataset, str(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def embedder(run: str) -> Embedder:
    return load_embedder(run, CPU)


@pytest.fixture
def build(dataset: str, run: str, tmp_path: Path) -> Callable[..., tuple[str, list[BuildProgress]]]:
    def build(**changes: object) -> tuple[str, list[BuildProgress]]:
        settings = {key: value for key, value in changes.items() if key not in ("dataset", "run")}
        progress: list[BuildProgress] = []
        build_index(
            str(changes.get("dataset", dataset)),
            str(changes.get("run", run)),
            str(tmp_path / "index"),
            IndexConfig.model_validate(settings),
            CPU,
            progress.append,
        )
        return str(tmp_path / "index"), progress

    return build


def test_every_clip_is_embedded_with_its_words_label_and_split(build, dataset, run) -> None:
    url, progress = build()
    assert progress[-1] == BuildProgress(done=3, total=3, kept=0)
    rows = [
        row
        for number in (0, 1, 2)
        for row in pq.read_table(embedding_url(url, number, ".parquet")).to_pylist()
    ]
    assert [row["id"] for row in rows] == [
        *["video0@0.000-3.000", "video0@3.000-6.000"],
        *["video1@0.000-3.000", "video1@3.000-6.000"],
        *["video2@0.000-10.000", "video2@10.000-20.000", "video2@20.000-25.000"],
        *["video3@0.000-3.000", "video3@3.000-6.000"],
        *["video4@0.000-3.000", "video4@3.000-6.000"],
        "video5@0.000-6.000",
    ]
    assert [row["text"] for row in rows[3:5]] == ["video 1 part 1", None]
    facts = [rows[2][name] for name in ("uri", "label", "split")]
    assert facts == ["/videos/video1.mp4", "topic1", "train"]
    assert {row["language"] for row in rows} == {None}  # nothing says which
    absent = {
        row["id"]: [name for name, value in row.items() if value is None and name != "language"]
        for row in rows
    }
    assert absent["video0@0.000-3.000"] == []
    assert absent["video1@0.000-3.000"] == ["audio_embedding"]
    assert absent["video2@0.000-10.000"] == ["text", "text_embedding"]
    assert absent["video3@0.000-3.000"] == ["video_embedding"]
    assert absent["video4@0.000-3.000"] == ["video_embedding", "audio_embedding", "sum_embedding"]

    index = open_index(url)
    assert (index.card.count, index.card.clips, index.card.dimension) == (10, 12, 32)
    run_card = read_card(run)
    assert run_card is not None
    assert index.card.dataset_digest == run_card["dataset_digest"]


def test_shots_are_read_and_each_is_a_clip(run: str, embedder: Embedder, tmp_path: Path) -> None:
    video = make_video(0)
    rows = np.zeros((6, 1), np.float32)
    rows[3] = 0.9
    shots = Track(rows, start=0.5, hop=1.0)
    meta = video.meta | {"tracks": video.meta["tracks"] | {"shots": {"start": 0.5, "hop": 1.0}}}
    tracks = video.tracks | {"shots": shots}
    write_shard(str(tmp_path), 0, [dataclasses.replace(video, meta=meta, tracks=tracks)])
    table = embed_shard(embedder, str(tmp_path), 0, config=IndexConfig(clips="shots"))
    assert table.column("id").to_pylist() == ["video0@0.000-4.000", "video0@4.000-6.000"]
    clips = (Clip(0, 4), Clip(4, 6))
    expected = embed_sample(embedder.run.model, video, clips, embedder.run.config, CPU)
    video_ND = np.stack(table.column("video_embedding").to_pylist())
    np.testing.assert_allclose(video_ND, expected.vectors["video"], atol=1e-5)


def test_embeddings_are_those_the_model_gives(build, embedder: Embedder) -> None:
    url, _ = build()
    table = pq.read_table(embedding_url(url, 0, ".parquet")).to_pylist()
    loaded = embedder.run
    sample = VIDEOS[0]
    alone = embed_sample(loaded.model, sample, video_clips(sample, 10.0), loaded.config, CPU)
    for name in ("video", "audio", "text"):
        stored = [row[f"{name}_embedding"] for row in table[:2]]
        # other clips of the batch change the order of float32 sums only
        assert np.allclose(stored, alone.vectors[name], atol=1e-5)
    expected = alone.vectors["video"] + alone.vectors["audio"]
    assert np.allclose([row["sum_embedding"] for row in table[:2]], expected, atol=1e-5)


def test_a_clips_own_words_find_it(build, embedder: Embedder) -> None:
    url, _ = build(targets=["text"])
    sample = VIDEOS[1]
    assert sample.text is not None
    (hit,) = search(open_index(url), query_from_text_vectors(embedder, sample.text[1:]), k=1)
    assert hit.id == "video1@3.000-6.000"
    assert hit.score == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("number", [3, 5])
def test_a_file_finds_itself(build, embedder: Embedder, number: int) -> None:
    url, _ = build()
    query_D = query_from_sample(embedder, VIDEOS[number], ["video", "audio"])
    assert search(open_index(url), query_D, k=1)[0].video == f"video{number}"


def test_a_file_is_asked_by_the_modalities_named(embedder: Embedder) -> None:
    both, sound, picture = (
        query_from_sample(embedder, VIDEOS[0], modalities)
        for modalities in (["audio", "video"], ["audio"], ["video"])
    )
    assert np.allclose(both, sound + picture, atol=1e-5)
    assert not np.allclose(sound, picture, atol=0.1)


def test_a_file_without_the_modality_is_refused_by_name(embedder: Embedder) -> None:
    with pytest.raises(UsageError, match="query video1: has no audio to search with"):
        query_from_sample(embedder, VIDEOS[1], ["audio"])


def test_text_vectors_of_another_model_are_refused(embedder: Embedder) -> None:
    with pytest.raises(UsageError, match=rf"\(rows, {WORDS}\)"):
        query_from_text_vectors(embedder, np.ones((1, WORDS + 1)))


def test_a_second_run_keeps_all_and_a_changed_shard_is_redone(
    tmp_path: Path, run: str, build
) -> None:
    mine = str(tmp_path / "dataset")
    write_dataset(mine)
    build(dataset=mine)
    assert build(dataset=mine)[1][-1].kept == 3
    write_shard(mine, 1, VIDEOS[4:5])
    url, progress = build(dataset=mine)
    assert progress[-1].kept == 2
    assert open_index(url).card.clips == 11


def test_another_model_redoes_all_and_its_queries_are_told_apart(
    tmp_path: Path, dataset: str, embedder: Embedder, build
) -> None:
    url, _ = build()
    check_model(open_index(url), embedder.digest)
    other = train_run(dataset, str(tmp_path / "other"), seed=2)
    assert build(run=other)[1][-1].kept == 0
    with pytest.raises(AbortError, match="made with model"):
        check_model(open_index(url), embedder.digest)


def test_a_models_digest_is_that_of_its_weights(
    tmp_path: Path, dataset: str, run: str, embedder: Embedder
) -> None:
    again = train_run(dataset, str(tmp_path / "again"))
    assert load_embedder(again, CPU).digest == load_embedder(run, CPU).digest == embedder.digest


def test_a_folder_without_a_model_is_refused(build, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no card\.json"):
        build(run=str(tmp_path / "nowhere"))


def test_targets_that_the_model_does_not_know_are_refused(tmp_path: Path) -> None:
    silent, run = str(tmp_path / "silent"), str(tmp_path / "run")
    write_shard(silent, 0, [make_video(i, sound=False) for i in range(3)])
    train_run(silent, run)
    config = IndexConfig(targets=("audio",))
    with pytest.raises(UsageError, match="targets = audio: the model knows video, text only"):
        build_index(silent, run, str(tmp_path / "index"), config, CPU, lambda progress: None)
