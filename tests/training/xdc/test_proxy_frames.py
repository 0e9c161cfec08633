"""Frames out of a tar by the proxy's own table are those that decord gives."""

import io
from pathlib import Path

import av
import numpy as np
import pytest

from extractors.errors import VideoError
from extractors.proxy_reader import ProxyReader
from pipeline.samples import read_dataset
from training.xdc.proxy_frames import FrameDecoder, ProxyTable, decoding_runs, read_table

BEFORE = 1024
"""Bytes of other members before the proxy."""


@pytest.fixture(scope="module")
def proxies(dataset: str) -> list[bytes]:
    return [sample.proxy for sample in read_dataset(dataset) if sample.proxy]


def opened(proxy: bytes) -> tuple[io.BytesIO, ProxyTable]:
    file = io.BytesIO(bytes(BEFORE) + proxy + b"other members")
    return file, read_table(file, BEFORE, len(proxy))


def test_the_table_is_the_one_that_ffmpeg_finds(proxies: list[bytes]) -> None:
    for proxy in proxies[:3]:
        _, table = opened(proxy)
        with av.open(io.BytesIO(proxy)) as container:
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.size]
            assert table.rate == stream.average_rate
            assert table.header == stream.codec_context.extradata
        assert table.start_F.tolist() == [packet.pos for packet in packets]
        assert (table.end_F - table.start_F).tolist() == [packet.size for packet in packets]
        keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
        assert len(keys) > 1
        expected = [max(key for key in keys if key <= i) for i in range(len(packets))]
        assert table.key_F.tolist() == expected


def test_any_times_in_any_order_give_decords_frames(proxies: list[bytes]) -> None:
    """One decoder for all proxies, one after the other: nothing of the last is left in it."""
    decoder, rng = FrameDecoder(), np.random.default_rng(0)
    for proxy in proxies:
        file, table = opened(proxy)
        reader = ProxyReader(proxy)
        for count in (1, 4, 9):
            times = rng.uniform(-0.5, 3.5, count).tolist()
            found = decoder.read(file, BEFORE, table, times)
            np.testing.assert_array_equal(found, reader.read(times))
    assert len(decoder._decoders) == 1


def test_only_what_is_needed_is_read_and_decoded() -> None:
    key_F = np.array([0, 0, 0, 3, 3, 3, 6, 6, 6])
    assert decoding_runs(key_F, [1]) == [(0, 1)]
    assert decoding_runs(key_F, [4, 5]) == [(3, 5)]
    assert decoding_runs(key_F, [1, 7]) == [(0, 1), (6, 7)]
    assert decoding_runs(key_F, [2, 3, 4]) == [(0, 2), (3, 4)]
    assert decoding_runs(key_F, [0, 2, 8]) == [(0, 2), (6, 8)]


def test_a_clip_in_the_middle_leaves_the_other_bytes_alone(proxies: list[bytes]) -> None:
    _, table = opened(proxies[0])
    middle = int(table.key_F[14])
    spoilt = bytearray(proxies[0])
    spoilt[table.start_F[0] : table.start_F[middle]] = bytes(
        table.start_F[middle] - table.start_F[0]
    )
    times = [(14 + i + 0.5) / table.rate for i in range(4)]
    found = FrameDecoder().read(io.BytesIO(bytes(BEFORE) + bytes(spoilt)), BEFORE, table, times)
    np.testing.assert_array_equal(found, ProxyReader(proxies[0]).read(times))


def test_times_that_are_none(proxies: list[bytes]) -> None:
    file, table = opened(proxies[0])
    for times in ([], [float("nan")]):
        with pytest.raises(ValueError, match="finite, one or more"):
            FrameDecoder().read(file, BEFORE, table, times)


@pytest.mark.parametrize("content", [b"", b"this is no mp4" * 100])
def test_what_is_no_proxy(content: bytes) -> None:
    with pytest.raises(VideoError, match=r"cannot be read as a proxy: \d+ bytes that are no mp4"):
        opened(content)


def test_a_proxy_cut_short_is_an_error_not_another_frame(proxies: list[bytes]) -> None:
    for share in (0.02, 0.3, 0.6, 0.9):
        with pytest.raises(VideoError, match="cannot be read as a proxy"):
            opened(proxies[0][: int(len(proxies[0]) * share)])


def test_damaged_tables_are_told(proxies: list[bytes]) -> None:
    """Bytes of the table that are changed give an error or a table that fits, nothing else."""
    rng = np.random.default_rng(0)
    size = int.from_bytes(proxies[0][32:36])
    read = 0
    for _ in range(300):
        spoilt = bytearray(proxies[0])
        spoilt[rng.integers(32, 32 + size)] ^= int(rng.integers(1, 256))
        try:
            _, table = opened(bytes(spoilt))
        except VideoError:
            continue
        read += 1
        assert 0 <= table.start_F.min() <= table.end_F.max() <= len(spoilt)
        assert (table.key_F <= np.arange(len(table.key_F))).all()
    assert 0 < read < 270


def test_a_damaged_frame_is_an_error_and_the_next_clip_is_whole(proxies: list[bytes]) -> None:
    file, table = opened(proxies[0])
    times, decoder = [0.05, 0.2], FrameDecoder()
    whole = decoder.read(file, BEFORE, table, times)
    spoilt = bytearray(proxies[0])
    start, end = int(table.start_F[0]), int(table.end_F[0])
    spoilt[start : start + (end - start) // 2] = b"\xff" * ((end - start) // 2)
    with pytest.raises(VideoError, match="a frame cannot be decoded"):
        decoder.read(io.BytesIO(bytes(BEFORE) + bytes(spoilt)), BEFORE, table, times)
    np.testing.assert_array_equal(decoder.read(file, BEFORE, table, times), whole)


def test_frames_out_of_order_are_refused(tmp_path: Path) -> None:
    """B-frames are stored after those that they lie between: no proxy of ours has any."""
    made = tmp_path / "b_frames.mp4"
    with av.open(str(made), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=12, options={"bf": "2", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(24):
            pixels = np.full((64, 64, 3), number * 9, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="order in which they are shown"):
        opened(made.read_bytes())
