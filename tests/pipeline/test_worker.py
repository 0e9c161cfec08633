import gc
import subprocess
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from extractors.captions import read_captions
from extractors.errors import Reason, VideoError
from extractors.extractor import Blocks
from extractors.ffmpeg import ffmpeg_binary
from extractors.log_mel import LogMel
from extractors.mean_colour import MeanColour
from extractors.windows import Window
from pipeline.cli.options import load_config
from pipeline.config import ExtractConfig
from pipeline.samples import VideoSample
from pipeline.sources import SourceVideo
from pipeline.worker import InProgress, Worker, content_id
from tests.pipeline.conftest import Clips

CPU = torch.device("cpu")
SRT = "1\n00:00:00,100 --> 00:00:00,900\nwritten words\n"

Found = list[tuple[InProgress, VideoSample | None]]


def source(path: Path | str, key: str | None = None, captions: str | None = None) -> SourceVideo:
    name = str(path).rpartition("/")[2]
    return SourceVideo(key or name.partition(".")[0], str(path), name, captions=captions)


@pytest.fixture
def extract(config: ExtractConfig) -> Callable[..., Found]:
    def run(videos: Sequence[SourceVideo], settings: ExtractConfig = config) -> Found:
        with Worker(settings, CPU) as worker:
            return list(worker.extract(videos))

    return run


@pytest.fixture(scope="module")
def embedded() -> Iterator[Worker]:
    """The preset's networks, loaded once."""
    with Worker(load_config("embedded", None, None).extract, CPU) as worker:
        yield worker


@pytest.fixture
def colours(clips: Clips) -> list[Path]:
    names = ("red", "lime", "blue", "white", "gray")
    return [clips.make(f"{name}.mp4", name) for name in names]


def test_a_clip_gives_what_it_shows(extract: Callable[..., Found], clip: Path) -> None:
    ((progress, sample),) = extract([source(clip)])
    assert sample is not None
    assert progress.failure is None
    colour = sample.tracks["colour"]
    assert (colour.rows.shape, colour.start, colour.hop) == ((4, 3), 0.125, 0.25)
    np.testing.assert_allclose(colour.rows, [[1, 0, 0]] * 4, atol=0.03)  # mpeg4 is lossy
    assert sample.tracks["audio"].rows.shape[1] == 40
    assert sample.duration == pytest.approx(1.0, abs=0.1)
    assert [facts["absent"] for facts in sample.meta["tracks"].values()] == ["", ""]
    assert sample.meta["content_id"] == content_id(str(clip)) == progress.content_id
    assert sample.meta["path"] == "red.mp4"
    assert str(clip) not in str(sample.meta)


def test_rows_do_not_depend_on_the_neighbours_in_a_batch(
    extract: Callable[..., Found], colours: list[Path]
) -> None:
    together = extract([source(path) for path in colours])
    for path, (_, sample) in zip(colours, together, strict=True):
        ((_, alone),) = extract([source(path)])
        assert sample is not None
        assert alone is not None
        for name, track in alone.tracks.items():
            np.testing.assert_array_equal(sample.tracks[name].rows, track.rows)
        assert sample.meta == alone.meta


def test_network_rows_do_not_depend_on_the_neighbours_in_a_batch(
    embedded: Worker, colours: list[Path]
) -> None:
    together = list(embedded.extract([source(path) for path in colours]))
    for path, (_, sample) in zip(colours[:2], together, strict=False):
        ((_, alone),) = embedded.extract([source(path)])
        assert sample is not None
        assert alone is not None
        assert set(alone.tracks) == {"visual_2d", "visual_3d", "audio"}
        for name, track in alone.tracks.items():
            found, expected = sample.tracks[name].rows, track.rows
            # stored as float16; the kernels' order of sums depends on the batch's size
            tolerance = 2e-3 * np.abs(expected.astype(np.float32)).max()
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_videos_come_in_the_order_given(extract: Callable[..., Found], clips: Clips) -> None:
    short = clips.make("short.mp4", "red", seconds=0.5)
    long = clips.make("long.mp4", "blue", seconds=3.0)
    videos = [source(path, f"v{n}") for n, path in enumerate([long, short, "/no/file.mp4", long])]
    assert [progress.video.key for progress, _ in extract(videos)] == ["v0", "v1", "v2", "v3"]


