"""Clips out of shards: the proxy's own frames, the stored spectrogram's own rows."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.config import LogMelConfig
from extractors.errors import AbortError
from extractors.log_mel import XdcLogMel
from extractors.proxy_reader import ProxyReader
from extractors.windows import Window
from pipeline.samples import read_dataset
from tests.training.xdc.conftest import SILENT, UNSEEN
from training.xdc.clips import ClipRef, uniform_clips
from training.xdc.reading import ClipLoader, ClipReader, cut_square, read_npy_rows
from training.xdc.video_set import VideoSet

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def samples(dataset: str):
    return {sample.key: sample for sample in read_dataset(dataset)}


@pytest.mark.parametrize("time", [0.0, 0.3, 0.77, 1.0])
@pytest.mark.parametrize("by", ["packets", "decord"])
def test_frames_are_the_proxys_from_the_clips_start_on(
    videos, make_config, samples, time, by
) -> None:
    """4 frames at 12 a second of 2.4 s: the first can begin from frame 0 to frame 24.8."""
    clip = ClipRef(2, time)
    found = ClipReader(videos, make_config(sampling__proxy_reader=by)).frames(clip)
    reader = ProxyReader(samples["clip02"].proxy)
    start = time * (videos.duration_N[2] - 4 / 12)
    first = int(start * 12 + 0.5)
    every = reader.read([(i + 0.5) / 12 for i in range(reader.num_frames)])
    np.testing.assert_array_equal(found, every[first : first + 4, 4:28, 9:33])


def test_another_rate_takes_the_frame_that_is_shown(videos, make_config, samples) -> None:
    found = ClipReader(videos, make_config(video__rate=4)).frames(ClipRef(0, 0.0))
    shown = ProxyReader(samples["clip00"].proxy).read([0.125, 0.375, 0.625, 0.875])
    np.testing.assert_array_equal(found, shown[:, 4:28, 9:33])


def test_the_square_is_cut_where_the_shares_say() -> None:
    frames = np.arange(2 * 10 * 20 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 10, 20, 3)
    first = cut_square(frames, ClipRef(0, 0, 0.0, 0.0), 10, 6)
    np.testing.assert_array_equal(first, frames[:, :6, :6])
    last = cut_square(frames, ClipRef(0, 0, 0.999, 0.999), 10, 6)
    np.testing.assert_array_equal(last, frames[:, 4:, 14:])
    mirrored = cut_square(frames, ClipRef(0, 0, 0.0, 0.0, True), 10, 6)
    np.testing.assert_array_equal(mirrored, first[:, :, ::-1])


def test_larger_proxies_are_scaled() -> None:
    """A left half black, a right half white, in twice the size: the edge stays in the middle."""
    frames = np.zeros((1, 40, 60, 3), np.uint8)
    frames[:, :, 30:] = 255
    found = cut_square(frames, ClipRef(0, 0), 20, 16)
    assert found.shape == (1, 16, 16, 3)
    assert found[:, :, :7].max() == 0
    assert found[:, :, 9:].min() == 255


@pytest.mark.parametrize("time", [0.0, 0.5, 1.0])
def test_a_spectrogram_is_the_mel_of_the_clips_own_sound(
    videos, make_config, samples, corpus, time
) -> None:
    """Cut from the stored rows, it is that of the sound cut at the same hop: float16 keeps 11
    bits, so values up to 30 differ by 0.015 at most; the AAC decoder is the same."""
    from extractors.decode import Chunk, decode
    from extractors.decode_config import DecodeConfig
    from extractors.probe import probe

    found = ClipReader(videos, make_config()).spectrogram(ClipRef(1, time))
    path, mel = str(corpus.parent / "clip01.mp4"), XdcLogMel(LogMelConfig(front_end="xdc"))
    chunks = decode(path, probe(path, DecodeConfig()), (mel.view,), DecodeConfig())
    sound = np.concatenate([chunk.data for chunk in chunks if isinstance(chunk, Chunk)])
    duration = videos.duration_N[1]
    middle = time * (duration - 4 / 12) + 2 / 12
    begins = min(max(0, middle - 0.4), duration - 0.8)
    assert abs(begins + 0.4 - middle) < 0.25  # synchronous, but for the ends of the video
    first = round(begins / 0.02) * 320
    cut = np.pad(sound[first : first + 40 * 320], (0, 256))
    (expected,) = mel.extract([Window(cut, 40 * 320)])
    # the last row of a clip of its own sees the zeros behind it
    np.testing.assert_allclose(found[:39], expected[: len(found)][:39], atol=0.016)
    assert len(found) == 40


def test_what_a_video_lacks_is_zero(videos: VideoSet, make_config) -> None:
    places = [videos.keys.index(key) for key in (SILENT, UNSEEN, "clip00")]
    batch = ClipReader(videos, make_config()).__getitems__([ClipRef(i) for i in places])
    assert batch.failure == ""
    assert batch.frames_BTHWC.shape == (3, 4, 24, 24, 3)
    assert batch.mel_BMR.shape == (3, 40, 40)
    assert [bool(frames.any()) for frames in batch.frames_BTHWC] == [True, False, True]
    assert [bool(mel.any()) for mel in batch.mel_BMR] == [False, True, True]


def test_a_sound_that_is_too_short_ends_in_silence(videos: VideoSet, make_config) -> None:
    batch = ClipReader(videos, make_config(audio__seconds=6)).__getitems__([ClipRef(0)])
    assert batch.mel_BMR.shape == (1, 40, 300)
    assert bool(batch.mel_BMR[0, :, 115].any())
    assert not bool(batch.mel_BMR[0, :, 125:].any())


@pytest.mark.parametrize(("by", "kept"), [("packets", "_tables"), ("decord", "_opened")])
def test_few_proxies_are_kept(videos: VideoSet, make_config, by: str, kept: str) -> None:
    reader = ClipReader(videos, make_config(sampling__open_proxies=2, sampling__proxy_reader=by))
    for video in (0, 1, 2, 1, 0):
        reader.frames(ClipRef(video))
    assert list(getattr(reader, kept)) == [1, 0]


def test_processes_read_what_this_one_reads(videos: VideoSet, make_config) -> None:
    """In the order of the plan, one plan after the other, some batches empty."""
    plan = [uniform_clips(i, 2) for i in (3, 1, 2)]
    plans = [[*plan, []], [[ClipRef(5, 0.1, 0.2, 0.3, True)]]]
    found = []
    for workers in (0, 1):
        config = make_config(sampling__loader_workers=workers)
        with ClipLoader(videos, config, CPU) as loader:
            found.append([batch for each in plans for batch in loader.read(each)])
    assert [len(batch.frames_BTHWC) for batch in found[0]] == [2, 2, 2, 0, 1]
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.frames_BTHWC, other.frames_BTHWC)
        assert torch.equal(one.mel_BMR, other.mel_BMR)


def test_a_damaged_proxy_is_named(videos: VideoSet, make_config, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(videos.dataset, copy)
    tar = copy / "shards" / "000000.tar"
    content = bytearray(tar.read_bytes())
    offset, size = videos.proxy_N2[1]
    content[offset : offset + size] = bytes(size)
    tar.write_bytes(content)
    damaged = replace(videos, dataset=str(copy))
    with (
        ClipLoader(damaged, make_config(), CPU) as loader,
        pytest.raises(AbortError, match=r"shard 000000, video clip01: .*cannot be read as a proxy"),
    ):
        list(loader.read([[ClipRef(0)], [ClipRef(1)]]))


def test_rows_of_an_array_in_the_middle_of_a_file() -> None:
    rows = np.arange(60, dtype=np.float16).reshape(20, 3)
    file = io.BytesIO()
    file.write(b"other members")
    np.save(file, rows)
    for first, count in ((0, 4), (7, 5), (18, 9), (-3, 2), (30, 4)):
        found = read_npy_rows(file, 13, first, count)
        start = max(0, first)
        np.testing.assert_array_equal(found, rows[start : start + count])
    wrong = io.BytesIO()
    np.save(wrong, rows.astype(np.float32))
    with pytest.raises(ValueError, match="float32"):
        read_npy_rows(wrong, 0, 0, 1)
