"""XDC from the videos' own files: the same clips, and what becomes of a file that is gone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from extractors.decode import Chunk, decode
from extractors.decode_config import DecodeConfig
from extractors.errors import AbortError, Reason, VideoError
from extractors.probe import probe
from extractors.views import FrameView
from pipeline import storage
from tests.training.xdc.conftest import UNSEEN, extract, extract_config
from training import checkpoints
from training.loop import TrainProgress
from training.xdc.clips import ClipRef
from training.xdc.config import XdcConfig
from training.xdc.loop import train
from training.xdc.raw_files import RawFiles
from training.xdc.reading import ClipLoader, ClipReader
from training.xdc.video_set import VideoSet, open_video_set

CPU = torch.device("cpu")
GONE, BROKEN = "clip02", "clip05"
"""A file that was removed after the extraction, and one that something else was written over."""


@pytest.fixture(scope="module")
def folder(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus as files of its own, some of which are spoilt once `raw_dataset` has been made."""
    folder: Path = tmp_path_factory.mktemp("raw") / "corpus"
    shutil.copytree(corpus.parent, folder)
    return folder


@pytest.fixture(scope="module")
def raw_dataset(folder: Path, corpus: Path) -> str:
    """Without proxies."""
    made = extract(folder / corpus.name, folder.parent / "set", extract_config(proxy=None))
    (folder / f"{GONE}.mp4").unlink()
    (folder / f"{BROKEN}.mp4").write_bytes(b"something else" * 99)
    return made


@pytest.fixture(scope="module")
def config(make_config: Callable[..., XdcConfig]) -> XdcConfig:
    return make_config(method="mdc", iterations=1, checkpoint_steps=1, sampling__held_out=0.1)


@pytest.fixture(scope="module")
def raw_videos(raw_dataset: str, config: XdcConfig) -> VideoSet:
    return open_video_set(raw_dataset, config)


@pytest.fixture(scope="module")
def run(raw_dataset: str, config: XdcConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run: Path = tmp_path_factory.mktemp("raw_run") / "run"
    train(raw_dataset, str(run), config, CPU)
    return run


def numbers(run: Path) -> list[dict[str, float]]:
    clocks = ("clips_per_second", "clustering_seconds")
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in clocks} for line in lines]


def state(run: Path) -> dict[str, torch.Tensor]:
    card = checkpoints.read_card(str(run), "xdc")
    assert card is not None
    assert card["finished"]
    found: dict[str, torch.Tensor] = checkpoints.load_state(str(run), card, CPU)["model"]
    return found


def test_the_files_are_read_where_there_are_no_proxies(
    raw_videos: VideoSet, raw_dataset: str, folder: Path, make_config
) -> None:
    assert raw_videos.input == "raw"
    assert raw_videos.uris[3] == str(folder / "clip03.mp4")
    assert [k for k, seen in zip(raw_videos.keys, raw_videos.seen_N, strict=True) if not seen] == [
        UNSEEN
    ]
    assert open_video_set(raw_dataset, make_config(input="raw")).uris == raw_videos.uris


def test_proxies_are_left_aside_where_that_is_asked_for(dataset, make_config, corpus) -> None:
    assert open_video_set(dataset, make_config()).input == "proxies"
    found = open_video_set(dataset, make_config(input="raw", video__rate=25))  # proxies have 12
    assert found.uris[0] == str(corpus.parent / "clip00.mp4")


@pytest.mark.parametrize(("time", "rate"), [(0.0, 12.0), (0.4, 12.0), (1.0, 12.0), (0.7, 25.0)])
def test_a_clip_has_the_frames_of_a_whole_decode(
    raw_videos: VideoSet, folder: Path, make_config, time: float, rate: float
) -> None:
    config, path = make_config(video__rate=rate), str(folder / "clip03.mp4")
    found = ClipReader(raw_videos, config).frames(ClipRef(3, time, 0.5, 0.5))
    view, decoding = FrameView(rate, 32, 32, "whole", chroma="half"), DecodeConfig()
    chunks = decode(path, probe(path, decoding), [view], decoding)
    whole = np.concatenate([chunk.data for chunk in chunks if isinstance(chunk, Chunk)])
    first = int(time * (raw_videos.duration_N[3] - 4 / rate) * rate + 0.5 + 1e-6)
    rows = np.minimum(np.arange(first, first + 4), len(whole) - 1)
    # 64 x 48 pixels become 42 x 32, of which the middle square is cut
    np.testing.assert_array_equal(found, whole[rows, 4:28, 9:33])


def test_what_cannot_be_read_is_told_with_its_place(
    raw_videos: VideoSet, config: XdcConfig
) -> None:
    places = [raw_videos.keys.index(key) for key in (GONE, "clip00", BROKEN)]
    batch = ClipReader(raw_videos, config).__getitems__([ClipRef(i) for i in places])
    assert batch.failure == ""
    assert [(clip.place, clip.video) for clip in batch.unread] == [(0, places[0]), (2, places[2])]
    assert "not_found" in batch.unread[0].reason
    assert "not_a_video" in batch.unread[1].reason
    assert [bool(frames.any()) for frames in batch.frames_BTHWC] == [False, True, False]
    assert all(mel.any() for mel in batch.mel_BMR)  # the stored track