def test_absent_tracks_say_why(extract: Callable[..., Found], clips: Clips, tmp_path: Path) -> None:
    silent = clips.make("silent.mp4", "red", tone=None)
    ((_, sample),) = extract([source(silent)])
    assert sample is not None
    assert set(sample.tracks) == {"colour"}
    assert sample.meta["tracks"]["audio"]["absent"] == "no sound track"
    assert sample.meta["sound"] is None
    only_sound = tmp_path / "only_sound.wav"
    options = ["-v", "error", "-f", "lavfi", "-i", "sine=f=440:d=1"]
    subprocess.run([ffmpeg_binary(), *options, str(only_sound)], check=True, timeout=60)
    ((_, sample),) = extract([source(only_sound)])
    assert sample is not None
    assert set(sample.tracks) == {"audio"}
    assert sample.meta["tracks"]["colour"]["absent"] == "no picture"


def test_a_window_that_an_extractor_cannot_take_fails_its_video_alone(
    extract: Callable[..., Found], colours: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = extract([source(path) for path in colours])
    original = MeanColour.extract

    def raises_on_white(self: MeanColour, windows: Sequence[Window]) -> list[NDArray[np.float32]]:
        if any(window.data.min() > 230 for window in windows):
            raise RuntimeError("too bright")
        return original(self, windows)

    monkeypatch.setattr(MeanColour, "extract", raises_on_white)
    found = extract([source(path) for path in colours])
    failures = {progress.video.key: progress.failure for progress, _ in found if progress.failure}
    assert list(failures) == ["white"]
    assert failures["white"].reason == Reason.EXTRACTOR_ERROR
    assert failures["white"].stage == "colour"
    assert "RuntimeError: too bright" in failures["white"].message
    for (progress, sample), (_, good) in zip(found, expected, strict=True):
        if progress.video.key != "white":
            assert sample is not None
            assert good is not None
            for name, track in good.tracks.items():
                np.testing.assert_array_equal(sample.tracks[name].rows, track.rows)


def test_rows_that_cannot_be_finished_fail_their_video_alone(
    extract: Callable[..., Found], colours: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter([False, True, False])
    original = LogMel.finish

    def finish(self: LogMel, blocks: Blocks) -> Blocks:
        if next(calls):
            raise ValueError("no")
        return original(self, blocks)

    monkeypatch.setattr(LogMel, "finish", finish)
    found = extract([source(path) for path in colours[:3]])
    assert [sample is None for _, sample in found] == [False, True, False]
    failure = found[1][0].failure
    assert failure is not None
    assert (failure.reason, failure.stage) == (Reason.EXTRACTOR_ERROR, "audio")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda blocks: (block[:-1] for block in blocks), "of 4 rows, 3 were finished"),
        (lambda blocks: [*blocks, *blocks], "could not broadcast"),
    ],
)
def test_a_track_of_another_length_is_that_videos_failure(
    extract: Callable[..., Found],
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Blocks], Blocks],
    said: str,
) -> None:
    monkeypatch.setattr(MeanColour, "finish", lambda _, blocks: change(blocks))
    ((progress, sample),) = extract([source(clip)])
    assert sample is None
    assert progress.failure is not None
    assert said in progress.failure.message


