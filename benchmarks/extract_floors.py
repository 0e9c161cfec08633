"""Decoding and whole extraction against their floors, in this process.

floor of decoding      `ffmpeg -i FILE -f null -`: everything decoded, nothing kept
floor of extraction    our decoding + each model's forward pass on ready batches
"""

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from measuring import Cost, Ratio, alternate, ratio, timed

from extractors.build import build_extractor
from extractors.decode import Chunk, decode
from extractors.decode_config import DecodeConfig
from extractors.extractor import Extractor
from extractors.ffmpeg import ffmpeg_binary
from extractors.probe import probe
from extractors.speech import SpeechRecogniser
from extractors.text import build_text_encoder
from extractors.views import View
from extractors.windows import Window, WindowCutter
from pipeline.cli.options import load_config
from pipeline.config import ExtractConfig
from pipeline.jobs import Job, run_job
from pipeline.sources import SourceVideo
from pipeline.worker import Worker

Say = Callable[[str], None]
Costs = dict[str, list[Cost]]


def measure_decode(
    name: str, videos: Sequence[Path], repeats: int, say: Say
) -> tuple[Costs, list[Ratio]]:
    """All views of the reference preset at once, against ffmpeg that keeps nothing."""
    views = views_of(load_config("reference", None, None).extract)
    floor, ours = f"{name}: ffmpeg -f null", f"{name}: decode, reference views"
    parts = {
        floor: lambda: timed(lambda: null_decode(videos)),
        ours: lambda: timed(lambda: drain(videos, views)),
    }
    costs = alternate(parts, repeats, say)
    cpu = {part: [cost.cpu for cost in runs] for part, runs in costs.items()}
    return costs, [ratio(f"decode / ffmpeg -f null, {name}", cpu[ours], cpu[floor], at_most=1.3)]


def measure_extraction(
    name: str, videos: Sequence[Path], repeats: int, say: Say
) -> tuple[Costs, list[Ratio]]:
    """A job of the embedded preset, speech, text and the shard's files included, against the same
    decoding and the same models on windows that lie ready."""
    config = load_config("embedded", None, None).extract
    views = views_of(config)
    floors = f"{name}: decode, embedded views", f"{name}: models on ready batches"
    whole = f"{name}: whole extraction"
    with Worker(config, torch.device("cpu")) as worker, ModelsAlone(config, videos) as models:
        models.run()  # warm-up: allocator, kernels
        parts = {
            floors[0]: lambda: timed(lambda: drain(videos, views)),
            floors[1]: lambda: timed(models.run),
            whole: lambda: timed(lambda: extract(worker, videos)),
        }
        costs = alternate(parts, repeats, say)
    sums = [(a + b).cpu for a, b in zip(*(costs[floor] for floor in floors), strict=True)]
    cpu = [cost.cpu for cost in costs[whole]]
    return costs, [ratio(f"extraction / (decode + models), {name}", cpu, sums, at_most=1.15)]


def views_of(config: ExtractConfig) -> list[View]:
    """What the extractors and the speech recogniser ask the decoder for."""
    views = [build_extractor(settings).view for settings in config.wanted.values()]
    return [*views, SpeechRecogniser.view] if config.speech else views


def null_decode(videos: Sequence[Path]) -> None:
    """One thread, as our decoding has by default: more threads take more CPU seconds."""
    for video in videos:
        command = [ffmpeg_binary(), "-v", "error", "-threads", "1", "-i", str(video)]
        subprocess.run([*command, "-f", "null", "-"], check=True)


def drain(videos: Sequence[Path], views: Sequence[View]) -> None:
    """Probes and decodes as a worker does, and drops every chunk."""
    for video in videos:
        for _ in chunks(video, views):
            pass


def chunks(video: Path, views: Sequence[View]) -> Iterator[Chunk]:
    """Every chunk of every view."""
    decoding = DecodeConfig()
    found = decode(str(video), probe(str(video), decoding), views, decoding)
    return (chunk for chunk in found if isinstance(chunk, Chunk))


def extract(worker: Worker, videos: Sequence[Path]) -> None:
    """One whole job: tar, parquet and record too."""
    sources = tuple(SourceVideo(video.stem, str(video), video.name) for video in videos)
    with tempfile.TemporaryDirectory() as dataset:
        record = run_job(Job(dataset, 0, sources, digest="benchmark"), worker)
    if record.successes != len(videos):
        raise SystemExit(f"{len(videos) - record.successes} videos failed: {record.reasons}")


@dataclass(frozen=True)
class Ready:
    """A loaded extractor and all its windows of all videos."""

    extractor: Extractor
    windows: list[Window]


class ModelsAlone:
    """All models of a configuration, loaded, beside the windows that they are to be given."""

    def __init__(self, config: ExtractConfig, videos: Sequence[Path]) -> None:
        self._extractors = [build_extractor(settings) for settings in config.wanted.values()]
        assert config.speech is not None
        assert config.text is not None
        self._speech, self._text = SpeechRecogniser(config.speech), build_text_encoder(config.text)
        views = views_of(config)
        self._ready = [Ready(extractor, []) for extractor in self._extractors]
        self._spoken: list[list[Window]] = []
        for video in videos:
            self._cut(video, views)

    def _cut(self, video: Path, views: Sequence[View]) -> None:
        cutters = [WindowCutter(extractor.windowing) for extractor in self._extractors]
        hearing = WindowCutter(self._speech.windowing)
        spoken: list[Window] = []
        takers = [(one.extractor.view, cutter, one.windows)
                  for one, cutter in zip(self._ready, cutters, strict=True)]  # fmt: skip
        takers.append((self._speech.view, hearing, spoken))
        for chunk in chunks(video, views):
            for view, cutter, windows in takers:
                if view == chunk.view:
                    windows += cutter.push(chunk.data)
        for _, cutter, windows in takers:
            windows += cutter.finish()
        self._spoken.append(spoken)

    def __enter__(self) -> "ModelsAlone":
        for model in (*self._extractors, self._speech, self._text):
            model.setup(torch.device("cpu"))
        return self

    def __exit__(self, *_: object) -> None:
        for model in (*self._extractors, self._speech, self._text):
            model.close()

    def run(self) -> None:
        """Every model over its windows, in its own batches; text one pass a video."""
        for one in self._ready:
            size = one.extractor.batch_size
            for first in range(0, len(one.windows), size):
                one.extractor.extract(one.windows[first : first + size])
        for windows in self._spoken:
            pieces = [self._speech.recognise(window, n) for n, window in enumerate(windows)]
            self._text.encode_rows([segment.text for piece in pieces for segment in piece])