@pytest.mark.slow
def test_processes_tell_it_too(raw_videos: VideoSet, make_config) -> None:
    config = make_config(sampling__loader_workers=1)
    with ClipLoader(raw_videos, config, CPU, forgiving=True) as loader:
        (batch,) = loader.read([[ClipRef(0), ClipRef(2)]])
    assert batch.unread_places == [1]


def test_an_evaluation_stops_at_what_is_gone(raw_videos: VideoSet, make_config) -> None:
    with (
        ClipLoader(raw_videos, make_config(), CPU) as loader,
        pytest.raises(AbortError, match=r"video clip02: .*clip02\.mp4"),
    ):
        list(loader.read([[ClipRef(2)]]))


def test_a_remote_file_is_fetched_and_removed(folder: Path, corpus: Path) -> None:
    """The last one is kept: clips of a video mostly come one after the other."""
    for name in ("clip00.mp4", "clip01.mp4"):
        storage.publish_bytes(f"memory://raw/{name}", (folder / name).read_bytes())
    files = RawFiles(FrameView(12.0, 32, 32, "whole"), DecodeConfig())
    copies = []
    for name in ("clip00.mp4", "clip00.mp4", "clip01.mp4"):
        found = files.read(f"memory://raw/{name}", 0.5, 4)
        here = RawFiles(FrameView(12.0, 32, 32, "whole"), DecodeConfig())
        np.testing.assert_array_equal(found, here.read(str(folder / name), 0.5, 4))
        copies.append(Path(files._local(f"memory://raw/{name}")))
    assert copies[0] == copies[1]
    assert [copy.exists() for copy in copies] == [False, False, True]
    files.close()
    assert not copies[2].exists()
    for uri in ("memory://raw/none.mp4", "nonsense://raw/x.mp4"):
        with pytest.raises(VideoError) as caught:
            files.read(uri, 0.0, 4)
        assert caught.value.reason in (Reason.NOT_FOUND, Reason.UNREADABLE)


def test_a_run_goes_on_without_what_is_gone(run: Path, raw_dataset: str) -> None:
    card = json.loads((run / "card.json").read_text())
    assert (card["finished"], card["input"], set(card["fingerprints"])) == (True, "raw", {"mel"})
    # 8 clips of 9 videos an epoch, of which one has no picture and two are gone or broken
    assert 0 < card["metrics"]["unread_share"] < 0.5
    labels = pq.read_table(run / "pseudo_labels" / "000000.parquet").to_pydict()
    found = dict(
        zip(labels["key"], zip(labels["video"], labels["audio"], strict=True), strict=True)
    )
    for key in (GONE, BROKEN):
        assert found[key][0] is None
        assert found[key][1] is not None


def test_what_is_gone_is_named_once(raw_dataset: str, config, tmp_path: Path, caplog) -> None:
    train(raw_dataset, str(tmp_path), config.model_copy(update={"epochs": 1}), CPU)
    for key in (GONE, BROKEN):
        said = [record for record in caplog.messages if f"video {key}: " in record]
        assert len(said) == 1
        assert "its picture takes no part there" in said[0]


def test_it_resumes_bit_for_bit(run: Path, raw_dataset: str, config, tmp_path: Path) -> None:
    def stop(progress: TrainProgress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(raw_dataset, str(tmp_path), config, CPU, stop)
    train(raw_dataset, str(tmp_path), config, CPU)
    assert numbers(tmp_path) == numbers(run)
    for name, value in state(tmp_path).items():
        assert torch.equal(value, state(run)[name])


def test_without_any_file_a_run_stops(
    raw_dataset: str, folder: Path, config, tmp_path: Path
) -> None:
    away = folder.rename(folder.with_name("away"))
    try:
        with pytest.raises(AbortError, match="no video's picture can be read"):
            train(raw_dataset, str(tmp_path), config, CPU)
    finally:
        away.rename(folder)


def _work(rank: int, store: str, dataset: str, output: str, config: XdcConfig) -> None:
    torch.set_num_threads(1)
    meeting = dist.FileStore(store, 2)
    dist.init_process_group("gloo", store=meeting, rank=rank, world_size=2)
    train(dataset, output, config, CPU)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_make_the_run_of_one(raw_dataset: str, config, tmp_path: Path) -> None:
    """Each tells the other what it could not read. Tolerances: see test_distributed."""
    slow = {"name": "sgd", "lr": 0.01, "warmup_steps": 0}
    config = XdcConfig.model_validate(config.model_dump() | {"optimiser": slow})
    train(raw_dataset, f"{tmp_path}/one", config, CPU)
    mp.spawn(_work, (f"{tmp_path}/store", raw_dataset, f"{tmp_path}/two", config), nprocs=2)
    for row, other in zip(numbers(tmp_path / "two"), numbers(tmp_path / "one"), strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-4)
    for name, value in state(tmp_path / "two").items():
        torch.testing.assert_close(value, state(tmp_path / "one")[name], rtol=1e-3, atol=1e-4)