def test_rows_without_columns_are_that_videos_failure(
    extract: Callable[..., Found], colours: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = MeanColour.extract

    def flat(self: MeanColour, windows: Sequence[Window]) -> list[NDArray[np.float32]]:
        return [rows[0] if rows.min() > 0.9 else rows for rows in original(self, windows)]

    monkeypatch.setattr(MeanColour, "extract", flat)
    found = extract([source(path) for path in colours])
    failures = {progress.video.key: progress.failure for progress, _ in found if progress.failure}
    assert list(failures) == ["white"]
    assert "rows are (n, D), got (3,)" in failures["white"].message


def test_a_bug_is_not_a_video_failure(
    extract: Callable[..., Found], clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise AttributeError("typo")

    monkeypatch.setattr(MeanColour, "extract", broken)
    with pytest.raises(AttributeError, match="typo"):
        extract([source(clip)])


def speech_on(config: ExtractConfig, clip: Path, tmp_path: Path) -> tuple[ExtractConfig, Path]:
    """Captions without recognition, and a copy of the clip beside which captions may lie."""
    speech = load_config("embedded", None, ["extract.speech.recognise=false"]).extract.speech
    video = tmp_path / "spoken.mp4"
    video.write_bytes(clip.read_bytes())
    return config.model_copy(update={"speech": speech}), video


def test_captions_beside_a_video_or_named_by_the_source(
    extract: Callable[..., Found], config: ExtractConfig, clip: Path, tmp_path: Path
) -> None:
    settings, video = speech_on(config, clip, tmp_path)
    ((_, without),) = extract([source(video)], settings)
    assert without is not None
    assert (without.segments, without.meta["text_source"]) == ((), "")
    video.with_suffix(".srt").write_text(SRT)
    named = tmp_path / "named.vtt"
    named.write_text("WEBVTT\n\n00:00.000 --> 00:01.000\nnamed words\n")
    found = extract([source(video), source(video, "b", captions=str(named))], settings)
    texts = [[segment.text for segment in sample.segments] for _, sample in found if sample]
    assert texts == [["written words"], ["named words"]]


def test_captions_take_the_place_of_recognition(
    embedded: Worker, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recognise(*_: object) -> None:
        raise AssertionError("recognised in spite of captions")

    assert embedded._speech is not None
    monkeypatch.setattr(embedded._speech, "recognise", recognise)
    video = tmp_path / "spoken.mp4"
    video.write_bytes(clip.read_bytes())
    video.with_suffix(".srt").write_text(SRT)
    ((_, sample),) = embedded.extract([source(video)])
    assert sample is not None
    assert list(sample.segments) == read_captions(str(video.with_suffix(".srt")))
    assert sample.meta["text_source"] == "captions"
    assert sample.text is not None
    assert (sample.text.shape, sample.text.dtype) == ((1, 384), np.float16)
    assert np.linalg.norm(sample.text.astype(np.float32)) == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_bad_captions_fail_their_video(
    extract: Callable[..., Found],
    config: ExtractConfig,
    clip: Path,
    tmp_path: Path,
    content: bytes | None,
) -> None:
    settings, video = speech_on(config, clip, tmp_path)
    captions = tmp_path / "bad.srt"
    if content is not None:
        captions.write_bytes(content)
    found = extract([source(video, captions=str(captions)), source(clip)], settings)
    failure = found[0][0].failure
    assert failure is not None
    assert failure.reason == Reason.BAD_CAPTIONS
    assert "bad.srt" in failure.message
    assert found[1][1] is not None


def test_remote_videos_and_captions_are_fetched(
    extract: Callable[..., Found], config: ExtractConfig, clip: Path, tmp_path: Path
) -> None:
    settings, _ = speech_on(config, clip, tmp_path)
    memory = fsspec.filesystem("memory")
    memory.pipe({"/worker/a b.mp4": clip.read_bytes(), "/worker/a.srt": SRT.encode()})
    found = extract(
        [
            source("memory://worker/a b.mp4", "a", captions="memory://worker/a.srt"),
            source("memory://worker/gone.mp4"),
            source("memory://worker/a b.mp4", "c", captions="memory://worker/gone.srt"),
            source(clip),
        ],
        settings,
    )
    assert found[0][1] is not None
    assert [segment.text for segment in found[0][1].segments] == ["written words"]
    assert [p.failure and p.failure.reason for p, _ in found] == [
        None, Reason.NOT_FOUND, Reason.BAD_CAPTIONS, None,
    ]  # fmt: skip


def test_a_file_that_cannot_be_read_is_a_video_error() -> None:
    with pytest.raises(VideoError, match="unreadable"):
        content_id("/proc/self/mem")


def test_memory_is_bound_by_a_batch_not_by_the_number_of_videos(
    config: ExtractConfig, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MeanColour, "batch_size", 8)  # two clips of four frames
    alive: list[weakref.ref[InProgress]] = []
    most = 0
    with Worker(config, CPU) as worker:
        for progress, _ in worker.extract([source(clip, f"v{n}") for n in range(10)]):
            alive.append(weakref.ref(progress))
            del progress, _
            gc.collect()
            most = max(most, sum(type(o) is InProgress for o in gc.get_objects()))
    assert most <= 3  # a batch of two, and the one just read
    gc.collect()
    assert not any(ref() is not None for ref in alive)
